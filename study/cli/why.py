"""``study best --why``: which parameters mattered, which ones together, and how each value did."""

from collections.abc import Sequence
from dataclasses import asdict

import typer

from study.cli.looking import find, looking
from study.cli.showing import print_json, table_width
from study.errors import InputError


def show_why(name: str, *, storage: str, where: Sequence[str], as_json: bool) -> None:
    """Print what mattered in a search: importances, interactions, slices.

    Raises:
        InputError: there is no such study, it searches nothing, or a condition cannot be read.
    """
    from study.config import given_values
    from study.console.why_tables import why_text
    from study.ledger.importance import reasons_of
    from study.report.filters import filtered

    found = find(name, storage)
    config = found.config
    if config.search is None:
        raise InputError(f"study {name!r} searches nothing", "only a search can tell which parameters mattered")
    with looking(found) as looker:
        rows = filtered(looker.brief().rows, where, given_values(config))
    reasons = reasons_of(rows, config.search.space, mode=config.mode)
    if as_json:
        print_json(asdict(reasons))
    else:
        typer.echo(why_text(reasons, metric=config.metric, mode=config.mode, width=table_width()), err=True)
