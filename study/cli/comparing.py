"""The verb compare: studies side by side."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from study.cli.looking import find, looking
from study.cli.showing import print_json, table_width
from study.errors import InputError

if TYPE_CHECKING:
    from study.report.comparing import Compared, Side

DATASET = "dataset fingerprint"


def show_compare(names: Sequence[str], *, storage: str, as_json: bool) -> None:
    """Studies side by side; the first is what the others are held against.

    Raises:
        InputError: fewer than two studies, one named twice, or one that does not exist.
        EnvironmentFault: a ledger's database does not answer.
    """
    from study.console.compare_tables import compare_text
    from study.report.comparing import compare_studies

    if len(names) < 2:
        raise InputError("study compare: expected two studies or more", "`study list` shows what is there")
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise InputError(f"study compare: {twice[0]} is named twice", "name each study once")
    comparison = compare_studies([_side(name, storage) for name in names])
    if as_json:
        print_json(
            {
                "studies": [_side_record(side) for side in comparison.sides],
                "differences": comparison.differences,
                "comparisons": [_compared_record(one) for one in comparison.compared],
            }
        )
    else:
        typer.echo(compare_text(comparison, width=table_width()), err=True)


def _side(name: str, storage: str) -> "Side":
    from study.report.comparing import Side

    found = find(name, storage)
    with looking(found) as looker:
        snapshot = looker.look()
        return Side(config=found.config, result=snapshot.result, fingerprint=str(looker.stage(DATASET) or ""))


def _side_record(side: "Side") -> dict[str, Any]:
    best, confirmed = side.best, side.confirmed
    return {
        "study": side.name,
        "state": side.result.state,
        "metric": side.config.metric,
        "mode": side.config.mode,
        "dataset": side.fingerprint or None,
        "trials": {
            state: sum(row.state == state for row in side.result.rows)
            for state in sorted({row.state for row in side.result.rows})
        },
        "best": {"trial": best.trial, "value": best.value, "params": dict(best.params), "seeds": list(best.seeds)}
        if best
        else None,
        "test": {
            "trial": confirmed.trial,
            "seeds": list(confirmed.seeds),
            "values": list(confirmed.values),
            "mean": confirmed.mean,
            "sd": confirmed.sd,
            "low": confirmed.low,
            "high": confirmed.high,
        }
        if confirmed
        else None,
        "cost": side.cost,
    }


def _compared_record(one: "Compared") -> dict[str, Any]:
    record: dict[str, Any] = {"first": one.first, "other": one.other, "is_compared": not one.reason}
    if one.reason:
        return record | {"reason": one.reason}
    return record | {
        "metric": one.metric,
        "trials": list(one.trials),
        "seeds": [list(seeds) for seeds in one.seeds],
        "difference": one.difference,
        "low": one.low,
        "high": one.high,
        "p": one.p,
        "p_holm": one.p_holm,
        "hedges_g": one.effect,
        "test": "Welch's t-test over seeds, Holm-corrected over the comparisons",
    }
