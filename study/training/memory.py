"""Telling a lack of memory from other faults, and how much of it is in use."""

import gc
import os
from pathlib import Path
from typing import Final

import torch

STATM: Final = Path("/proc/self/statm")
# torch raises a plain RuntimeError for the memory of a CPU, and where a GPU library asked for it.
PHRASES: Final = ("can't allocate memory", "out of memory", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one that it was raised from, says that memory ran out, of a GPU or of the machine."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(seen, RuntimeError) and any(phrase in str(seen) for phrase in PHRASES):
            return True
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return False


def give_back_memory() -> None:
    """Free what a run has left behind, so that the next one has all of the memory."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def resident_bytes() -> int:
    """Memory that this process holds (Linux), 0 where it cannot be known."""
    try:
        pages = STATM.read_bytes().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def kernel_kills() -> int:
    """How many processes this machine's kernel has killed for want of memory since it started (Linux), else 0."""
    statistics = Path("/proc/vmstat")
    lines = statistics.read_text().splitlines() if statistics.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
