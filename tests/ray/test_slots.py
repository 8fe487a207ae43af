"""Warm slots: runs one after another in the same workers, and what happens when a worker dies."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray
import torch

from study import checkpoint
from study.data.digest import batch_digest, combined
from study.data.shards import open_dataset
from study.distributed import slots
from study.distributed.runs import build_run, evaluate_best
from study.distributed.slots import SlotPool, run_directly
from study.distributed.specs import make_spec
from study.training.batch_log import read_batches

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def config(study_of):
    """A study that trains for three epochs."""
    return study_of("slots", train={"epochs": 3, "batch_size": 12})


@pytest.fixture(scope="module")
def pool(cluster, tmp_path_factory):
    """One slot of one worker, shared by the tests that leave it usable."""
    scratch = tmp_path_factory.mktemp("scratch")
    pool = SlotPool(1, workers=1, cpus_per_worker=1.0, gpus_per_worker=0.0, scratch=scratch)
    yield pool
    pool.close()


def small(config, cpus):
    """The same study with less of a CPU for each worker, so that it finds room beside the module's pool."""
    return config.model_copy(update={"resources": config.resources.model_copy(update={"cpus_per_worker": cpus})})


def run_all(pool, specs, on_event=lambda *_: None, stop=None, concurrent=1):
    """Run specifications; the outcomes by run."""
    ends = {}

    def hear(spec, kind, payload):
        on_event(spec, kind, payload)
        if kind == "end":
            ends[spec.run_id] = payload

    run_directly(pool, specs, concurrent=concurrent, on_event=hear, stop=stop or threading.Event())
    return ends


def metrics_of(directory):
    return repr([dict(epoch.metrics) for epoch in checkpoint.load_last(Path(directory)).history])


def test_runs_follow_each_other_in_one_worker_and_do_not_touch_each_other(pool, config, tmp_path):
    """The second run of a seed, in a worker that has run others, gives the curve of the first; it starts at once."""
    specs = [make_spec(tmp_path, str(i), seed, config=config, attempt=1) for i, seed in enumerate([0, 1, 0])]
    ends = run_all(pool, specs)
    assert {end.state for end in ends.values()} == {"complete"}
    assert metrics_of(specs[0].directory) == metrics_of(specs[2].directory)
    assert metrics_of(specs[0].directory) != metrics_of(specs[1].directory)
    assert (Path(specs[0].directory) / "predictions_val.parquet").exists()


def test_a_run_whose_worker_is_killed_goes_on_from_its_checkpoint(pool, config, tmp_path):
    """SIGKILL inside an epoch costs nothing: same images, same weights, same curve, each epoch heard once, in order."""
    config = config.model_copy(update={"train": config.train.model_copy(update={"batch_size": 4})})
    often = config.model_copy(update={"train": config.train.model_copy(update={"checkpoint_every": "1 step"})})
    calm = make_spec(tmp_path, "0", 0, config=config, attempt=1)
    rough = make_spec(tmp_path, "1", 0, config=often, attempt=1)
    heard = []

    def kill_in_the_second_epoch():
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            pointed = sorted(Path(rough.directory).glob("checkpoints/step_*"))
            if pointed and 14 <= int(pointed[-1].name[5:13]) <= 19:  # an epoch has twelve steps
                os.kill(worker_pid(), signal.SIGKILL)
                return
            time.sleep(0.002)

    def on_event(spec, kind, payload):
        if spec.trial == "1" and kind == "epoch":
            heard.append(payload.epoch)

    killer = threading.Thread(target=kill_in_the_second_epoch)
    killer.start()
    ends = run_all(pool, [calm, rough], on_event)
    killer.join()
    assert ends["1-s0"].state == "complete"
    assert heard == [1, 2, 3]
    assert metrics_of(calm.directory) == metrics_of(rough.directory)
    stretches = [json.loads(line) for line in (Path(rough.directory) / "batches.jsonl").read_text().splitlines()]
    again = next(stretch for stretch in stretches if stretch["attempt"] > 1)
    assert again["first_step"] % 12, "the run went on at the end of an epoch"
    one, other = (checkpoint.load_last(Path(spec.directory)) for spec in (calm, rough))
    assert all(torch.equal(one.model[key], other.model[key]) for key in one.model)
    assert read_batches(Path(calm.directory)) == read_batches(Path(rough.directory))
    assert [epoch.batches for epoch in one.history] == [epoch.batches for epoch in other.history]


