"""The verb report: a study as a page, and the gradients of losses."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from study.cli.folders import brought, kept, open_ledger, stored_config, study_directory, study_names
from study.cli.invocation import storage_option
from study.errors import InputError

if TYPE_CHECKING:
    from study.report.page.evidence import Evidence

LOSSES: Final = "losses"
GRADIENTS_FILE: Final = Path("losses.png")


def report_on(what: str, *, storage: str, out: Path | None, quick: bool, methods: bool) -> None:
    """Write a study's report or methods, or with ``losses`` how strongly losses push a logit (figure 1 of paper alpa).

    A study that is called ``losses`` gets its report beside the gradients.

    Raises:
        InputError: there is no such study, or a file cannot be written.
    """
    if methods:
        write_study_methods(what, storage=storage, out=out)
        return
    if what == LOSSES:
        _write_gradients(out)
        if out is not None or LOSSES not in study_names(storage):
            return
    write_study_report(what, storage=storage, out=out, quick=quick)


def write_study_report(name: str, *, storage: str, out: Path | None, quick: bool = False) -> None:
    """Write the report of a study into ``out``, or into ``report/`` in its folder; a ``quick`` one runs no network.

    Raises:
        InputError: there is no such study, or ``out`` cannot be a folder.
    """
    from study.report.page.build import build_page
    from study.report.page.inside import inside_sections
    from study.report.page.render import write_page

    evidence = gather(name, storage=storage)
    folder = _folder(out, evidence.directory / "report")
    page = build_page(evidence, inside=inside_sections(evidence, quick=quick))
    try:
        written = write_page(page, folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})", "name a folder of yours: --out") from error
    typer.echo(f"{page.answer}\nwrote {written[0]} with {len(written) - 1} tables and figures", err=True)
    _tell_kept(evidence.directory, folder)


def write_study_methods(name: str, *, storage: str, out: Path | None) -> None:
    """Write the methods of a study in words, and a checklist, into ``out`` or into ``report/`` in its folder.

    Raises:
        InputError: there is no such study, or ``out`` cannot be a folder.
    """
    from study.report.methods.write import write_methods

    evidence = gather(name, storage=storage)
    folder = _folder(out, evidence.directory / "report")
    try:
        written = write_methods(evidence, folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})", "name a folder of yours: --out") from error
    typer.echo(f"wrote {', '.join(map(str, written))}", err=True)
    _tell_kept(evidence.directory, folder)


def _tell_kept(directory: Path, folder: Path) -> None:
    text = kept(directory, folder)
    if text:
        typer.echo(text, err=True)


def gather(name: str, *, storage: str) -> "Evidence":
    """All that a report of a study needs.

    Raises:
        InputError: there is no such study.
    """
    from study.cli.looking import Found, looking
    from study.report.page.evidence import Evidence, Ledgered, read_arms, read_data
    from study.standing import DATASET

    directory = brought(study_directory(name, storage))
    config = stored_config(directory)
    ledger = open_ledger(config, directory)
    ledgered = Ledgered()
    if ledger is not None:
        with contextlib.closing(ledger):
            ledgered = Ledgered(
                records=ledger.run_records(),
                readings=ledger.test_readings(),
                retries=ledger.retries(),
                hours=ledger.hours_run(),
                fingerprint=str(ledger.stage(DATASET) or ""),
            )
    with looking(Found(config=config, directory=directory)) as looker:
        result = looker.look().result
    data = read_data(config, fingerprint=ledgered.fingerprint)
    classes = data.dataset.classes if data.dataset else ()
    evidence = Evidence(
        config=config,
        result=result,
        directory=directory,
        ledgered=ledgered,
        data=data,
        arms=(),
        options=storage_option(storage),
    )
    return evidence.with_arms(read_arms(directory, evidence.rows_to_show(), data=data, classes=classes))


def _folder(out: Path | None, usual: Path) -> Path:
    if out is None:
        return usual
    if out.is_file() or out.suffix:
        raise InputError(
            f"--out {out}: expected a folder for report.html, tables and figures", f"--out {out.with_suffix('')}"
        )
    return out


def _write_gradients(out: Path | None) -> None:
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
