"""How many slots there are, and with how many workers each: what fits the cluster, and when a slot changes its size."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from study.config import ResourcesConfig, StudyConfig
from study.distributed.cluster import Capacity

EPSILON: Final = 1e-9
MOST_SLOTS: Final = 1000
PATIENT_LOOKS: Final = 3  # looks in a row that find room for more workers, before a run is moved for them
IDLE_S: Final = 20.0  # that a slot has been of no use, before it is given to a study that can use it
GROW_PAUSE_S: Final = 300.0  # a slot that has just been moved stays for so long, whatever there is room for


def slot_cpus(resources: ResourcesConfig) -> float:
    """CPUs of one slot with all its workers, and a core for its loading tasks (a worker's share when that is less)."""
    return resources.most_workers * resources.cpus_per_worker + min(1.0, resources.cpus_per_worker)


def fitting_slots(resources: ResourcesConfig, available: Capacity) -> int:
    """Slots that find room at once; leaving out the loading task's share would stall every run in Ray Data."""
    slots = math.floor(available.cpus / slot_cpus(resources) + EPSILON)
    if resources.gpus_per_worker:
        slots = min(slots, math.floor(available.gpus / resources.most_gpus + EPSILON))
    return slots


def fewest(resources: ResourcesConfig) -> ResourcesConfig:
    """The same with the fewest workers with which a run may do."""
    return resources.sized(resources.sizes[0])


def most_slots(config: StudyConfig) -> int:
    """Slots that a study may come to have: what its file asks for, or one for each run."""
    if config.resources.concurrent != "auto":
        return int(config.resources.concurrent)
    runs = config.num_trials * len(config.run_keys) or MOST_SLOTS  # 0: only time ends the search
    if config.confirm is not None:
        runs = max(runs, len(config.confirm.seeds))
    return min(runs, MOST_SLOTS)


def arrange(resources: ResourcesConfig, available: Capacity, most: int) -> list[int]:
    """Workers of each slot that there is room for, the largest slot first; at most ``most`` slots, and maybe none.

    ``concurrent: auto`` gives each slot as many workers as fit before there is another one; a number of slots that was
    asked for comes first, and then they grow in turn.
    """
    if len(resources.sizes) == 1:
        return [resources.most_workers] * min(most, fitting_slots(resources, available))
    if resources.concurrent == "auto":
        return _filled(resources, available, most)
    return _spread(resources, available, min(most, fitting_slots(fewest(resources), available)))


def _filled(resources: ResourcesConfig, available: Capacity, most: int) -> list[int]:
    found: list[int] = []
    for size in reversed(resources.sizes):
        slot = resources.sized(size)
        count = min(most - len(found), fitting_slots(slot, available))
        found += [size] * count
        available = replace(
            available,
            cpus=available.cpus - count * slot_cpus(slot),
            gpus=available.gpus - count * slot.most_gpus,
        )
    return found


def _spread(resources: ResourcesConfig, available: Capacity, count: int) -> list[int]:
    found = [resources.sizes[0]] * count
    for size in resources.sizes[1:]:
        for place in range(count):
            grown = [*found[:place], size, *found[place + 1 :]]
            if _has_room(resources, available, grown):
                found = grown
    return sorted(found, reverse=True)


def _has_room(resources: ResourcesConfig, available: Capacity, sizes: list[int]) -> bool:
    slots = [resources.sized(size) for size in sizes]
    cpus, gpus = sum(map(slot_cpus, slots)), sum(slot.most_gpus for slot in slots)
    return cpus <= available.cpus + EPSILON and gpus <= available.gpus + EPSILON


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What is to be done with the slots: sizes to start, those that have too many workers, and one that may grow."""

    start: tuple[int, ...] = ()
    too_large: tuple[int, ...] = ()
    grow: int | None = None


@dataclass(kw_only=True)
class Sizing:
    """Compares the slots that there are with those that fit; remembers for how long a slot could have grown.

    A run with fewer workers than fit is moved at the end of an epoch: that costs a start of its workers, so room must
    have been there for a while, and a slot is not moved again at once, unless the cluster is larger than it was then.
    """

    _looks: int = 0
    _moved: dict[int, tuple[float, Capacity]] = field(default_factory=dict)

    def changes(
        self,
        wanted: list[int],
        live: Mapping[int, int],
        available: Capacity,
        *,
        settled: frozenset[int],
        has_room: bool,
        now: float,
    ) -> Changes:
        """What to do about ``live`` slots and their workers, when there could be ``wanted``; who goes does not count.

        ``available`` is what the cluster has, ``settled`` the slots whose workers are there; ``has_room``: what is free
        now would do for more workers.
        """
        left = sorted(wanted, reverse=True)
        for size in sorted(live.values(), reverse=True):
            if left:
                left.remove(size) if size in left else left.pop()
        largest_first = sorted(live, key=lambda slot: (-live[slot], slot))
        pairs = list(zip(largest_first, sorted(wanted, reverse=True), strict=False))
        too_large = tuple(slot for slot, size in pairs if live[slot] > size and slot in settled)
        small = [slot for slot, size in pairs if live[slot] < size and slot in settled]
        small = [slot for slot in small if self._may_move(slot, available, now)]
        self._looks = self._looks + 1 if small and not left and has_room else 0
        grow = small[0] if self._looks >= PATIENT_LOOKS else None
        if grow is not None:
            self._looks, self._moved[grow] = 0, (now, available)
        return Changes(start=tuple(left), too_large=too_large, grow=grow)

    def _may_move(self, slot: int, available: Capacity, now: float) -> bool:
        when, then = self._moved.get(slot, (-math.inf, available))
        has_grown = available.cpus > then.cpus or available.gpus > then.gpus
        return has_grown or now - when > GROW_PAUSE_S


@dataclass(kw_only=True)
class Need:
    """How many slots a study can use: all that it may have, until fewer runs than that are left.

    A slot that is given back and wanted again costs a start of its workers, so fewer count after ``IDLE_S``; more count
    at once.

    Attributes:
        most: slots that the study may have.
        left: runs that are left, where the driver hands them out itself.
        is_last: no further trial begins, so what the slots know of is all that is left.
    """

    most: int
    left: int | None = None
    is_last: bool = False
    _needed: int = 0  # so far all
    _since: float | None = None

    def slots(self, open_runs: int, *, now: float) -> int:
        """Slots that are of use, when ``open_runs`` that the slots know of are not over; at least one."""
        known = open_runs if self.is_last else self.most
        runs = max(1, min(known if self.left is None else self.left, self.most))
        if runs >= (self._needed or self.most) or (self._since is not None and now - self._since >= IDLE_S):
            self._needed, self._since = runs, None
        elif self._since is None:
            self._since = now
        return self._needed or self.most
