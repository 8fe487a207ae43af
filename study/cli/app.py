"""Verbs and options. Only typer and the standard library are imported up here, so that help answers at once."""

import contextlib
import gc
import os
import sys
from pathlib import Path
from typing import Annotated, Final, Literal, NoReturn

import typer

from study.cli import cluster_verbs, network_verbs
from study.cli.invocation import answering, exit_with, leave
from study.cli.options import STORAGE, Address, Debug, File, Json, Name, Overrides, Scale, Storage

EPILOG: Final = """\b
Examples:
  study doctor search_spaces/quickstart.yaml      is everything here that the study needs?
  study run search_spaces/quickstart.yaml         prepare, search, confirm
  study run my.yaml --set search.trials=40        the same file, a larger budget
  study run search_spaces/periodic/two_segments.yaml --scale small    a paper's experiment on phantoms, in minutes
  study resume quickstart                         go on where it stopped
  study best quickstart --yaml > best.yaml        the best configuration as a study file
  study status quickstart --watch                 where it stands, until it ends
  study compare quickstart other                  what differs, and is it real?
  study submit my.yaml --address http://head:8265 --storage /shared/studies    on a Ray cluster

\b
Exit codes: 0 done, 1 failed, 2 bad input, 3 something missing on this machine, 130 interrupted."""

app = typer.Typer(
    name="study",
    help="Distributed hyperparameter studies for ordinal, imbalanced, multi-source medical images.",
    epilog=EPILOG,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"max_content_width": 100},
)


def _tell_version(*, is_asked: bool) -> None:
    """What a report of a fault begins with: the versions that have to agree between machines."""
    if is_asked:
        from importlib.metadata import version
        from platform import python_version

        from study import __version__

        typer.echo(f"study {__version__}, Python {python_version()}, Ray {version('ray')}")
        raise typer.Exit


@app.callback()
def _common(
    *,
    is_asked: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Show the versions of study, Python and Ray.",
            is_eager=True,
            callback=lambda value: _tell_version(is_asked=value),
        ),
    ] = False,
) -> None:
    """What stands before the verb."""


@app.command(short_help="Make the dataset that a study file asks for.")
def prepare(
    file: Annotated[Path, typer.Argument(metavar="[FILE]", help="Study file (YAML).")] = Path("study.yaml"),
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read the tables, show the counts, write nothing.")
    ] = False,
    preview: Annotated[
        bool, typer.Option("--preview", help="Then write a contact sheet of each augmentation policy.")
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Then show what the sampler's batches hold.")] = False,
    scale: Scale = None,
    overrides: Overrides = None,
    storage: Storage = STORAGE,
    debug: Debug = False,
) -> None:
    """Make the dataset of a study file: crop, scale, pseudonymise, split; what exists is kept."""
    from study.cli.preparing import prepare_file

    prepare_file(file, scale=scale, overrides=overrides or (), dry_run=dry_run, preview=preview, plan=plan)


@app.command(short_help="Run a study file: prepare, search, confirm.")
def run(
    file: File,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the space, ten configurations and the cost; start nothing.")
    ] = False,
    scale: Scale = None,
    overrides: Overrides = None,
    storage: Storage = STORAGE,
    debug: Debug = False,
) -> None:
    """Run a study file: prepare, search, confirm. An existing study goes on where it stopped."""
    from study.cli.dry_run import show_dry_run
    from study.cli.running import run_file

    if dry_run:
        show_dry_run(file, storage=storage, overrides=overrides or (), scale=scale)
    else:
        run_file(file, storage=storage, overrides=overrides or (), scale=scale)


@app.command(short_help="Go on with a study, also with a larger budget.")
def resume(
    name: Name,
    *,
    trials: Annotated[
        str | None, typer.Option("--trials", metavar="N|+N", help="So many trials in all, or so many more.")
    ] = None,
    space: Annotated[
        Path | None, typer.Option("--space", metavar="FILE", help="Go on in the search space of this file.")
    ] = None,
    overrides: Overrides = None,
    storage: Storage = STORAGE,
    debug: Debug = False,
) -> None:
    """Go on with a study; --set may change search.{trials,budget,retries,max_failures}, confirm.* and resources.*."""
    from study.cli.running import resume_study

    resume_study(name, storage=storage, overrides=overrides or (), trials=trials, space=space)


