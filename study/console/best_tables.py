"""The best trials as a table: with the Pareto front of several metrics, missed constraints, or what they cost."""

from collections.abc import Sequence

from study.console.tables import Column, aligned, trials_table
from study.report.ranking import cost_front, fronts_of, per_device_hour
from study.report.words import duration, number, params_text
from study.types import StudyResult, TrialRow


def best_text(result: StudyResult, shown: Sequence[TrialRow], *, per_cost: bool, width: int) -> str:
    """The first trials of a result that has been filtered and ordered already."""
    if per_cost:
        return _cost_table(result, shown, width=width)
    if len(result.metrics) > 1 or any(row.violations for row in shown):
        return _front_table(result, shown, width=width)
    return trials_table(
        StudyResult(study=result.study, state=result.state, metric=result.metric, mode=result.mode, rows=tuple(shown)),
        width=width,
    )


def _cost_table(result: StudyResult, shown: Sequence[TrialRow], *, width: int) -> str:
    columns = [Column("trial", right=True), Column("parameters"), Column(result.metric, right=True)]
    columns += [Column(name, right=True) for name in ("device time", "images", "per device-hour")]
    front = cost_front(result.rows, mode=result.mode)
    cells = [
        [
            row.trial + ("*" if row.trial in front else ""),
            params_text(row.params),
            number(row.value),
            duration(row.device_seconds),
            f"{row.images:,}",
            number(per_device_hour(row)),
        ]
        for row in shown
    ]
    return "\n".join([*aligned(columns, cells, width=width), "* no other trial is better at the same cost or less"])


def _front_table(result: StudyResult, shown: Sequence[TrialRow], *, width: int) -> str:
    metrics = result.metrics or (result.metric,)
    fronts = fronts_of(result)
    columns = [Column("trial", right=True), Column("parameters"), *(Column(name, right=True) for name in metrics)]
    columns += [Column("epochs", right=True), *([Column("front", right=True)] if fronts else []), Column("constraints")]
    cells = []
    for row in shown:
        values = row.values if len(row.values) == len(metrics) else (row.value,)
        missed = ", ".join(f"{name} missed by {number(excess)}" for name, excess in row.violations.items())
        front = [str(fronts.get(row.trial, "-"))] if fronts else []
        cells.append(
            [row.trial, params_text(row.params), *map(number, values), str(row.epochs), *front, missed or "kept"]
        )
    first = [row for row in result.rows if fronts.get(row.trial) == 1]
    last = [f"{len(first)} trials are on the Pareto front: no other is better in every metric"] if fronts else []
    return "\n".join([*aligned(columns, cells, width=width), *last])
