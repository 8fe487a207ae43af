"""The stream: what Ray Data hands to a rank is what the plan says, in its order, once."""

import itertools
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import ray

from study.data.augment import make_augment
from study.data.digest import batch_digest, combined, id_hashes
from study.data.sampling import make_plan
from study.data.targets import Targets
from study.distributed import stream
from study.distributed.cluster import stop_prefetchers
from study.distributed.stream import StreamSettings, batch_stream
from study.errors import InputError

pytestmark = pytest.mark.ray
BATCH = 12


def plan_of(dataset, steps):
    rows = dataset.rows("train")
    return make_plan(
        "source_label",
        labels=dataset.labels_n[rows],
        segments=dataset.sources_n[rows],
        batch_size=BATCH,
        num_steps=steps,
        seed=3,
    )


def settings_of(dataset, policy="none", **more):
    return StreamSettings(root=str(dataset.root), policy=policy, seed=5, fingerprint=dataset.fingerprint, **more)


def expected(dataset, plan, start, policy):
    augment = make_augment(policy, image_hw=(32, 32))
    rows = dataset.rows("train")[plan.indices(start)]
    for step, batch in enumerate(rows, start):
        draws = step * BATCH + np.arange(BATCH)
        pixels = dataset.pixels(batch)
        yield (
            np.stack([augment(p, seed=5, draw=int(d)) for p, d in zip(pixels, draws, strict=True)]),
            dataset.labels_n[batch],
        )


@pytest.mark.parametrize(("world_size", "start"), [(1, 0), (1, 7), (2, 0), (3, 5), (4, 39), (2, 40)])
def test_ranks_together_get_the_global_batches_in_order(cluster, tiny_dataset, world_size, start):
    """Joined in rank order, the ranks' batches are the plan's batches from the first to the last step."""
    plan = plan_of(tiny_dataset, 40)
    streams = [
        batch_stream(plan, settings_of(tiny_dataset), rank=rank, world_size=world_size, start_step=start)
        for rank in range(world_size)
    ]
    wanted = list(expected(tiny_dataset, plan, start, "none"))
    got = list(zip(*streams, strict=True))
    assert len(got) == len(wanted) == 40 - start
    for parts, (images, labels) in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(np.concatenate([part.images_nchw[:, 0].numpy() for part in parts]), images)
        np.testing.assert_array_equal(np.concatenate([part.labels_n.numpy() for part in parts]), labels)


def test_rows_that_a_teacher_has_labelled(cluster, tiny_dataset):
    """Pictures or labels are those of the training split's own rows, although the plan counts in more of them."""
    rows = np.sort(np.concatenate([tiny_dataset.rows("train"), tiny_dataset.rows("val")[::2]]))
    labels = np.where(np.isin(rows, tiny_dataset.rows("val")), 2, tiny_dataset.labels_n[rows])
    plan = make_plan(
        "none", labels=labels, segments=tiny_dataset.sources_n[rows], batch_size=BATCH, num_steps=6, seed=3
    )
    everywhere = np.full((len(tiny_dataset), 1), -1)
    everywhere[rows, 0] = labels
    targets = Targets(tasks=("a",), labels_nt=everywhere, weights_nt=np.ones((len(tiny_dataset), 1), np.float32))
    stream_of = batch_stream(plan, settings_of(tiny_dataset), rank=0, world_size=1, targets=targets, train_rows=rows)
    for batch, indices in zip(stream_of, plan.indices(0), strict=True):
        np.testing.assert_array_equal(batch.images_nchw[:, 0].numpy(), tiny_dataset.pixels(rows[indices]))
        np.testing.assert_array_equal(batch.labels_n.numpy(), labels[indices])


