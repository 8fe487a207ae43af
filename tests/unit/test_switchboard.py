"""The switchboard: every run ends exactly once for the driver, whatever happens to workers and slots."""

import asyncio

import pytest

from study.distributed.switchboard import Switchboard
from study.types import EpochResult, RunOutcome, RunSpec

RETRIES = {"preempted": 3, "out_of_memory": 1, "crash": 2}
OOM = ("out_of_memory", "CUDA out of memory")


def spec(trial="0", reported=0, **options):
    options = {"retries": RETRIES} | options
    return RunSpec(trial=trial, seed=0, attempt=1, directory="", config={}, reported_epoch=reported, **options)


def epoch(number):
    return EpochResult(epoch=number, metrics={}, images=1, seconds=1.0)


def play(scene):
    """Run a coroutine; one that waits for ever fails the test."""
    return asyncio.run(asyncio.wait_for(scene(), timeout=5))


async def soon():
    """Let the others run until they wait."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_worker_waits_for_the_decision_on_its_epoch():
    """An epoch is answered with the driver's decision, not before."""

    async def scene():
        board = Switchboard()
        await board.submit(spec())
        await board.take(0)
        asked = asyncio.create_task(board.epoch("0-s0", 1, epoch(1)))
        await soon()
        assert not asked.done()
        assert await board.next_event("0-s0") == ("started", None)
        assert (await board.next_event("0-s0"))[1].epoch == 1
        await board.decide("0-s0", 1, True)
        return await asked

    assert play(scene) is True


def test_a_refused_run_is_forgotten_and_its_slot_takes_the_next():
    """After a refusal nobody waits for the run any more, and its late end does no harm."""

    async def scene():
        board = Switchboard()
        await board.submit(spec("0"))
        await board.submit(spec("1"))
        await board.take(0)
        asked = asyncio.create_task(board.epoch("0-s0", 1, epoch(1)))
        await soon()
        await board.decide("0-s0", 1, False)
        assert await asked is False
        await board.end("0-s0", 1, RunOutcome(state="pruned"))
        return (await board.take(0))[1]

    assert play(scene).trial == "1"


@pytest.mark.parametrize("decided", [True, False])
def test_a_lost_run_is_handed_out_again_from_the_last_decided_epoch(decided):
    """When a worker dies, the epochs that were decided are not told again, and one that was not is asked again."""

    async def scene():
        board = Switchboard()
        await board.submit(spec())
        await board.take(0)
        lost = asyncio.create_task(board.epoch("0-s0", 1, epoch(1)))
        await soon()
        if decided:
            await board.decide("0-s0", 1, True)
        _, again = await board.take(0)
        assert (again.attempt, again.reported_epoch) == (2, 1 if decided else 0)
        asked = asyncio.create_task(board.epoch("0-s0", 2, epoch(1)))
        await soon()
        assert asked.done() == decided  # its checkpoint may be lost: what was decided is not decided again
        await board.decide("0-s0", 1, True)
        assert await asked is True
        lost.cancel()
        await board.end("0-s0", 1, RunOutcome(state="complete"))  # of the attempt that died: dropped
        await board.end("0-s0", 2, RunOutcome(state="failed"))
        kinds = [await board.next_event("0-s0") for _ in range(5)]
        return [kind for kind, _ in kinds], kinds[-1][1].state

    assert play(scene) == (["started", "epoch", "retry", "started", "end"], "failed")


def test_a_run_that_kills_its_worker_every_time_fails_in_the_end():
    """A run is tried a few times, then it has failed, and the slot is free."""

    async def scene():
        board = Switchboard()
        await board.submit(spec("0"))
        for _ in range(3):
            assert (await board.take(0))[1].trial == "0"
        await board.submit(spec("1"))
        _, other = await board.take(0)
        events = [await board.next_event("0-s0") for _ in range(6)]
        return other.trial, [kind for kind, _ in events], events[-1][1]

    trial, kinds, end = play(scene)
    assert kinds == ["started", "retry", "started", "retry", "started", "end"]
    assert (trial, end.state, end.failure) == ("1", "failed", "crash")
    assert "died; 3 times" in end.reason


@pytest.mark.parametrize(("kind", "tries"), [("preempted", 4), ("crash", 3), ("bad_configuration", 1)])
def test_each_kind_of_failure_has_its_own_retries(kind, tries):
    """A preemption uses up the tries after a crash, or a configuration that cannot work is tried again."""

    async def scene():
        board = Switchboard()
        await board.submit(spec())
        attempts = []
        for _ in range(tries):
            attempts.append((await board.take(0))[1].attempt)
            await board.fault("0-s0", attempts[-1], (kind, "why"))
        events = [await board.next_event("0-s0") for _ in range(2 * tries)]
        assert [event for event, _ in events] == ["started", "retry"] * (tries - 1) + ["started", "end"]
        retries = [payload for event, payload in events if event == "retry"]
        assert [(retry.kind, retry.attempt, retry.parts) for retry in retries] == [
            (kind, attempt, 1) for attempt in attempts[:-1]
        ]
        assert (events[-1][1].state, events[-1][1].failure) == ("failed", kind)
        assert attempts == list(range(1, tries + 1))

    play(scene)


