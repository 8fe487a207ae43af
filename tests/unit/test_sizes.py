"""How many slots with how many workers fit, and when a slot changes its size."""

import pytest

from study.config import ResourcesConfig
from study.distributed.cluster import Capacity
from study.distributed.sizes import GROW_PAUSE_S, IDLE_S, PATIENT_LOOKS, Changes, Need, Sizing, arrange


def cluster(cpus, gpus=0.0):
    return Capacity(cpus=cpus, gpus=gpus, node_cpus=cpus, node_gpus=gpus)


def resources(workers, concurrent="auto", **more):
    return ResourcesConfig(workers=workers, concurrent=concurrent, **more)


@pytest.mark.parametrize(
    ("workers", "concurrent", "cpus", "gpus", "most", "slots"),
    [
        (2, "auto", 7, 0, 9, [2, 2]),  # each takes 3 with its loading
        (2, "auto", 2, 0, 9, []),
        ([1, 4], "auto", 5, 0, 9, [4]),
        ([1, 4], "auto", 5, 0, 1, [4]),
        ([1, 4], "auto", 4, 0, 9, [2]),  # one processor is left, which does not do for another slot
        ([1, 4], "auto", 7, 0, 9, [4, 1]),
        ([1, 4], "auto", 13, 0, 9, [4, 4, 2]),
        ([1, 4], "auto", 13, 0, 2, [4, 4]),
        ([1, 4], "auto", 1, 0, 9, []),
        ([1, 4], "auto", 99, 6, 9, [4, 2]),  # the GPUs decide
        ([2, 4], "auto", 99, 5, 9, [4]),
        ([1, 4], 2, 99, 4, 2, [2, 2]),  # two that were asked for come first
        ([1, 4], 2, 99, 3, 2, [2, 1]),
        ([1, 4], 2, 99, 1, 2, [1]),
        ([1, 4], 2, 99, 99, 2, [4, 4]),
        ([2, 6], 1, 99, 5, 1, [3]),  # 5 would not divide a batch as 6 do
    ],
)
def test_slots_that_fit(workers, concurrent, cpus, gpus, most, slots):
    """Slots that were asked for do not exist, or one is too large, or does not divide the largest."""
    more = {"gpus_per_worker": 1.0} if gpus else {}
    assert arrange(resources(workers, concurrent, **more), cluster(cpus, gpus), most) == slots


def look(sizing, wanted, live, *, now=0.0, has_room=True, settled=None, cpus=8):
    settled = frozenset(live if settled is None else settled)
    return sizing.changes(wanted, live, cluster(cpus), settled=settled, has_room=has_room, now=now)


def test_what_is_missing_is_started_and_what_is_too_large_has_to_go():
    """A slot is started twice, in the wrong size, or keeps workers for which there is no room."""
    assert look(Sizing(), [4, 2, 1], {}) == Changes(start=(4, 2, 1))
    assert look(Sizing(), [4, 2], {5: 2}) == Changes(start=(4,))
    assert look(Sizing(), [2, 1], {0: 4}) == Changes(start=(2,), too_large=(0,))
    assert look(Sizing(), [2], {0: 4}, settled=[]) == Changes()  # its workers are not there yet
    assert look(Sizing(), [2], {0: 2, 1: 2}) == Changes()  # the surplus is somebody else's business


def test_a_run_grows_when_there_has_been_room_for_a_while_and_not_again_at_once():
    """A run is moved for room that is gone in the next moment, or every epoch."""
    sizing = Sizing()
    for _ in range(PATIENT_LOOKS - 1):
        assert look(sizing, [4, 4], {0: 4, 1: 2}).grow is None
    assert look(sizing, [4, 4], {0: 4, 1: 2}, has_room=False).grow is None  # others have it: the count begins again
    found = [look(sizing, [4, 4], {0: 4, 1: 2}).grow for _ in range(PATIENT_LOOKS)]
    assert found == [None] * (PATIENT_LOOKS - 1) + [1]
    found = [look(sizing, [4, 4], {0: 4, 1: 2}, now=GROW_PAUSE_S / 2).grow for _ in range(2 * PATIENT_LOOKS)]
    assert set(found) == {None}
    found = [look(sizing, [4, 4], {0: 4, 1: 2}, now=GROW_PAUSE_S / 2, cpus=9).grow for _ in range(PATIENT_LOOKS)]
    assert found[-1] == 1  # a node has come since
    sizing = Sizing()
    assert [look(sizing, [4, 4], {0: 4, 1: 2}).grow for _ in range(PATIENT_LOOKS)][-1] == 1
    found = [look(sizing, [4, 4], {0: 4, 1: 2}, now=GROW_PAUSE_S + 1).grow for _ in range(PATIENT_LOOKS)]
    assert found[-1] == 1


def test_a_slot_that_is_of_no_use_is_given_back_after_a_while():
    """A study keeps slots for which it has no run, gives one back that it wants in the next moment, or all of them."""
    need = Need(most=4)
    assert [need.slots(1, now=now) for now in (0, IDLE_S + 1)] == [4, 4]  # further trials begin
    need.is_last = True
    assert [need.slots(4, now=100), need.slots(2, now=101), need.slots(2, now=100 + IDLE_S)] == [4, 4, 4]
    assert [need.slots(runs, now=101 + IDLE_S) for runs in (2, 3, 9)] == [2, 3, 4]  # more count at once
    assert [need.slots(0, now=now) for now in (200, 200 + IDLE_S)] == [4, 1]
    need.left = 3  # the runs that confirm are handed out one by one
    assert need.slots(1, now=300) == 3
    need.left = None
    assert [need.slots(1, now=now) for now in (400, 410, 400 + IDLE_S)] == [3, 3, 1]
