"""The verb report: so far the gradients of losses alone."""

from pathlib import Path
from typing import Final

import typer

from study.errors import InputError

GRADIENTS_FILE: Final = Path("losses.png")


def report_on(what: str, *, out: Path | None) -> None:
    """Draw how strongly losses push a logit, figure 1 of paper alpa, into a PNG file.

    Raises:
        InputError: something else than ``losses`` was asked for, or the file cannot be written.
    """
    if what != "losses":
        raise InputError(f"study report {what}: not available yet", "`study report losses` draws the losses' gradients")
    path = GRADIENTS_FILE if out is None else out
    if path.is_dir() or path.suffix.lower() != ".png":
        near = path / GRADIENTS_FILE if path.is_dir() else path.with_suffix(".png")
        raise InputError(f"--out {path}: expected the name of a PNG file", f"--out {near}")

    from study.report.gradients import write_gradient_figure

    try:
        write_gradient_figure(path)
    except OSError as error:
        raise InputError(
            f"--out {path}: cannot be written ({error.strerror})", "name a file in a folder of yours"
        ) from error
    typer.echo(f"wrote {path}", err=True)
