"""How studies divide a cluster: a slot for each, then by priority, and nothing is unused that somebody needs."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.distributed import claims as sharing
from study.distributed.claims import Claim, Sharing, divided
from study.distributed.cluster import Capacity


def cluster(cpus, gpus=0.0):
    return Capacity(cpus=cpus, gpus=gpus, node_cpus=cpus, node_gpus=gpus)


def claim(job, priority=1.0, cpus=2.0, gpus=0.0, most=100):
    return Claim(job=job, study=f"study-{job}", priority=priority, cpus=cpus, gpus=gpus, most=most)


@pytest.mark.parametrize(
    ("claims", "available", "given"),
    [
        ([claim("1")], cluster(9), {"1": 4}),
        ([claim("1"), claim("2")], cluster(8), {"1": 2, "2": 2}),
        ([claim("1"), claim("2")], cluster(6), {"1": 2, "2": 1}),  # who was there first has the odd one
        ([claim("1"), claim("2", priority=3)], cluster(16), {"1": 2, "2": 6}),
        ([claim("1"), claim("2", priority=99)], cluster(4), {"1": 1, "2": 1}),  # a slot each before anything
        ([claim("1"), claim("2", priority=3)], cluster(2), {"1": 0, "2": 1}),
        ([claim("1", most=1), claim("2")], cluster(16), {"1": 1, "2": 7}),  # what one cannot use the other has
        ([claim("1", gpus=1), claim("2", cpus=8)], cluster(32, 4), {"1": 4, "2": 3}),
        ([claim("1", cpus=20), claim("2")], cluster(8), {"1": 0, "2": 4}),  # nobody waits for what never fits
        ([], cluster(8), {}),
    ],
)
def test_a_cluster_is_divided(claims, available, given):
    """A study has no slot although there is one for each, or more than its priority gives while another one waits."""
    assert divided(claims, available) == given
    assert divided(claims[::-1], available) == given


CLAIMS = st.lists(
    st.builds(
        Claim,
        job=st.integers(0, 9).map(str),
        study=st.just("any"),
        priority=st.floats(0.1, 10),
        cpus=st.sampled_from([0.5, 1.0, 2.0, 5.0]),
        gpus=st.sampled_from([0.0, 0.5, 1.0]),
        most=st.integers(1, 20),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda each: each.job,
)


@settings(max_examples=60, deadline=None)
@given(CLAIMS, st.floats(1, 40), st.integers(0, 8))
def test_a_division_fits_and_leaves_nothing_that_somebody_could_use(claims, cpus, gpus):
    """More is given away than there is, or a slot stays empty that a study could have."""
    found = divided(claims, cluster(cpus, gpus))
    used = sum(found[each.job] * each.cpus for each in claims), sum(found[each.job] * each.gpus for each in claims)
    assert used[0] <= cpus + 1e-6
    assert used[1] <= gpus + 1e-6
    for each in claims:
        fits = used[0] + each.cpus <= cpus - 1e-6 and used[1] + each.gpus <= gpus - 1e-6
        assert not (fits and found[each.job] < each.most)


class Store:
    """The cluster's key-value store, and its table of jobs."""

    def __init__(self, monkeypatch):
        self.values, self.dead = {}, set()
        monkeypatch.setattr(sharing, "_internal_kv_put", lambda key, value, namespace: self.put(key, value))
        monkeypatch.setattr(sharing, "_internal_kv_del", lambda key, namespace: self.values.pop(text(key), None))
        monkeypatch.setattr(sharing, "_internal_kv_get", lambda key, namespace: self.values.get(text(key)))
        monkeypatch.setattr(sharing, "_internal_kv_list", lambda prefix, namespace: [k.encode() for k in self.values])
        monkeypatch.setattr(
            sharing.ray._private.state.state, "job_table", lambda: [{"JobID": job, "IsDead": True} for job in self.dead]
        )

    def put(self, key, value):
        self.values[key] = value.encode()


def text(key):
    return key.decode() if isinstance(key, bytes) else key


def test_studies_come_and_go_and_each_hears_of_it_once(monkeypatch):
    """A study that was killed keeps its part for ever, or every look at the cluster is told."""
    store, told = Store(monkeypatch), []
    one, two = Sharing(claim("1"), tell=told.append), Sharing(claim("2"), tell=lambda _: None)
    one.enter()
    assert one(cluster(8), 100) == cluster(8)
    two.enter()
    for _ in range(3):
        assert (one(cluster(8), 100).cpus, two(cluster(8), 100).cpus) == (4, 4)
    store.dead.add("2")
    assert one(cluster(8), 100) == cluster(8)
    assert "sharing:2" not in store.values
    assert told == [
        "the cluster is shared with study study-2 by priority: 2 slots of it for this one",
        "no other study is on the cluster any more: all of it is free for this one",
    ]
    one.leave()
    assert not store.values


def test_a_study_that_needs_less_leaves_the_rest_to_the_others(monkeypatch):
    """What a study near its end does not use stays unused, or it does not get its part back when it needs it again."""
    Store(monkeypatch)
    told = [], []
    one = Sharing(claim("1", most=6), tell=told[0].append, smallest=2)
    two = Sharing(claim("2"), tell=told[1].append)
    one.enter()
    two.enter()
    parts = []
    for slots in (3, 1, 3):  # of one's own size, each as large as two of the smallest
        parts.append((one(cluster(16), slots).cpus, two(cluster(16), 100).cpus))
    assert parts == [(8, 8), (4, 12), (8, 8)]
    assert [text.rpartition(": ")[2] for text in told[1]] == [f"{n} slots of it for this one" for n in (4, 6, 4)]
    assert [text.rpartition(": ")[2] for text in told[0]] == [f"{n} slots of it for this one" for n in (4, 2, 4)]
    assert Sharing(claim("3"), tell=print)(cluster(16), 1).cpus == 2


@pytest.mark.parametrize("other", ["nonsense", "[]", json.dumps({"job": "2"}), json.dumps({"priority": 0})])
def test_a_claim_that_cannot_be_read_stops_nobody(monkeypatch, other):
    """A study ends because another version of the program left something in the cluster."""
    store = Store(monkeypatch)
    store.put("sharing:2", other)
    one = Sharing(claim("1"), tell=lambda _: None)
    one.enter()
    assert one(cluster(8), 100) == cluster(8)
