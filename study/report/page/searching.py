"""The search: history, curves, what mattered, how each value did, all trials at once."""

import math
from collections.abc import Sequence

from study.config import SearchConfig
from study.ledger.importance import Importance, Reasons, reasons_of
from study.report.page.answer import metric_name
from study.report.page.cells import count, mean_sd, metric, share, word
from study.report.page.evidence import Evidence
from study.report.page.parts import Block, Note, Picture, Pictures, Section, Table
from study.report.page.search_figures import (
    curves_picture,
    history_picture,
    importance_picture,
    parallel_picture,
    slice_pictures,
)
from study.report.ranking import ranked
from study.report.words import number, params_text
from study.types import TrialRow

SHOWN_TRIALS = 15


def search_section(evidence: Evidence) -> Section:
    """What the search did, from the ledger alone."""
    config, rows = evidence.config, evidence.result.rows
    if not rows:
        note = Note(text="The search has not begun.", kind="missing", command=evidence.command("resume"))
        return Section(key="search", title="Search", finding="No trial has started.", blocks=(note,))
    blocks: list[Block] = [Pictures(pictures=(history_picture(evidence), curves_picture(evidence)))]
    if config.search is not None:
        blocks += _what_mattered(evidence, config.search)
    blocks.append(_trials_table(evidence))
    return Section(key="search", title="Search", finding=_finding(evidence), blocks=tuple(blocks))


def _finding(evidence: Evidence) -> str:
    result = evidence.result
    states = ("complete", "pruned", "failed", "running", "waiting")
    counts = [f"{n} {state}" for state in states if (n := sum(row.state == state for row in result.rows))]
    best = next((row for row in ranked(result) if row.state == "complete"), None)
    text = f"{len(result.rows)} trials: {', '.join(counts)}."
    return f"{text} The best on validation is trial {best.trial} with {number(best.value)}." if best else text


def _what_mattered(evidence: Evidence, search: SearchConfig) -> list[Block]:
    rows, mode = evidence.result.rows, evidence.config.mode
    reasons = reasons_of(rows, search.space, mode=mode)
    pictures: list[Picture] = []
    if reasons.importances:
        pictures.append(importance_picture(reasons))
    complete = [row for row in rows if row.state in ("complete", "pruned") and row.value is not None]
    blocks: list[Block] = []
    names = [node.path for node in search.space.nodes]
    names = list(dict.fromkeys(names))
    if complete:
        pictures += slice_pictures(evidence, names, logs={node.path for node in search.space.nodes if node.log})
    if pictures:
        blocks.append(Pictures(pictures=tuple(pictures)))
    if len(complete) > 1 and len(names) > 1:
        logs = {node.path for node in search.space.nodes if node.log}
        blocks.append(Pictures(pictures=(parallel_picture(evidence, names, logs=logs),)))
    if reasons.importances:
        blocks.append(_importance_table(reasons.importances))
    if reasons.interactions:
        blocks.append(_interactions_table(reasons))
    if reasons.note:
        more = evidence.command("resume", "--trials", "+20")
        blocks.append(Note(text=_sentence(f"What mattered: {reasons.note}"), kind="missing", command=more))
    if reasons.slices:
        blocks.append(_slices_table(reasons, evidence.config.metric))
    return blocks


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def _importance_table(importances: Sequence[Importance]) -> Table:
    rows = tuple((word(one.parameter), share(one.share), count(one.trials)) for one in importances)
    return Table(
        name="importance",
        caption="Share of each parameter in the importance of all (PED-ANOVA)",
        columns=("parameter", "share", "trials"),
        rows=rows,
    )


def _interactions_table(reasons: Reasons) -> Table:
    rows = tuple((word(" and ".join(one.parameters)), metric(one.strength)) for one in reasons.interactions)
    return Table(
        name="interactions",
        caption="Pairs of parameters whose joint effect is not the sum of their own (Friedman's H)",
        columns=("parameters", "strength"),
        rows=rows,
    )


def _slices_table(reasons: Reasons, name: str) -> Table:
    rows = tuple(
        (word(one.parameter), word(_range(one.values)), count(one.trials), metric(one.mean), metric(one.best))
        for one in reasons.slices
    )
    return Table(
        name="slices",
        caption=f"How each value did: {metric_name(name)} of complete trials on validation",
        columns=("parameter", "values", "trials", "mean", "best"),
        rows=rows,
        words=(0, 1),
    )


def _range(text: str) -> str:
    low, _, high = text.partition(" to ")
    return low if low == high else text


def _trials_table(evidence: Evidence) -> Table:
    result = evidence.result
    order = ranked(result)
    rows = tuple(
        (
            word(rank if row.state == "complete" else ""),
            word(row.trial),
            word(params_text(row.params) or "as in the study file"),
            mean_sd(_finite(row), row.sd) if row.runs else metric(_finite(row)),
            count(row.epochs),
            word(row.state if row.is_feasible else f"{row.state}, misses a constraint"),
        )
        for rank, row in enumerate(order[:SHOWN_TRIALS], start=1)
    )
    rest = len(order) - SHOWN_TRIALS
    return Table(
        name="trials",
        caption="Trials, best first",
        columns=("rank", "trial", "parameters", metric_name(result.metric), "epochs", "state"),
        rows=rows,
        words=(2, 5),
        note=" ".join(
            [
                *(["± is the SD over the runs of a trial."] if any(row.runs for row in order) else []),
                *([f"{rest} more trials are in search.csv."] if rest > 0 else []),
            ]
        ),
    )


def _finite(row: TrialRow) -> float:
    return row.value if row.value is not None and math.isfinite(row.value) else math.nan
