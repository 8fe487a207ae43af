"""Processes of this machine, read from /proc."""

import contextlib
import shutil
import time
from pathlib import Path

PROC = Path("/proc")


def descendants(pid):
    """The numbers of all processes that a process has started, and of those that these have."""
    children = {}
    for path in PROC.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            text = path.read_text(errors="replace")
            children.setdefault(int(text.rpartition(")")[2].split()[1]), []).append(int(path.parent.name))
    found, waiting = [], [pid]
    while waiting:
        new = children.get(waiting.pop(), [])
        found += new
        waiting += new
    return found


def title(pid):
    """What a process calls itself; empty when it is gone."""
    with contextlib.suppress(OSError):
        return (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")[0].decode(errors="replace").strip()
    return ""


def environment(pid):
    """The environment with which a process was started, as text; empty when it is gone."""
    with contextlib.suppress(OSError):
        return (PROC / str(pid) / "environ").read_bytes().decode(errors="replace")
    return ""


def burn_down(folder):
    """Remove a folder into which a process of a killed study may write for another moment."""
    for _ in range(100):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)
    raise AssertionError(f"somebody still writes into {folder}")