def test_an_epoch_makes_up_for_failures():
    """A long run on nodes that come and go fails after as many losses as a short one that gets nowhere."""

    async def scene():
        board = Switchboard()
        await board.submit(spec())
        for number in range(1, 8):
            _, run = await board.take(0)
            asked = asyncio.create_task(board.epoch("0-s0", run.attempt, epoch(number)))
            await soon()
            await board.decide("0-s0", number, True)
            assert await asked
            await board.lose(0, "preempted", "its node is gone")
        _, run = await board.take(1)
        assert (run.attempt, run.reported_epoch) == (8, 7)
        assert await board.vacate(0) == ("", 7)

    play(scene)


def test_failures_before_a_restart_of_the_driver_count():
    """After each resume a run that cannot work gets all of its tries again."""

    async def scene():
        board = Switchboard()
        await board.submit(spec(failed={"crash": 2}))
        _, run = await board.take(0)
        await board.fault("0-s0", run.attempt, ("crash", "RuntimeError: boom"))
        kinds = [await board.next_event("0-s0") for _ in range(2)]
        assert kinds[1][1].reason == "RuntimeError: boom; 3 times without an epoch in between"

    play(scene)


def test_a_run_whose_node_is_gone_waits_for_no_other_slot():
    """The run stays with a slot that has no workers until new ones ask, although another slot is free."""

    async def scene():
        board = Switchboard()
        await board.submit(spec())
        await board.take(0)
        other = asyncio.create_task(board.take(1))
        await soon()
        await board.lose(0, "preempted", "its node is gone")
        return (await other)[1].attempt

    assert play(scene) == 2


@pytest.mark.parametrize("how", ["interrupt", "give_up"])
def test_what_cannot_run_any_more_stays_open(how):
    """After an interrupt, or when no slot is left, runs end as waiting, later ones too."""

    async def scene():
        board = Switchboard()
        await board.submit(spec("0"))
        await board.submit(spec("1"))
        await board.take(0)
        if how == "interrupt":
            await board.interrupt()
            await board.end("0-s0", 1, RunOutcome(state="waiting"))
        else:
            await board.give_up("all dead")
        await board.submit(spec("2"))
        ends = []
        for run in ("0-s0", "1-s0", "2-s0"):
            kind = ""
            while kind != "end":
                kind, payload = await board.next_event(run)
            ends.append(payload.state)
        return ends

    assert play(scene) == ["waiting", "waiting", "waiting"]


def test_a_closed_board_sends_the_slots_home():
    """A slot that waits for a run leaves when the study is over."""

    async def scene():
        board = Switchboard()
        waiting = asyncio.create_task(board.take(0))
        await soon()
        await board.close()
        return await waiting

    assert play(scene) == ("close", None)


def test_the_call_of_a_worker_that_died_idle_takes_no_run():
    """Ray goes on with the call of a dead caller; the slot's new worker gets the run all the same."""

    async def scene():
        board = Switchboard()
        zombie = asyncio.create_task(board.take(0))
        await soon()
        living = asyncio.create_task(board.take(0))
        await soon()
        await board.submit(spec())
        return await zombie, (await living)[1].trial

    assert play(scene) == (("again", None), "0")


def test_a_slot_without_work_is_asked_to_come_again():
    """Nobody waits for ever: other ranks wait for the answer inside a collective that has a time limit."""

    async def scene():
        return await Switchboard().take(0, wait_s=0.01)

    assert play(scene) == ("again", None)


def test_a_run_refused_while_it_is_queued_again_is_gone():
    """A refusal that comes after the worker died leaves no dead entry in the queue."""

    async def scene():
        board = Switchboard()
        await board.submit(spec("0"))
        await board.take(0)
        lost = asyncio.create_task(board.epoch("0-s0", 1, epoch(1)))
        await soon()
        await board.retire(0)
        await board.decide("0-s0", 1, False)
        lost.cancel()
        await board.interrupt()
        return await board.take(0, wait_s=0.01)

    assert play(scene) == ("again", None)


