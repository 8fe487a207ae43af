"""The stream: what Ray Data hands to a rank is what the plan says, in its order, once."""

import itertools
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from study.data.augment import make_augment
from study.data.sampling import make_plan
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


@pytest.mark.parametrize(("world_size", "start"), [(1, 0), (1, 7), (2, 0), (3, 5)])
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


def test_a_damaged_shard_is_named(cluster, tiny_dataset):
    """The run stops with the name of the shard, not with pixels that were not there."""
    path = Path(tiny_dataset.root) / "shards" / "a.arrow"
    path.write_bytes(path.read_bytes()[:-400] + bytes(400))
    with pytest.raises(InputError, match=r"a\.arrow"):
        list(batch_stream(plan_of(tiny_dataset, 4), settings_of(tiny_dataset), rank=0, world_size=1))
