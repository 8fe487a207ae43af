"""What one call of the program knows: its options, its log, and how an error is told."""

import contextlib
import gc
import os
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, NoReturn

import typer

from study.errors import EXIT_FAILED, InterruptedStudy, StudyError

DEFAULT_STORAGE: Final = "studies"


@dataclass(slots=True)
class Invocation:
    """Options that errors need too; ``log`` is the file that takes the traceback of a fault of ours."""

    debug: bool = False
    storage: str = DEFAULT_STORAGE
    log: Path | None = None


INVOCATION: Final = Invocation()


def exit_with(error: Exception) -> int:
    """Tell the user about an error, on standard error, and return the exit code that belongs to it."""
    from study.secrecy import redacted

    if INVOCATION.debug:
        typer.echo(redacted("".join(traceback.format_exception(error))), err=True, nl=False)
    if isinstance(error, InterruptedStudy):
        typer.echo(redacted(f"stopped: {error.message}"), err=True)
        if error.fix:
            typer.echo(f"  go on with: {error.fix}", err=True)
        return error.exit_code
    if isinstance(error, StudyError):
        typer.echo(redacted(f"error: {error}"), err=True)
        return error.exit_code
    name = type(error).__name__
    first_line = next(iter(str(error).splitlines()), "")
    where = _write_traceback(error)
    hint = f"the traceback is in {where}" if where else "run again with --debug for the traceback"
    typer.echo(redacted(f"error: {name}: {first_line}\n  fix: {hint}; `study doctor` checks this machine"), err=True)
    return EXIT_FAILED


def leave(code: int) -> NoReturn:
    """End the process; at once where Ray's own cluster has died, for its last steps there wait for a minute."""
    if "ray" in sys.modules:
        from study.distributed.cluster import leave_lost_cluster, lost_daemon

        if lost_daemon():
            leave_lost_cluster()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    sys.exit(code)


@contextlib.contextmanager
def answering() -> Iterator[None]:
    """No garbage is collected meanwhile: a short answer imports much and leaves little, so the search is in vain."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def program(name: str = "study") -> str:
    """``name`` as the user can type it here: with the folder of this program where the shell would not find it."""
    import shutil

    started = Path(sys.argv[0])
    if shutil.which(name) or not started.with_name(name).exists():
        return name
    with contextlib.suppress(ValueError):
        return str(started.with_name(name).absolute().relative_to(Path.cwd()))
    return str(started.with_name(name))


def storage_option(storage: str) -> str:
    """`` --storage ROOT`` for a command that the user may copy; empty for the default."""
    import shlex

    return "" if storage.rstrip("/") == DEFAULT_STORAGE else f" --storage {shlex.quote(storage)}"


def _write_traceback(error: Exception) -> Path | None:
    from study.secrecy import redacted

    if INVOCATION.log is None and "://" in INVOCATION.storage:
        return None
    path = INVOCATION.log or Path(INVOCATION.storage) / "study.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')} {' '.join(sys.argv[:2])}\n")
            file.write(redacted("".join(traceback.format_exception(error))))
    except OSError:
        return None
    return path