def test_an_abandoned_run_lets_its_worker_go():
    """When the process that followed a trial dies, the worker that waits for its answer is refused."""

    async def scene():
        board = Switchboard()
        await board.submit(spec("0"))
        await board.take(0)
        asked = asyncio.create_task(board.epoch("0-s0", 1, epoch(1)))
        await soon()
        await board.abandon("0-s0")
        assert await asked is False
        await board.submit(spec("0"))
        return (await board.take(0))[1].trial

    assert play(scene) == "0"


def test_a_run_without_memory_is_tried_again_in_smaller_parts():
    """A lack of memory fails the run at once, is tried for ever, or goes on as if nothing had been changed."""

    async def scene():
        board = Switchboard()
        await board.submit(spec())
        _, first = await board.take(0)
        await board.fault("0-s0", first.attempt, OOM)
        await board.fault("0-s0", first.attempt, ("out_of_memory", "the other rank, at the same step"))
        _, second = await board.take(0)
        assert (first.parts, second.parts) == (1, 2)
        assert second.attempt == first.attempt + 1
        await board.fault("0-s0", second.attempt, OOM)
        events = [await board.next_event("0-s0") for _ in range(4)]
        assert [kind for kind, _ in events] == ["started", "retry", "started", "end"]
        assert events[1][1].parts == 2
        assert "CUDA out of memory" in events[1][1].text
        assert (events[3][1].state, events[3][1].failure) == ("failed", "out_of_memory")
        assert "also with 2 times as many micro-batches" in events[3][1].reason

    play(scene)


def test_what_cannot_get_smaller_is_not_tried_again():
    """A run of one image at a time is tried again in the same size."""

    async def scene():
        board = Switchboard()
        await board.submit(spec())
        _, run = await board.take(0)
        await board.fault("0-s0", run.attempt, OOM, can_shrink=False)
        return [await board.next_event("0-s0") for _ in range(2)][1][1].reason

    assert play(scene) == "out of memory: CUDA out of memory"


@pytest.mark.parametrize("after", [("host", 4), ("host", 3), ("other", 9)], ids=["killed", "crashed", "elsewhere"])
def test_a_worker_that_the_kernel_killed_for_memory(after):
    """A worker killed for want of memory is started again just as large, or any death counts as one."""

    async def scene():
        board = Switchboard()
        await board.submit(spec())
        await board.take(0, kills=("host", 3))
        _, again = await board.take(0, kills=after)
        assert again.parts == (2 if after == ("host", 4) else 1)
        assert again.attempt == 2

    play(scene)


def test_a_worker_that_ray_killed_for_memory():
    """What Ray's memory monitor did is not told to the run that it hit, or is told to the next one, too."""

    async def scene():
        board = Switchboard()
        await board.submit(spec("0"))
        await board.submit(spec("1"))
        await board.take(0)
        await board.lose(0, "out_of_memory", "Ray killed the worker process")
        _, again = await board.take(0)
        assert (again.trial, again.parts) == ("0", 2)
        await board.end("0-s0", again.attempt, RunOutcome(state="complete"))
        _, other = await board.take(0)
        _, lost = await board.take(0)
        assert (other.trial, lost.trial, lost.parts) == ("1", "1", 1)

    play(scene)


def run_of(trial, seed):
    return RunSpec(trial=trial, seed=seed, attempt=1, directory="", config={})


def test_runs_of_a_trial_are_followed_together():
    """Events of several runs come from one place, each with its run, and the feed ends with its last run."""

    async def scene():
        board = Switchboard()
        for seed in (0, 1):
            await board.submit(run_of("7", seed), feed="7")
        assert [(await board.take(slot))[1].run_id for slot in (0, 1)] == ["7-s0", "7-s1"]
        await board.end("7-s1", 1, RunOutcome(state="complete"))
        await board.end("7-s0", 1, RunOutcome(state="failed"))
        heard = [await board.next_of("7") for _ in range(4)]
        return [(run, kind, getattr(payload, "state", None)) for run, kind, payload in heard], board._feeds

    heard, feeds = play(scene)
    assert heard == [
        ("7-s0", "started", None),
        ("7-s1", "started", None),
        ("7-s1", "end", "complete"),
        ("7-s0", "end", "failed"),
    ]
    assert feeds == {}


def test_runs_that_are_held_back_wait_for_their_turn_or_for_room():
    """A run that may be needless takes a slot from another trial, or an idle slot stays idle at the end."""

    async def scene():
        board = Switchboard()
        for seed in range(4):
            await board.submit(run_of("0", seed), feed="0", spare=seed > 0)
        taken = [(await board.take(slot, wait_s=0.01)) for slot in (0, 1)]
        await board.submit(run_of("1", 0), feed="1")
        await board.advance("0")
        taken += [(await board.take(slot, wait_s=0.01)) for slot in (1, 2, 3)]
        waiting = asyncio.create_task(board.take(3))
        await soon()
        await board.open_room()
        taken.append(await waiting)
        await board.interrupt()
        return [order[1].run_id if order[1] else order[0] for order in taken], (await board.next_of("0"))[1]

    assert play(scene) == (["0-s0", "again", "1-s0", "0-s1", "again", "0-s2"], "started")


