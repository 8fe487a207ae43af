"""Arguments and options that several verbs share."""

from pathlib import Path
from typing import Annotated, Final

import typer

from study.cli.invocation import INVOCATION

STORAGE: Final = "studies"


def _remember_debug(value: bool) -> bool:
    INVOCATION.debug = INVOCATION.debug or value
    return value


def _remember_storage(value: str) -> str:
    INVOCATION.storage = value
    return value


File = Annotated[Path, typer.Argument(metavar="FILE", help="Study file (YAML).", show_default=False)]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of a study.", show_default=False)]
Storage = Annotated[
    str,
    typer.Option(
        "--storage",
        metavar="ROOT",
        help="Folder or URI in which studies live.",
        callback=_remember_storage,
    ),
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Replace a value of the study file; repeatable.")
]
Scale = Annotated[
    str | None,
    typer.Option(
        "--scale", metavar="NAME", help="Take the values of one of the file's scales; small runs on any machine."
    ),
]
Debug = Annotated[
    bool, typer.Option("--debug", help="Show tracebacks.", callback=_remember_debug, is_eager=True, show_default=False)
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="URL",
        help="A Ray cluster's dashboard, http://HEAD:8265; for submit also RAY_API_SERVER_ADDRESS or RAY_ADDRESS.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]