@app.command(short_help="Repeat the best trials with several seeds.")
def confirm(name: Name, *, storage: Storage = STORAGE, debug: Debug = False) -> None:
    """Repeat the best trials of a finished search with several seeds and read the test split."""
    from study.cli.running import confirm_study

    confirm_study(name, storage=storage)


@app.command(short_help="Show where a study stands, once or as it goes on.")
def status(
    name: Name,
    *,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on showing it until it ends; Ctrl-C leaves, the study goes on.")
    ] = False,
    json: Json = False,
    address: Address = None,
    storage: Storage = STORAGE,
    debug: Debug = False,
) -> None:
    """Show where a study stands: its trials, what runs and how fast, the best so far, or how to go on."""
    with contextlib.nullcontext() if watch else answering():
        from study.cli.job_status import show_job_status
        from study.cli.status import show_status

        if address is not None:
            code = show_job_status(name, storage=storage, address=address, as_json=json, watch=watch)
        else:
            code = show_status(name, storage=storage, as_json=json, watch=watch)
    raise typer.Exit(code)


@app.command(
    short_help="Write MLflow anew from ledger and journal.",
    epilog="""\b
Examples:
  study sync quickstart                           what MLflow lacks, or all of it
  MLFLOW_TRACKING_URI=http://mlflow:5000 study sync quickstart      into another, empty store""",
)
def sync(name: Name, *, storage: Storage = STORAGE, debug: Debug = False) -> None:
    """Write MLflow anew from ledger and journal; what is there already is not doubled."""
    from study.cli.syncing import sync_study

    sync_study(name, storage=storage)


@app.command("list", short_help="List the studies.")
def list_studies(*, json: Json = False, storage: Storage = STORAGE, debug: Debug = False) -> None:
    """List the studies: state, trials, best value, and when something happened last."""
    with answering():
        from study.cli.listing import show_list

        show_list(storage, as_json=json)


@app.command(short_help="Show the best trials, or write them as study files.")
def best(  # noqa: PLR0913 - one for each option
    name: Name,
    *,
    top: Annotated[int | None, typer.Option("--top", metavar="K", min=1, help="How many; 5, with --yaml 1.")] = None,
    json: Json = False,
    yaml: Annotated[bool, typer.Option("--yaml", help="Print study files to standard output.")] = False,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="A.B=C", help="Only such trials (=, !=, <, <=, >, >=); repeatable."),
    ] = None,
    per_cost: Annotated[bool, typer.Option("--per-cost", help="Order by what a device-hour has brought.")] = False,
    why: Annotated[bool, typer.Option("--why", help="Which parameters mattered, together and apart.")] = False,
    storage: Storage = STORAGE,
    debug: Debug = False,
) -> None:
    """Show the best trials, or print them as JSON or as study files that can be run."""
    if json and yaml:
        raise typer.BadParameter("choose one of --json and --yaml")
    if why and (yaml or per_cost or top):
        raise typer.BadParameter("--why goes with --where and --json alone")
    form: Literal["json", "yaml", "table"] = "json" if json else "yaml" if yaml else "table"
    with answering():
        from study.cli.best import show_best
        from study.cli.why import show_why

        if why:
            show_why(name, storage=storage, where=where or (), as_json=json)
        else:
            show_best(name, storage=storage, top=top, form=form, where=where or (), per_cost=per_cost)


@app.command(short_help="Put studies side by side; is a difference real?")
def compare(
    names: Annotated[list[str], typer.Argument(metavar="NAME NAME...", help="Studies; the first is the reference.")],
    *,
    json: Json = False,
    storage: Storage = STORAGE,
    debug: Debug = False,
) -> None:
    """Put studies side by side: what differs in their files, best values, cost, and whether a difference is real."""
    with answering():
        from study.cli.comparing import show_compare

        show_compare(names, storage=storage, as_json=json)


