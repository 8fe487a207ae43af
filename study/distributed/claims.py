"""Studies that meet on one cluster: who is there, and what part of the cluster is whose.

Each study leaves a claim in the cluster's key-value store while its slots work: what one of its slots needs, how many
it can use, and its priority. Every study reads all claims and divides the cluster alike, so nobody has to be asked, and
whoever comes or goes changes the parts of the others within seconds. A claim counts while its driver lives, by the
cluster's own table of jobs: one that was killed frees its part without a word.

Slots are handed out one by one to the study that has least for its priority, counted in the resource of which its slots
take the largest part of the cluster (dominant resource fairness: Ghodsi et al. 2011, "Dominant Resource Fairness: Fair
Allocation of Multiple Resource Types", section 4.1, algorithm 1). Each study has one before any has a second.
"""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Final

import ray
from ray.experimental.internal_kv import (
    _internal_kv_del,
    _internal_kv_get,
    _internal_kv_list,
    _internal_kv_put,
)

from study.config import StudyConfig
from study.distributed.cluster import Capacity
from study.distributed.sizes import EPSILON, fewest, most_slots, slot_cpus

logger = logging.getLogger(__name__)

NAMESPACE: Final = b"study"
PREFIX: Final = "sharing:"

Share = Callable[[Capacity, int], Capacity]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a study asks of a cluster: CPUs and GPUs of its smallest slot, how many it can use now, its priority."""

    job: str
    study: str
    priority: float
    cpus: float
    gpus: float
    most: int


def claim_of(config: StudyConfig, *, job: str) -> Claim:
    """The claim of a study; a slot that can be larger counts as several of the smallest."""
    resources = config.resources
    small = fewest(resources)
    return Claim(
        job=job,
        study=config.study,
        priority=resources.priority,
        cpus=slot_cpus(small),
        gpus=small.most_gpus,
        most=most_slots(config) * _smallest_in(config),
    )


def _smallest_in(config: StudyConfig) -> int:
    """For how many of the smallest slots of a study its largest one counts."""
    return config.resources.most_workers // fewest(config.resources).most_workers


def divided(claims: Sequence[Claim], available: Capacity) -> dict[str, int]:
    """How many of its smallest slots each study gets, by its job; 0 where the cluster has no room for one of each.

    The same claims give the same division wherever they are read.
    """
    order = sorted(claims, key=lambda claim: (-claim.priority, claim.job))
    given = dict.fromkeys((claim.job for claim in order), 0)
    cpus, gpus = available.cpus + EPSILON, available.gpus + EPSILON
    part = {c.job: max(c.cpus / cpus, c.gpus / gpus) for c in order}

    def level(claim: Claim) -> tuple[bool, float]:
        """One slot for each first; then whoever would still have least for its priority."""
        return given[claim.job] > 0, (given[claim.job] + 1) * part[claim.job] / claim.priority

    while True:
        able = [c for c in order if given[c.job] < c.most and c.cpus <= cpus and c.gpus <= gpus]
        if not able:
            return given
        claim = min(able, key=level)
        given[claim.job] += 1
        cpus, gpus = cpus - claim.cpus, gpus - claim.gpus


class Sharing:
    """One study's view of the cluster that it shares; call it with what the cluster has, for what of it is its own.

    Args:
        claim: with the most that the study can ever use.
        tell: gets a line for a person when other studies come or go, or the study's part changes.
        smallest: for how many of the slots of the claim one of the study's slots counts.
    """

    def __init__(self, claim: Claim, *, tell: Callable[[str], None], smallest: int = 1) -> None:
        self._claim, self._tell, self._most, self._smallest = claim, tell, claim.most, smallest
        self._told: tuple[tuple[str, ...], int] = ((), 0)

    def enter(self) -> None:
        """Leave the claim where other studies see it."""
        _internal_kv_put(self._key(self._claim.job), json.dumps(asdict(self._claim)), namespace=NAMESPACE)

    def leave(self) -> None:
        """Take the claim back."""
        _internal_kv_del(self._key(self._claim.job), namespace=NAMESPACE)

    def __call__(self, available: Capacity, slots: int) -> Capacity:
        """The part of a cluster that belongs to this study, which can use ``slots``; all of it without another study.

        A study that can use fewer than before leaves the others to those that can use more.
        """
        most = min(slots * self._smallest, self._most)
        if most != self._claim.most:
            self._claim = replace(self._claim, most=most)
            self.enter()
        claims = self._claims()
        others = tuple(sorted(claim.study for claim in claims if claim.job != self._claim.job))
        own = divided(claims, available)[self._claim.job] if others else 0
        if (others, own) != self._told:
            self._tell_of(others, own)
            self._told = others, own
        if not others:
            return available
        return replace(available, cpus=own * self._claim.cpus, gpus=own * self._claim.gpus)

    def _tell_of(self, others: tuple[str, ...], own: int) -> None:
        if not others:
            self._tell("no other study is on the cluster any more: all of it is free for this one")
            return
        names = ", ".join(others)
        part = f"{own} slot{'s' if own > 1 else ''} of it for this one" if own else "no slot is left for this one now"
        self._tell(f"the cluster is shared with study {names} by priority: {part}")

    def _claims(self) -> list[Claim]:
        """The claims of all drivers that live, this one's among them; those of the dead are removed."""
        table = ray._private.state.state.job_table()  # type: ignore[no-untyped-call]  # noqa: SLF001 - Ray has no public list of drivers without its dashboard
        dead = {job["JobID"] for job in table if job["IsDead"]}
        found = {self._claim.job: self._claim}
        for key in _internal_kv_list(PREFIX, namespace=NAMESPACE):
            job = key.decode().removeprefix(PREFIX)
            if job in dead:
                _internal_kv_del(key, namespace=NAMESPACE)
                continue
            claim = _read(_internal_kv_get(key, namespace=NAMESPACE))
            if claim is not None:
                found.setdefault(job, claim)
        return list(found.values())

    @staticmethod
    def _key(job: str) -> str:
        return f"{PREFIX}{job}"


def _read(text: bytes | None) -> Claim | None:
    """A claim that may have been taken back meanwhile, or left by another version, which is told once and ignored."""
    if text is None:
        return None
    try:
        claim = Claim(**json.loads(text))
        if min(claim.priority, claim.cpus, claim.most) > 0 and claim.gpus >= 0:
            return claim
        fault = "its numbers make no sense"
    except (ValueError, TypeError) as error:
        fault = type(error).__name__
    logger.warning("a claim on the cluster cannot be read (%s); that study is not reckoned with", fault)
    return None


@contextmanager
def shared_cluster(config: StudyConfig, *, tell: Callable[[str], None]) -> Iterator[Share]:
    """While open, other studies on the connected cluster leave this one its part; call inside ``connected``."""
    job = ray.get_runtime_context().get_job_id()
    sharing = Sharing(claim_of(config, job=job), tell=tell, smallest=_smallest_in(config))
    sharing.enter()
    try:
        yield sharing
    finally:
        sharing.leave()
