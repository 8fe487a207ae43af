"""What a plan costs: 10 million images in 10,000 segments, a billion draws, and any of its batches alone.

Run with `make bench`. Every case has a process of its own, so that its peak memory is its own. Prints seconds and MB of
one run (CPU time, which other work on the machine does not change; wall time of building beside it), and the time per
draw as a ratio to torch's ``WeightedRandomSampler`` over as many images.
"""

import json
import subprocess
import sys

import pytest

IMAGES, SEGMENTS, BATCH = 10_000_000, 10_000, 64
LIMIT_S, LIMIT_MB = 5.0, 1024

PLAN = """
import json, resource, sys, time
import numpy as np, pandas as pd
from study.data.sampling import make_plan

name, queue, images, segments, batch = *sys.argv[1:3], *map(int, sys.argv[3:])
peak_mb = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
generator = np.random.Generator(np.random.Philox(0))
codes = generator.integers(segments, size=images, dtype=np.int16)
labels = generator.integers(2, size=images, dtype=np.int8)
column = pd.Categorical.from_codes(codes, [f"source_{number // 20}.vendor_{number % 20}" for number in range(segments)])
del codes

def timed(call):
    begun = time.process_time()
    found = call()
    return time.process_time() - begun, found

steps = 10**9 // batch
begun = time.perf_counter()
build_s, plan = timed(lambda: make_plan(
    name, labels=labels, segments=column, batch_size=batch, num_steps=steps, seed=0, queue=queue
))
wall_s = time.perf_counter() - begun
build_mb, middle = peak_mb(), steps // 2
alone_s, first = timed(lambda: plan.indices(middle, middle + 1))
next_s, _ = timed(lambda: plan.indices(middle + 1, middle + 2))
part = plan.lasting(2**20 // batch)
row_s, rows = timed(lambda: plan.indices(middle, middle + 2**20 // batch))
summary_s, _ = timed(part.summary)
print(json.dumps({
    "build_s": build_s, "wall_s": wall_s, "build_mb": build_mb, "alone_ms": 1e3 * alone_s, "next_ms": 1e3 * next_s,
    "draw_us": 1e6 * row_s / rows.size, "summary_s": summary_s, "is_same": bool((rows[0] == first[0]).all()),
}))
"""
TORCH = """
import sys, time
import torch
from torch.utils.data import WeightedRandomSampler
weights = torch.rand(int(sys.argv[1]), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
begun = time.process_time()
rows = list(WeightedRandomSampler(weights, 2**20))
print(1e6 * (time.process_time() - begun) / len(rows))
"""


def run(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def torch_us():
    """Microseconds per draw of torch's sampler over as many images, its set-up included."""
    return float(run(TORCH, IMAGES))


@pytest.mark.parametrize("queue", ["balanced", "iid"])
@pytest.mark.parametrize("name", ["periodic", "bal_segments", "source", "label", "none"])
def test_plan(name, queue, torch_us):
    """A plan is built in time and memory, and any batch of a billion draws is had without those before it."""
    found = json.loads(run(PLAN, name, queue, IMAGES, SEGMENTS, BATCH))
    built = f"built in {found['build_s']:5.2f} s (wall {found['wall_s']:5.2f}), peak {found['build_mb']:4.0f} MB"
    alone = f"batch alone {found['alone_ms']:6.1f} ms, the next {found['next_ms']:5.2f} ms"
    draws = f"{found['draw_us']:4.2f} us per draw in a row, {found['draw_us'] / torch_us:4.2f} of torch's"
    print(f"\n{name:>12} {queue:8} {built} | {alone} | {draws} | summary {found['summary_s']:4.1f} s")
    assert found["is_same"]
    assert found["build_s"] <= LIMIT_S
    assert found["build_mb"] <= LIMIT_MB
