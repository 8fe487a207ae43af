"""The `mammogram` policy on one core: images a second beside albumentations' own Compose.

Run with `make bench`, or alone: `.venv/bin/python -m pytest -s -q tests/bench/bench_augment.py`. Pictures are like
breasts in a prepared frame, uint8 with one channel. The peer is albumentations at its best: OpenCV without threads
(or with one), the allocator tuned as ours, one generator that is seeded once and not for each picture. All take turns
block by block on one pinned core; processor time, median of the repetitions.
"""

import os
import statistics
import time

import cv2
import numpy as np
import pytest

from study.data.augment import make_augment, tune_malloc
from study.data.augment_policies import library
from tests.bench.bench_shards import breast

BLOCK, REPETITIONS = 8, 7
BLOCKS = {512: 10, 1024: 4}
TARGETS = {512: 2.0, 1024: 1.6}  # fast mode


def frame(rng, side):
    content = breast(rng, side=side, bits=8)
    out = np.zeros((side, side), np.uint8)
    top, left = content.offset[1], content.offset[0]
    height, width = content.pixels.shape
    out[top : top + height, left : left + width] = content.pixels
    return out


def stock():
    """The policy as a user of albumentations writes it."""
    a = library()
    border = {"border_mode": cv2.BORDER_CONSTANT, "fill": 0}
    return a.Compose(
        [
            a.RandomRotate90(p=0.5),
            a.HorizontalFlip(p=0.5),
            a.VerticalFlip(p=0.5),
            a.Affine(
                translate_percent=(-0.0625, 0.0625), scale=(0.9, 1.1), keep_ratio=True, rotate=45, p=0.35, **border
            ),
            a.OpticalDistortion(distort_limit=0.3, p=0.5, **border),
            a.GridDistortion(num_steps=5, distort_limit=0.3, p=0.2, **border),
            a.CLAHE(clip_limit=1.5, p=0.35),
            a.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0.2, p=0.5),
            a.RandomGamma(gamma_limit=(80, 120), p=0.5),
            a.Sharpen(alpha=(0.02, 0.2), p=0.35),
            a.PixelDropout(dropout_prob=0.01, p=0.3),
            a.GridDropout(ratio=0.35, p=0.1),
        ],
        seed=1,
    )


def rates(ways, blocks):
    """Images a second of processor time of each way, which take turns block by block."""
    times = {name: [] for name in ways}
    for repetition in range(REPETITIONS + 1):
        spent = dict.fromkeys(ways, 0.0)
        for place, block in enumerate(blocks):
            draws = (repetition * len(blocks) + place) * BLOCK + np.arange(len(block))
            for name, way in ways.items():
                begun = time.process_time()
                way(block, draws)
                spent[name] += time.process_time() - begun
        for name, seconds in spent.items():
            times[name].append(seconds)
    return {name: len(blocks) * BLOCK / statistics.median(values[1:]) for name, values in times.items()}


@pytest.fixture
def one_core():
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.parametrize("side", TARGETS)
def test_beside_albumentations(one_core, side):
    """The fast mode is slower than promised beside albumentations, or the compatible one is slower than it."""
    tune_malloc()
    peer = stock()
    cv2.setNumThreads(0)
    rng = np.random.default_rng(7)
    blocks = [np.stack([frame(rng, side) for _ in range(BLOCK)]) for _ in range(BLOCKS[side])]
    fast, compatible = (make_augment("mammogram", image_hw=(side, side), mode=mode) for mode in ("fast", "compatible"))
    out = np.empty_like(blocks[0])

    def of_albumentations(block, _draws):
        for image in block:
            peer(image=image)

    def of_one_thread(block, draws):
        cv2.setNumThreads(1)
        of_albumentations(block, draws)
        cv2.setNumThreads(0)

    found = rates(
        {
            "albumentations, cv2 threads 0": of_albumentations,
            "albumentations, cv2 threads 1": of_one_thread,
            "compatible": lambda block, draws: compatible.block(block, seed=0, draws_n=draws, out=out),
            "fast": lambda block, draws: fast.block(block, seed=0, draws_n=draws),
            "fast, memory kept": lambda block, draws: fast.block(block, seed=0, draws_n=draws, out=out),
        },
        blocks,
    )
    best = max(rate for name, rate in found.items() if name.startswith("albumentations"))
    print(f"\n{side} px, 8 bits, one channel, one core")
    for name, rate in found.items():
        print(f"  {name:32s} {rate:7.0f} images/s   {rate / best:5.2f} of albumentations")
    assert found["compatible"] >= best
    assert found["fast"] >= TARGETS[side] * best
