"""Asking a driver on another machine to save and stop: a file in the study's directory, which the driver looks for.

Its signs of life do the looking, so it knows after 5 s at most. The file names the holder of the lock that is meant: an
old request does not stop a later driver. Drivers that share no directory are asked by a row (`study.ledger.lock_row`).
"""

import contextlib
import os
from pathlib import Path
from typing import Final

from study.ledger.lock_row import LockRow
from study.ledger.locking import Held, LockHolder
from study.ledger.storage import server_engine

STOP_FILE: Final = ".stop"


def ask_to_stop(study_dir: Path, holder: LockHolder, *, url: str = "") -> None:
    """Ask the driver that holds the study to save and stop, through everything that both may share.

    Args:
        study_dir: the study's directory, whose name is the study's; it need not be there.
        holder: who drives the study now.
        url: address of the ledger.

    Raises:
        OSError: the directory is there and cannot be written, and no server keeps the ledger.
        EnvironmentFault: the ledger's server does not answer.
    """
    engine = server_engine(url) if url else None
    if engine is not None:
        LockRow(engine, study_dir.name).ask_to_stop(holder)
    try:
        if study_dir.is_dir():
            partial = study_dir / f"{STOP_FILE}.{os.getpid()}"
            partial.write_text(holder.owner, encoding="utf-8")
            partial.replace(study_dir / STOP_FILE)
    except OSError:
        if engine is None:
            raise


def look_for_request(study_dir: Path, held: Held) -> None:
    """Learn that somebody asks this driver to stop; raises OSError when the file cannot be read."""
    with contextlib.suppress(FileNotFoundError):
        if (study_dir / STOP_FILE).read_text(encoding="utf-8").strip() == held.holder.owner:
            held.ask_to_stop()


def forget_request(study_dir: Path) -> None:
    """Remove a request that was followed, or came too late."""
    with contextlib.suppress(OSError):
        (study_dir / STOP_FILE).unlink(missing_ok=True)