def test_a_dropped_trial_stops_all_of_its_runs():
    """A run of a pruned trial trains on, a run that waits begins, or another trial is stopped, too."""

    async def scene():
        board = Switchboard()
        for seed in range(3):
            await board.submit(run_of("0", seed), feed="0", spare=seed == 2)
        await board.submit(run_of("1", 0), feed="1")
        for slot in range(3):
            await board.take(slot)
        watched = [asyncio.create_task(board.wait_dropped(run, 1)) for run in ("0-s0", "0-s1", "1-s0")]
        asked = asyncio.create_task(board.epoch("0-s0", 1, epoch(1)))
        await soon()
        await board.drop("0")
        assert await asked is False
        assert await board.epoch("0-s1", 1, epoch(1)) is False
        assert [await watched[0], await watched[1]] == [True, True]
        await board.end("1-s0", 1, RunOutcome(state="complete"))
        assert await watched[2] is False
        await board.open_room()
        return (await board.take(0, wait_s=0.01))[0]

    assert play(scene) == "again"


def test_a_run_on_a_node_that_is_drained_saves_and_goes_on_in_another_slot():
    """The run is told to stop too late or ends for good, its slot takes another one, or other slots stop as well."""

    async def scene():
        board = Switchboard()
        await board.submit(spec())
        await board.placed(0, "group", ["leaving", "staying"])
        await board.placed(1, "group", ["staying"])
        await board.take(0)
        stops = [asyncio.create_task(board.wait_stop(slot)) for slot in (0, 1)]
        await soon()
        assert await board.leave(["nobody's"]) == []
        await soon()
        assert [stop.done() for stop in stops] == [False, False]
        assert await board.leave(["leaving"]) == [0]
        await soon()
        assert [stop.done() for stop in stops] == [True, False]
        await board.end("0-s0", 1, RunOutcome(state="waiting"))
        assert await board.take(0) == ("close", None)
        order, again = await board.take(1)
        assert (order, again.attempt) == ("run", 2)
        await board.vacate(0)  # its workers are somewhere else when they ask again
        await board.submit(spec("1"))
        await board.interrupt()
        await soon()
        await board.end("0-s0", 2, RunOutcome(state="waiting"))
        events = [await board.next_event("0-s0") for _ in range(4)]
        assert all(stop.done() for stop in stops)
        return [kind for kind, _ in events], events[1][1].kind, events[-1][1].state

    assert play(scene) == (["started", "retry", "started", "end"], "preempted", "waiting")


def test_a_slot_that_waits_for_work_on_a_node_that_is_drained_leaves_at_once():
    """It takes a run after all, or stays until the node is killed under it."""

    async def scene():
        board = Switchboard()
        await board.placed(0, "group", ["leaving"])
        taking = asyncio.create_task(board.take(0))
        await soon()
        await board.leave(["leaving"])
        return await taking

    assert play(scene) == ("close", None)


@pytest.mark.parametrize("at_epoch", [False, True])
def test_a_run_that_is_moved_has_not_failed(at_epoch):
    """It counts as a retry, is told an epoch twice, or is stopped in mid-epoch although that can wait."""

    async def scene():
        board = Switchboard()
        await board.submit(spec(retries=dict.fromkeys(RETRIES, 0)))
        await board.take(0, workers=2)
        stop = asyncio.create_task(board.wait_stop(0))
        await board.move(0, at_epoch)
        await soon()
        assert stop.done() is not at_epoch
        await board.decide("0-s0", 1, True)
        assert await board.epoch("0-s0", 1, epoch(1)) is True
        await soon()
        assert stop.done()
        await board.end("0-s0", 1, RunOutcome(state="waiting"))
        assert await board.take(0) == ("close", None)
        _, again = await board.take(1, workers=1)
        await board.end("0-s0", again.attempt, RunOutcome(state="complete"))
        events = [await board.next_event("0-s0") for _ in range(4)]
        return [kind for kind, _ in events], again.reported_epoch

    assert play(scene) == (["started", "epoch", "started", "end"], 1)


def test_a_retry_says_how_many_workers_the_attempt_had():
    """Nobody can tell afterwards how many workers an attempt had."""

    async def scene():
        board = Switchboard()
        await board.submit(spec())
        await board.take(0, workers=4)
        await board.lose(0, "preempted", "gone")
        return [await board.next_event("0-s0") for _ in range(2)][1][1]

    assert play(scene).workers == 4
