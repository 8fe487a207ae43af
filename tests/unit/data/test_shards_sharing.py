"""Several processes of one machine read one copy of the shards."""

import subprocess
import sys

from study.data.shards import SHARD_FOLDER

PROCESSES = 3

# Reads every image, waits until all processes have, and prints what its mappings of the shards take: its share in KiB
# where pages are shared (Pss), and pages that it holds alone.
READER = """
import sys
import numpy as np
from study.data.shards import open_dataset

dataset = open_dataset(sys.argv[1])
dataset.pixels(np.arange(len(dataset)))
print("ready", flush=True)
sys.stdin.readline()
is_shard, share, alone = False, 0, 0
for line in open("/proc/self/smaps"):
    name, *rest = line.split()
    if not name.endswith(":"):
        is_shard = line.rstrip().endswith(".arrow")
    elif is_shard and name == "Pss:":
        share += int(rest[0])
    elif is_shard and name in ("Private_Clean:", "Private_Dirty:"):
        alone += int(rest[0])
print(share, alone, flush=True)
sys.stdin.readline()
"""


def test_processes_map_the_same_pages(tmp_path, make_dataset):
    """Three readers hold a dataset once between them: their shares add up to its size, no part is one's own."""
    root = make_dataset(tmp_path / "set", images=96, size=256)
    size_kib = sum(path.stat().st_size for path in (root / SHARD_FOLDER).iterdir()) / 1024
    command = [sys.executable, "-c", READER, str(root)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    readers = [subprocess.Popen(command, **pipes) for _ in range(PROCESSES)]
    try:
        assert [reader.stdout.readline() for reader in readers] == ["ready\n"] * PROCESSES
        found = []
        for reader in readers:
            reader.stdin.write("\n")
            reader.stdin.flush()
            found.append([int(number) for number in reader.stdout.readline().split()])
    finally:
        for reader in readers:
            reader.kill()
            reader.communicate()
    shares, alone = zip(*found, strict=True)
    assert 0.9 * size_kib < sum(shares) < 1.1 * size_kib
    assert sum(alone) < 0.05 * size_kib