def worker_pid():
    """The process of the slot's only training worker, a child of this cluster's raylet."""
    session = ray._private.worker._global_node.get_session_dir_path().encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if not (entry / "cmdline").read_bytes().startswith(b"ray::RayTrainWorker"):
                continue
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            if session in Path("/proc", parent, "cmdline").read_bytes():
                return int(entry.name)
        except OSError:
            continue
    raise AssertionError("no training worker is running")


def test_a_fault_of_one_run_costs_that_run(pool, config, tmp_path, make_dataset):
    """A loss that is not finite is named with its step, a damaged shard by its name; the slot takes the next run."""
    wild = config.model_copy(update={"optim": config.optim.model_copy(update={"lr": 1e30, "clip_norm": None})})
    torn = make_dataset(tmp_path / "torn")
    shard = torn / "shards" / "b.arrow"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    broken = config.model_copy(update={"data": config.data.model_copy(update={"prepared": str(torn)})})
    specs = [make_spec(tmp_path, str(i), 0, config=one, attempt=1) for i, one in enumerate([wild, broken, config])]
    ends = run_all(pool, specs)
    assert ends["0-s0"].state == ends["1-s0"].state == "failed"
    assert "at step" in ends["0-s0"].reason
    assert "shard b.arrow has checksum" in ends["1-s0"].reason
    assert ends["2-s0"].state == "complete"


@pytest.mark.long
def test_an_interrupted_run_saves_and_a_closed_pool_leaves_nothing_behind(cluster, config, tmp_path):
    """An interrupt ends the run as waiting, with a checkpoint; then no actor, placement group or CPU stays taken."""
    # Placement groups of the module's pool are still there; this pool may add none that outlives it.
    before = alive_groups()
    pool = SlotPool(1, workers=1, cpus_per_worker=0.4, gpus_per_worker=0.0, scratch=tmp_path / "scratch")
    long = small(config, 0.4).model_copy(update={"train": config.train.model_copy(update={"epochs": 500})})
    spec = make_spec(tmp_path, "0", 0, config=long, attempt=1)
    stop = threading.Event()

    def on_event(_, kind, payload):
        if kind == "epoch" and payload.epoch == 2:
            stop.set()
            pool.interrupt()

    ends = run_all(pool, [spec], on_event, stop)
    assert ends["0-s0"].state == "waiting"
    state = checkpoint.load_last(Path(spec.directory))
    steps_per_epoch = state.history[0].images // config.train.batch_size
    assert state.step > len(state.history) * steps_per_epoch  # inside the epoch that was interrupted
    pool.close()
    deadline = time.monotonic() + 20
    while alive_groups() != before and time.monotonic() < deadline:
        time.sleep(0.2)
    assert alive_groups() == before


def test_two_workers_train_one_model(cluster, config, tmp_path):
    """Two ranks share the batches of one worker, end with one checkpoint, and evaluate it to the bit as one worker."""
    shared = small(config, 0.3)
    pool = SlotPool(1, workers=2, cpus_per_worker=0.3, gpus_per_worker=0.0, scratch=tmp_path / "scratch")
    spec = make_spec(tmp_path, "0", 0, config=shared, attempt=1)
    ends = run_all(pool, [spec])
    assert ends["0-s0"].state == "complete", ends["0-s0"].reason
    two = run_all(pool, [make_spec(tmp_path, "0", 0, config=shared, attempt=2, kind="evaluate")])["0-s0"]
    pool.close()
    directory = Path(spec.directory)
    table = pq.read_table(directory / "predictions_val.parquet")
    dataset = open_dataset(config.data.prepared)
    assert table["image_id"].to_pylist() == dataset.manifest["image_id"][dataset.rows("val")].tolist()
    parts, plan = build_run(shared, seed=0)
    one = evaluate_best(parts, directory, split="test", device=torch.device("cpu"), write=False)
    assert repr(sorted(one.metrics.items())) == repr(sorted(two.metrics.items()))
    ids_n, size = dataset.id_hashes_n[dataset.rows("train")], config.train.batch_size
    planned = [batch_digest(ids_n[rows], first_draw=step * size) for step, rows in enumerate(plan.indices())]
    found = read_batches(directory)
    assert [combined(found[step]) for step in range(plan.num_steps)] == planned
    assert {len(ranks) for ranks in found.values()} == {2}


