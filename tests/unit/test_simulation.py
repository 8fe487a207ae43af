"""The simulation of a cluster: closed forms, what must never happen, and numbers that add up."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.ledger.pruning import HalvingPruner
from tests.bench.simulate_check import RECORDED, predicted_s, recorded_s, times_of
from tests.bench.simulate_cluster import COSTS, SIZES, Plan, Simulation, averaged, sensitivity, simulate, table, values

FREE = dict.fromkeys(
    (
        "trial_start_s",
        "compile_s",
        "slot_start_s",
        "start_cpu_s",
        "suggest_0_ms",
        "suggest_n_ms",
        "report_ms",
        "finish_ms",
        "tell_ms",
        "checkpoint_mb",
    ),
    0.0,
)
EQUAL = Plan(gpus=8, trials=24, epochs=3, is_pruned=False, confirm_runs=0, cores_per_gpu=1e6, stored_bytes=0.0)
EPOCH_S = (180_000 + 60_000 / 3) / 195


def test_equal_trials_by_hand():
    """24 trials of 3 epochs on 8 GPUs are three after each other; every constant that a trial pays is paid thrice."""
    free = simulate(EQUAL, **FREE)
    assert free.hours * 3600 == pytest.approx(9 * EPOCH_S)
    assert (free.epochs, free.full_trials, free.busy_share) == (72, 24, pytest.approx(1))
    assert free.gpu_hours == pytest.approx(8 * free.hours)
    assert free.cost == pytest.approx(3 * free.gpu_hours)
    paid = simulate(
        EQUAL, **FREE | {"trial_start_s": 10.0, "compile_s": 5.0, "slot_start_s": 7.0, "checkpoint_mb": 400.0}
    )
    assert paid.hours * 3600 == pytest.approx(9 * (EPOCH_S + 2) + 3 * 15 + 7)
    assert paid.written_bytes == pytest.approx(72 * 400e6)


def test_slots_start_one_after_the_other():
    """Each takes 8 s of one of four cores: the last of eight begins after 16 s."""
    found = simulate(replace(EQUAL, trials=8, driver_cores=4.0), **FREE | {"start_cpu_s": 8.0, "slot_start_s": 3.0})
    assert found.hours * 3600 == pytest.approx(16 + 3 * EPOCH_S)


def test_confirmation_by_hand():
    """9 runs of 3 epochs on 4 GPUs come after the search, in three turns."""
    found = simulate(replace(EQUAL, gpus=4, confirm_runs=9), **FREE)
    assert found.search_hours * 3600 == pytest.approx(18 * EPOCH_S)
    assert found.hours * 3600 == pytest.approx((18 + 9) * EPOCH_S)


def test_bytes_by_hand():
    """On shared storage every image of every epoch is read; on nodes the dataset once for each node."""
    plan = replace(EQUAL, gpus=16, stored_bytes=1e5)
    images = plan.train_images + plan.val_images
    assert simulate(replace(plan, cache="shared"), **FREE).read_bytes == pytest.approx(72 * images * 1e5)
    assert simulate(plan, **FREE).read_bytes == pytest.approx(2 * images * 1e5)
    slow = simulate(plan, **FREE | {"shared_gb_per_s": 0.01})
    assert slow.hours * 3600 == pytest.approx(2 * images * 1e5 / 1e7 + (2 * 3 - 1) * EPOCH_S)


@pytest.mark.parametrize(
    "odd", [{"gpus": 0}, {"gpus": -5}, {"gpus": 4, "workers": 8}, {"trials": 0}, {"price": math.nan}, {"price": -1.0}]
)
def test_plans_that_cannot_be(odd):
    """They have no answer, and get none."""
    with pytest.raises(ValueError, match=r"expected|there are"):
        Plan(**odd)


@pytest.mark.parametrize("cache", ["node", "shared"])
def test_more_gpus_are_never_slower_until_the_driver_saturates(cache):
    """Without pruning; and a driver that takes a minute for a report decides alone, however many GPUs wait for it."""
    plan = replace(EQUAL, trials=96, cache=cache, stored_bytes=3e5)
    hours = [simulate(replace(plan, gpus=gpus)).hours for gpus in (1, 2, 4, 8, 16, 32, 64, 96, 200)]
    assert hours == sorted(hours, reverse=True)
    for gpus in (32, 96):
        busy = simulate(replace(plan, gpus=gpus), report_ms=60_000.0)
        assert busy.hours * 3600 >= 96 * 3 * 60
        assert busy.hours * 3600 <= 1.25 * 96 * 3 * 60
        assert 0.8 < busy.load <= 1.0
        assert busy.longest_wait_s > 60


@settings(max_examples=15, deadline=None)
@given(
    gpus=st.sampled_from([1, 3, 8, 16, 40]),
    workers=st.sampled_from([1, 2]),
    trials=st.integers(1, 60),
    is_pruned=st.booleans(),
    cache=st.sampled_from(["node", "shared"]),
    seed=st.integers(0, 5),
)
def test_what_holds_for_every_plan(gpus, workers, trials, is_pruned, cache, seed):
    """No more work than there is, no less than the least; shares are shares; the same seed gives the same answer."""
    workers = min(workers, gpus)
    plan = Plan(
        gpus=gpus, workers=workers, trials=trials, epochs=9, is_pruned=is_pruned, cache=cache, seed=seed, confirm_runs=2
    )
    found = simulate(plan)
    assert found == simulate(plan)
    confirm = 2 * 9
    assert min(3, plan.epochs) * trials + confirm <= found.epochs <= 9 * trials + confirm
    assert found.epochs == 9 * trials + confirm or is_pruned
    assert 1 <= found.full_trials <= trials
    for share in (found.busy_share, found.load, found.busiest_minute):
        assert 0 < share <= 1.0 + 1e-3  # what begins in a minute counts for it
    images = plan.train_images + plan.val_images
    times = plan.nodes if cache == "node" else found.epochs
    assert found.read_bytes == pytest.approx(times * images * plan.stored_bytes) or plan.nodes > trials
    rate = 195 * workers * (0.97 if workers > 1 else 1)
    least = found.epochs * (plan.train_images + plan.val_images / 3) / rate / plan.slots
    assert found.hours * 3600 >= least * (1 - 1e-9)


def test_pruning_decides_as_the_study_does():
    """The same values at the same rungs stop the same trials as the pruner of the ledger."""
    simulation = Simulation(Plan(min_epochs=2, reduction_factor=3, epochs=20), values())
    pruner, known = HalvingPruner(min_epochs=2, reduction_factor=3), []
    for number in range(60):
        value = math.sin(7.0 * number)
        known.append(value)
        assert simulation._stops(2, value) != pruner._goes_on(value, known[:-1], is_max=True)
    assert [epoch for epoch in range(1, 20) if simulation._stops(epoch, -9.0)] == [2]  # alone at 6 and 18 it goes on


def test_the_table_and_the_sensitivity():
    """A line for each size; a constant that limits is at the top, and twice of it has the sign that it must have."""
    base = Plan(trials=64, epochs=6)
    lines = table({gpus: simulate(replace(base, gpus=gpus)) for gpus in SIZES}).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {gpus:,}" for gpus in SIZES]
    rows = sensitivity(replace(base, gpus=32))
    assert {name for name, _, _ in rows} >= set(COSTS)
    assert rows[0][0] == "gpu_images_per_s"
    assert rows[0][1] > rows[0][2]
    assert all(cost.origin and cost.unit for cost in COSTS.values())


def test_stopping_by_lot():
    """Each rung lets a third go on, so of 900 trials 300 reach the second rung and about 33 the end."""
    plan = Plan(gpus=8, trials=900, epochs=28, is_drawn=True, confirm_runs=0)
    found = simulate(plan)
    assert found.full_trials == pytest.approx(900 / 27, rel=0.5)
    assert found.epochs == pytest.approx(900 * 3 + 300 * 6 + 100 * 18 + 33 * 1, rel=0.1)
    mean = averaged(replace(plan, trials=40), seeds=3)
    assert mean.hours == pytest.approx(
        sum(simulate(replace(plan, trials=40, seed=seed)).hours for seed in range(3)) / 3
    )


def test_limits_of_the_study_hold():
    """No more slots than the study starts, and none without a run."""
    assert Plan(gpus=1024).slots == 1000
    assert Plan(gpus=1024, trials=50).slots == 50
    assert Plan(gpus=64, workers=8).slots == 8
    assert Plan(gpus=64, workers=8).nodes == 8


def test_a_pilot_becomes_a_prediction():
    """By hand: start 5 s, trials of 3 epochs of 2 s and 1 s beside them, two slots, 4 s at the end."""
    lines = []
    for slot in range(2):
        at = 6.0  # a slot's first trial is 1 s slower than its others
        for turn in range(2):
            run = f"{2 * turn + slot}-s0"
            began = 5.0 if turn == 0 else at
            lines.append({"event": "run.started", "run": run, "at": began})
            at = (at if turn == 0 else began) + 6 + 1
            lines += [{"event": "run.epoch", "run": run, "at": at, "numbers": {"seconds": 2.0}}] * 3
            lines.append({"event": "run.ended", "run": run, "at": at})
    times = times_of(24.0, lines)
    assert times == pytest.approx({"epoch_s": 2.0, "start_s": 6.0, "beside_s": 1.0, "end_s": 4.0})
    assert predicted_s(times, trials=4) == pytest.approx(24.0)
    assert predicted_s(times, trials=12) == pytest.approx(6 + 6 * 7 + 4)


def test_beside_a_recorded_study():
    """A hundred trials of two seconds took a sixth longer than simulated; docs/at-scale.md says by how much."""
    off = recorded_s() / RECORDED["study_s"] - 1
    assert -0.15 < off < 0
    text = (Path(__file__).parents[2] / "docs" / "at-scale.md").read_text(encoding="utf-8")
    assert f"short by {-off:.0%}" in text
    assert f"gives {recorded_s():.0f} s" in text
