"""The verbs for a study that runs elsewhere, with their options: submit, stop, logs."""

from typing import Annotated

import typer

from study.cli.options import STORAGE, Address, Debug, Json, Name, Overrides, Scale, Storage

SUBMIT_EXAMPLES = """\b
Examples:
  study submit my.yaml --address http://head:8265 --storage /shared/studies
  study submit my.yaml --address http://head:8265 --storage /shared/studies --follow
  study submit my-study --address http://head:8265 --storage /shared/studies       go on with it
  study submit my.yaml --storage /shared/studies --dry-run                         what would travel

\b
The cluster's token is read as Ray does it: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token."""


def submit(  # noqa: PLR0913 - one for each option
    what: Annotated[
        str, typer.Argument(metavar="FILE", help="Study file (YAML), or the name of a study.", show_default=False)
    ],
    *,
    address: Address = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show its output until it ends; Ctrl-C leaves, the study goes on.")
    ] = False,
    scale: Scale = None,
    overrides: Overrides = None,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="NAME", help="Give the job this variable of here; no secrets; repeatable."),
    ] = None,
    package: Annotated[
        list[str] | None, typer.Option("--package", metavar="SPEC", help="Install this on the nodes; repeatable.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", metavar="GLOB", help="Leave these files here; repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would travel; ask nobody.")] = False,
    json: Json = False,
    storage: Storage = STORAGE,
    debug: Debug = False,
) -> None:
    """Send a study to a Ray cluster and come back; one that runs there stays, one that stopped goes on."""
    from study.cli.submitting import Wishes, submit_study

    wishes = Wishes(
        address=address,
        storage=storage,
        overrides=overrides or (),
        scale=scale,
        environment=env or (),
        packages=package or (),
        excludes=exclude or (),
        follow=follow,
        dry_run=dry_run,
        as_json=json,
    )
    raise typer.Exit(submit_study(what, wishes))


def stop(
    name: Name,
    *,
    address: Address = None,
    wait: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", min=0, help="How long to wait until it has; 0: ask alone.")
    ] = 600.0,
    storage: Storage = STORAGE,
    debug: Debug = False,
) -> None:
    """Ask a running study to save a checkpoint and stop, here, on another machine, or on a cluster."""
    from study.cli.stopping import stop_study

    raise typer.Exit(stop_study(name, storage=storage, address=address, wait_s=wait))


def logs(
    name: Name,
    *,
    lines: Annotated[int, typer.Option("--lines", "-n", metavar="N", min=1, help="Lines from the end.")] = 50,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the study ends; Ctrl-C leaves, the study goes on.")
    ] = False,
    address: Address = None,
    storage: Storage = STORAGE,
    debug: Debug = False,
) -> None:
    """Print the end of a study's log to standard output; with --address what its job on a cluster prints."""
    from study.cli.logs import show_logs

    raise typer.Exit(show_logs(name, storage=storage, lines=lines, follow=follow, address=address))