def alive_groups():
    """Ids of the placement groups that hold or wait for resources."""
    table = ray.util.placement_group_table()
    return {key for key, group in table.items() if group["state"] != "REMOVED"}


def narrow_loop(config):
    """The loop of a worker that has no room for more than six images at once."""
    import torch

    from study.distributed import worker
    from study.training import step

    forward = step._forward

    def narrow(run, part):
        if len(part.batch.labels_n) > 6:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return forward(run, part)

    step._forward = narrow
    worker.slot_loop(config)


@pytest.mark.long
def test_a_run_without_memory_goes_on_in_smaller_parts(cluster, config, tmp_path, monkeypatch):
    """A lack of memory costs the run or the worker, is tried more than once again, or is not told."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(slots, "_loop", narrow_loop)
    pool = SlotPool(1, workers=1, cpus_per_worker=0.4, gpus_per_worker=0.0, scratch=tmp_path / "scratch")
    one = small(config, 0.4).model_copy(update={"train": config.train.model_copy(update={"epochs": 1})})
    # 48 images are 12 in each of four parts, which do not fit either; with 24 they are 6.
    huge = one.model_copy(update={"train": one.train.model_copy(update={"batch_size": 48})})
    large = one.model_copy(update={"train": one.train.model_copy(update={"batch_size": 24})})
    fits = one.model_copy(update={"train": one.train.model_copy(update={"batch_size": 6})})
    specs = [make_spec(tmp_path, str(i), 0, config=each, attempt=1) for i, each in enumerate([one, huge, fits, large])]
    heard = []
    ends = run_all(pool, specs, lambda spec, kind, payload: heard.append((spec.trial, kind, payload)))
    pool.close()
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    assert [end.state for end in ends.values()] == ["complete", "failed", "complete", "complete"]
    assert [payload.parts for trial, kind, payload in heard if (trial, kind) == ("3", "retry")] == [2, 4]
    assert [kind for trial, kind, _ in heard if trial == "0"] == ["started", "retry", "started", "epoch", "end"]
    assert [kind for trial, kind, _ in heard if trial == "2"] == ["started", "epoch", "end"]
    told = next(payload for _, kind, payload in heard if kind == "retry")
    assert told.parts == 2
    assert "CUDA out of memory" in told.text
    assert "also with 4 times as many micro-batches: OutOfMemoryError" in ends["1-s0"].reason
    assert ends["1-s0"].failure == "out_of_memory"


TRACES = Path()


def traced_loop(config):
    """The loop of a worker whose loading tasks note their processes in a file of the worker."""
    from study.distributed import stream, worker

    load, file = stream.load_rows, TRACES / str(os.getpid())

    def load_rows(*args, **options):
        with file.open("a") as out:
            out.write(f"{os.getpid()}\n")
        return load(*args, **options)

    stream.load_rows = load_rows
    worker.slot_loop(config)


@pytest.mark.long
def test_slots_of_a_node_share_their_loading_processes(cluster, config, tmp_path, monkeypatch):
    """A process that has loaded for one slot loads for the other as well; there are not twice as many."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    (tmp_path / "traces").mkdir()
    monkeypatch.setattr(sys.modules[__name__], "TRACES", tmp_path / "traces")
    monkeypatch.setattr(slots, "_loop", traced_loop)
    pool = SlotPool(2, workers=1, cpus_per_worker=0.2, gpus_per_worker=0.0, scratch=tmp_path / "scratch")
    many = small(config, 0.2).model_copy(
        update={
            "sampler": config.sampler.model_copy(update={"epoch_draws": 3000}),
            "train": config.train.model_copy(update={"epochs": 1, "batch_size": 48}),
        }
    )
    specs = [make_spec(tmp_path, str(i), i, config=many, attempt=1) for i in range(4)]
    ends = run_all(pool, specs, concurrent=2)
    pool.close()
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    assert {end.state for end in ends.values()} == {"complete"}
    loaders = [set(file.read_text().split()) for file in (tmp_path / "traces").iterdir()]
    assert len(loaders) == 2, "one slot did all the work"
    assert loaders[0] & loaders[1]