@app.command(short_help="Check this machine, and a study file with its data.")
def doctor(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Study file (YAML).")] = None,
    *,
    licences: Annotated[
        bool, typer.Option("--licences", help="List every package that study needs with its licence instead.")
    ] = False,
    scale: Scale = None,
    overrides: Overrides = None,
    as_json: Json = False,
    storage: Storage = STORAGE,
    debug: Debug = False,
) -> None:
    """Check this machine, its services and, when named, a study file with its data; every fault with its fix."""
    from study.cli.showing import show_doctor, show_licences

    if licences:
        raise typer.Exit(show_licences(as_json=as_json))
    raise typer.Exit(show_doctor(file, storage=storage, overrides=overrides or (), scale=scale, as_json=as_json))


@app.command(short_help="Write a study's report: a page, tables, figures.")
def report(
    what: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of a study; losses: gradients.", show_default=False)
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="PLACE", help="Another folder; of losses a PNG file.", show_default=False),
    ] = None,
    methods: Annotated[bool, typer.Option("--methods", help="The methods in words, and a checklist.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Run no network: without features and maps.")] = False,
    storage: Storage = STORAGE,
    debug: Debug = False,
) -> None:
    """Write a study's report: one HTML page, tables (CSV, LaTeX) and figures (PNG, SVG)."""
    from study.cli.reporting import report_on

    report_on(what, storage=storage, out=out, quick=quick, methods=methods)


@app.command(
    short_help="Show where the time of a run goes.",
    epilog="""\b
Examples:
  study profile quickstart                        an epoch of its best trial
  study profile quickstart/5 --steps 40           40 steps of another one
  study profile my.yaml --set train.batch_size=64     before a search: the study file's own values""",
)
def profile(
    what: Annotated[
        str, typer.Argument(metavar="RUN|FILE", help="STUDY, STUDY/TRIAL, STUDY/TRIAL-sSEED, or a study file.")
    ],
    *,
    steps: Annotated[
        int | None, typer.Option("--steps", metavar="N", min=1, help="So many steps; an epoch without it.")
    ] = None,
    json: Json = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="Instead of the study's report.", show_default=False)
    ] = None,
    overrides: Overrides = None,
    storage: Storage = STORAGE,
    debug: Debug = False,
) -> None:
    """Train an epoch of a run anew in a scratch folder, and show where its time goes; the study stays as it is."""
    from study.cli.profiling import profile as act

    act(what, storage=storage, overrides=overrides or (), steps=steps or 0, out=out, as_json=json)


app.command(short_help="Send a study to a Ray cluster.", epilog=cluster_verbs.SUBMIT_EXAMPLES)(cluster_verbs.submit)
app.command(short_help="Ask a running study to save and stop.")(cluster_verbs.stop)
app.command(short_help="Print the end of a study's log, or follow it.")(cluster_verbs.logs)
app.command()(network_verbs.explain)
app.command()(network_verbs.predict)
app.command()(network_verbs.evaluate)
app.command()(network_verbs.export)


def _take_secrets() -> None:
    """Read the files of secrets, where variables name some: help stays quick without."""
    prefixes = ("STUDY_", "PGPASSWORD", "MLFLOW_TRACKING_")
    if any(name.endswith("_FILE") and name.startswith(prefixes) for name in os.environ):
        from study.secrecy import take_secret_files

        take_secret_files(os.environ)


def main() -> NoReturn:
    """The program: runs a verb; every error becomes a line and an exit code."""
    try:
        _take_secrets()
        app()
    except Exception as error:  # noqa: BLE001 - the last place that can tell the user
        leave(exit_with(error))
    finally:
        gc.freeze()  # or the interpreter looks once more through all that torch has brought before it ends: 1 to 2 s
    sys.exit(0)