def test_augmentation_depends_on_the_place_in_the_plan_alone(cluster, tiny_dataset):
    """A stream that starts in the middle augments as one that came from the start, whatever the number of ranks."""
    plan = plan_of(tiny_dataset, 12)
    whole = [
        b.images_nchw.numpy() for b in batch_stream(plan, settings_of(tiny_dataset, "mammogram"), rank=0, world_size=1)
    ]
    late = batch_stream(plan, settings_of(tiny_dataset, "mammogram"), rank=1, world_size=2, start_step=5)
    for step, batch in enumerate(late, 5):
        np.testing.assert_array_equal(batch.images_nchw.numpy(), whole[step][BATCH // 2 :])
    assert not np.array_equal(whole[0], next(iter(expected(tiny_dataset, plan, 0, "none")))[0][:, None])


@pytest.mark.parametrize(("block_images", "world_size"), [(1, 2), (5, 1), (50, 1)])
def test_blocks_and_executions_do_not_show(cluster, tiny_dataset, monkeypatch, block_images, world_size):
    """Blocks smaller than a batch, of other sizes and larger, and many short executions: the same batches in order."""
    monkeypatch.setattr(stream, "BLOCK_BYTES", block_images * tiny_dataset.image_bytes)
    monkeypatch.setattr(stream, "FIRST_BLOCK_ROWS", 5)
    monkeypatch.setattr(stream, "FEWEST_BLOCKS", 2)
    monkeypatch.setattr(stream, "MOST_BLOCKS", 12)
    plan = plan_of(tiny_dataset, 12)
    streams = [
        batch_stream(plan, settings_of(tiny_dataset), rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    got = [np.concatenate([part.images_nchw[:, 0].numpy() for part in parts]) for parts in zip(*streams, strict=True)]
    np.testing.assert_array_equal(got, [images for images, _ in expected(tiny_dataset, plan, 0, "none")])


def test_digests_of_what_arrived_are_those_of_the_plan_for_any_number_of_ranks(cluster, tiny_dataset):
    """Each rank's digests add up to those that the plan's image ids give, whatever the number of ranks."""
    plan = plan_of(tiny_dataset, 6)
    ids_n = id_hashes(tiny_dataset.manifest["image_id"])[tiny_dataset.rows("train")]
    planned = [batch_digest(ids_n[rows], first_draw=step * BATCH) for step, rows in enumerate(plan.indices())]
    for world_size in (1, 3):
        local = BATCH // world_size
        streams = [
            batch_stream(plan, settings_of(tiny_dataset), rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        found = [
            combined(
                batch_digest(part.ids_n, first_draw=step * BATCH + rank * local) for rank, part in enumerate(parts)
            )
            for step, parts in enumerate(zip(*streams, strict=True))
        ]
        assert found == planned


def test_a_run_of_many_epochs_begins_as_soon_as_a_short_one(cluster, tiny_dataset):
    """The plan is never held as a whole: a billion draws cost neither time nor memory at the start."""
    plan = plan_of(tiny_dataset, 10**9 // BATCH)
    before = resident_bytes()
    batches = batch_stream(plan, settings_of(tiny_dataset), rank=0, world_size=1, start_step=10**6)
    started = time.monotonic()
    batch = next(batches)
    assert time.monotonic() - started < 20
    assert resident_bytes() - before < 200 * 2**20
    np.testing.assert_array_equal(
        batch.images_nchw[:, 0].numpy(),
        tiny_dataset.pixels(tiny_dataset.rows("train")[plan.indices(10**6, 10**6 + 1)[0]]),
    )
    batches.close()


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_consumer_that_stops_reading_stops_the_loading(cluster, tiny_dataset, monkeypatch):
    """Finished blocks wait up to the bound, far below what the run has to load, and no further ones are made."""
    monkeypatch.setattr(stream, "_ahead_bytes", lambda share: 4 * 2**20)
    plan = plan_of(tiny_dataset, 8000)  # 94 MiB in blocks of 1 MiB
    before = store_bytes()
    batches = batch_stream(plan, settings_of(tiny_dataset), rank=0, world_size=1)
    next(batches)
    held = []
    while len(held) < 8 or len(set(held[-6:])) > 1:
        time.sleep(0.25)
        held.append(store_bytes() - before)
        assert len(held) < 80, held
    assert 2**20 < held[-1] < 16 * 2**20
    assert sum(1 for _ in batches) == 7999


def store_bytes():
    """Bytes in Ray's object store."""
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    address = ray.get_runtime_context().gcs_address  # other clusters may run on this machine
    return get_memory_info_reply(get_state_from_address(address)).store_stats.object_store_bytes_used


def test_a_stream_that_is_closed_early_leaves_nothing_running(cluster, tiny_dataset):
    """A pruned run's stream stops: the next one gets its first batch at once."""
    plan = plan_of(tiny_dataset, 4000)
    before = threading.enumerate()
    for _ in range(3):
        stream = batch_stream(plan, settings_of(tiny_dataset), rank=0, world_size=1)
        assert len(list(itertools.islice(stream, 2))) == 2
        started = time.monotonic()
        stream.close()
        assert time.monotonic() - started < 10
        assert "Prefetcher" not in [thread.name for thread in threading.enumerate() if thread not in before]


def test_a_prefetching_thread_that_parks_after_the_stop_is_woken():
    """Ray's stop notifies once; a thread that begins to wait only then would never hear of it."""
    from ray.data._internal.block_batching.util import WaitBlockPrefetcher

    prefetcher = WaitBlockPrefetcher()
    time.sleep(0.1)
    prefetcher._stopped = True  # as stop() leaves it when the notification found nobody waiting
    stop_prefetchers()
    assert not prefetcher._thread.is_alive()


def test_a_shard_that_is_cut_off_in_mid_run_is_named(cluster, tiny_dataset):
    """The page that is gone kills the loading process; the next one opens the shard, and says which it was."""
    batches = batch_stream(plan_of(tiny_dataset, 8000), settings_of(tiny_dataset), rank=0, world_size=1)
    next(batches)
    path = Path(tiny_dataset.root) / "shards" / "a.arrow"
    os.truncate(path, 4096)
    with pytest.raises(InputError, match=r"shard a\.arrow has 4096 bytes"):
        for _ in batches:
            pass


def test_a_damaged_shard_is_named(cluster, tiny_dataset):
    """The run stops with the name of the shard, not with pixels that were not there."""
    path = Path(tiny_dataset.root) / "shards" / "a.arrow"
    path.write_bytes(path.read_bytes()[:-400] + bytes(400))
    with pytest.raises(InputError, match=r"a\.arrow"):
        list(batch_stream(plan_of(tiny_dataset, 4), settings_of(tiny_dataset), rank=0, world_size=1))
