"""Where a study stands, from its ledger alone: the table, the confirmation with its statistics, what is left to do.

Statistics are imported where they are needed: scipy takes half a second, and `study best` hardly ever needs it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from study.config import StudyConfig, apply_params, mode_of
from study.failures import retry_note
from study.ledger import Ledger, RunRecord
from study.metrics import range_of
from study.types import ComparatorRow, ConfirmRow, Retry, RunOutcome, StudyResult, TrialRow

CONFIRMED: Final = "confirm finished"
DATASET: Final = "dataset fingerprint"
BASELINE: Final = "baseline"
MC_DROPOUT: Final = "test/mc_dropout/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One configuration to confirm: a trial, or the study file's own values as the baseline."""

    trial: str
    params: Mapping[str, Any]
    config: StudyConfig


def choose_candidates(config: StudyConfig, rows: Sequence[TrialRow]) -> list[Candidate]:
    """The best complete trials, then the baseline when the study file asks for it and searches anything.

    A trial with the baseline's very configuration is not confirmed beside it.
    """
    if config.confirm is None:
        return []
    complete = ranked_complete(rows, mode=config.mode, modes=[mode_of(metric) for metric in config.metrics])
    has_baseline = bool(complete and config.search and config.confirm.baseline)
    chosen: list[Candidate] = []
    for row in complete:
        if len(chosen) == config.confirm.top:
            break
        own = apply_params(config, row.params)
        if not (has_baseline and own == config):
            chosen.append(Candidate(trial=row.trial, params=row.params, config=own))
    return [*chosen, Candidate(trial=BASELINE, params={}, config=config)] if has_baseline else chosen


def ranked_complete(rows: Sequence[TrialRow], *, mode: str, modes: Sequence[str] = ()) -> list[TrialRow]:
    """Complete trials that keep the constraints, best first; equal ones in trial order, repeats left out.

    With the ``modes`` of several metrics those of the first Pareto front come first, ordered by the first metric.
    """
    sign = -1.0 if mode == "max" else 1.0
    complete = [row for row in rows if row.state == "complete" and row.value is not None]
    complete = [row for row in complete if row.is_feasible and not row.repeats]
    fronts = [1] * len(complete)
    if len(modes) > 1:
        from study.stats.fronts import front_numbers

        fronts = front_numbers([row.values for row in complete], modes)
    order = sorted(range(len(complete)), key=lambda i: (fronts[i], sign * complete[i].value, int(complete[i].trial)))  # type: ignore[operator]
    return [complete[i] for i in order]


def is_done(ledger: Ledger, config: StudyConfig, rows: Sequence[TrialRow] | None = None) -> bool:
    """Whether search and confirm have spent their budgets; ``rows`` are the ledger's, when they are at hand."""
    confirmed = config.confirm is None or ledger.stage(CONFIRMED) == confirm_key(config)
    return not ledger.left(rows) and confirmed


def left_to_search(ledger: Ledger) -> int:
    """Trials that the search still has to finish: open ones and those that its budget still allows."""
    return ledger.left()


def noted_rows(ledger: Ledger) -> tuple[TrialRow, ...]:
    """The trials, each with what its runs needed that the study file does not say, and how often they were begun."""
    return with_retries(ledger.rows(), ledger.retries())


def read_result(ledger: Ledger, config: StudyConfig, *, did_work: bool = True) -> StudyResult:
    """Where a study stands, from its ledger alone."""
    rows = noted_rows(ledger)
    done = is_done(ledger, config, rows)
    # The search trained its own seeds of every trial; their validation metrics stand in the trial itself.
    own = [record for row in rows for record in _own_records(row, ledger.metric)]
    confirmed = (
        confirm_rows(
            choose_candidates(config, rows),
            [*own, *ledger.run_records()],
            seeds=config.confirm.seeds,
            metric=ledger.metric,
        )
        if config.confirm
        else []
    )
    comparators = (
        comparator_rows(ledger, choose_candidates(config, rows), config.confirm.seeds) if config.confirm else []
    )
    return StudyResult(
        study=config.study,
        state="done" if done else ("interrupted" if rows else "new"),
        metric=ledger.metric,
        mode=ledger.mode,
        rows=rows,
        confirmed=tuple(confirmed),
        comparators=tuple(comparators),
        trials_planned=config.num_trials,
        did_work=did_work,
        metrics=ledger.metrics if len(ledger.metrics) > 1 else (),
        over=ledger.over,
    )


def with_retries(
    rows: Sequence[TrialRow], retries: Mapping[tuple[str, int], tuple[Retry, ...]]
) -> tuple[TrialRow, ...]:
    """Rows that tell how often their trials were tried again, in the search and in the confirmation, and why."""
    by_trial: dict[str, tuple[Retry, ...]] = {}
    for (trial, _), tried in retries.items():
        by_trial[trial] = by_trial.get(trial, ()) + tried
    told = []
    for row in rows:
        tried = by_trial.get(row.trial, ())
        told.append(replace(row, retries=tried, attempts=row.attempts + len(tried), note=retry_note(tried)))
    return tuple(told)


def _own_records(row: TrialRow, metric: str) -> list[RunRecord]:
    """The runs of the search that are runs of the confirmation, too; those of a fold are not."""
    found: dict[int, Mapping[str, float]]
    if row.runs:
        found = {run.seed: {metric: run.value} for run in row.runs if not run.fold and run.value is not None}
    else:
        found = {row.seeds[0]: row.metrics}
    return [
        RunRecord(trial=row.trial, seed=seed, kind="train", outcome=RunOutcome(state="complete", metrics=metrics))
        for seed, metrics in found.items()
    ]


def confirm_key(config: StudyConfig) -> str:
    """What a finished confirm stage covered; asking for more makes it unfinished."""
    assert config.confirm is not None  # noqa: S101 - callers have checked
    confirm = config.confirm
    text = f"trials={config.num_trials} top={confirm.top} seeds={list(confirm.seeds)} baseline={confirm.baseline}"
    text += " ensemble" if confirm.ensemble else ""
    return text + (f" mc_dropout={confirm.mc_dropout.model_dump()}" if confirm.mc_dropout else "")


def test_metric(metric: str) -> str:
    """The test split's counterpart of a validation metric: ``val/x`` is ``test/x``."""
    return "test/" + metric.removeprefix("val/")


def confirm_rows(
    candidates: Sequence[Candidate], records: Sequence[RunRecord], *, seeds: Sequence[int], metric: str
) -> list[ConfirmRow]:
    """Mean, SD, 95 % interval, effect and Holm-corrected Welch p-value of every candidate that has test results.

    Effects and p-values compare with the baseline and are NaN without one, or with fewer than two seeds on a side.

    Args:
        candidates: the confirmed configurations, the baseline last.
        records: training (``val/...`` metrics) and test (``test/...``) records of their runs.
        seeds: seeds in the order of the study file; those without a test record are left out.
        metric: the study's metric, ``val/...``.
    """
    from study.stats import holm, mean_interval

    samples = {c.trial: _by_seed(records, c.trial, seeds=seeds, metric=test_metric(metric)) for c in candidates}
    base = list(samples.get(BASELINE, {}).values())
    compared = {c.trial: list(samples[c.trial].values()) for c in candidates if c.trial != BASELINE}
    p_values = {trial: _p_value(sample, base) for trial, sample in compared.items()}
    known = [trial for trial, p in p_values.items() if not math.isnan(p)]
    corrected = dict(zip(known, holm([p_values[trial] for trial in known]), strict=True))
    rows = []
    for candidate in candidates:
        sample = samples[candidate.trial]
        if not sample:
            continue
        interval = mean_interval(list(sample.values()))
        smallest, largest = range_of(metric)  # few seeds give a wide interval; what lies outside is impossible
        validation = list(_by_seed(records, candidate.trial, seeds=seeds, metric=metric).values())
        rows.append(
            ConfirmRow(
                trial=candidate.trial,
                params=candidate.params,
                seeds=tuple(sample),
                values=tuple(sample.values()),
                mean=interval.mean,
                sd=interval.sd,
                low=max(interval.low, smallest),
                high=min(interval.high, largest),
                val_mean=sum(validation) / len(validation) if validation else math.nan,
                effect=_effect(compared.get(candidate.trial, []), base),
                p=p_values.get(candidate.trial, math.nan),
                p_holm=float(corrected.get(candidate.trial, math.nan)),
            )
        )
    return rows


def comparator_rows(ledger: Ledger, candidates: Sequence[Candidate], seeds: Sequence[int]) -> list[ComparatorRow]:
    """Dropout and ensemble of every candidate, as far as the ledger has them."""
    from study.stats import mean_interval

    records, metric = ledger.run_records(), test_metric(ledger.metric)
    rows = []
    for candidate in candidates:
        sampled = _by_seed(records, candidate.trial, seeds=seeds, metric=metric.replace("test/", MC_DROPOUT, 1))
        if sampled:
            interval = mean_interval(list(sampled.values()))
            smallest, largest = range_of(metric)
            rows.append(
                ComparatorRow(
                    kind="mc_dropout",
                    trial=candidate.trial,
                    seeds=tuple(sampled),
                    value=interval.mean,
                    low=max(interval.low, smallest),
                    high=min(interval.high, largest),
                )
            )
        kept = ledger.stage(ensemble_stage(candidate.trial))
        if kept and list(kept["seeds"]) == list(seeds):
            numbers = {key: float(kept[key]) for key in ("value", "low", "high")}
            rows.append(ComparatorRow(kind="ensemble", trial=candidate.trial, seeds=tuple(kept["seeds"]), **numbers))
    return rows


def ensemble_stage(trial: str) -> str:
    """Under which name the ledger keeps the ensemble of a configuration."""
    return f"ensemble {trial}"


def _by_seed(records: Sequence[RunRecord], trial: str, *, seeds: Sequence[int], metric: str) -> dict[int, float]:
    kind = "evaluate" if metric.startswith("test/") else "train"
    found = {r.seed: r.outcome.metrics.get(metric) for r in records if r.trial == trial and r.kind == kind}
    return {seed: float(value) for seed in seeds if (value := found.get(seed)) is not None}


def _p_value(sample: list[float], base: list[float]) -> float:
    from study.stats import welch

    return float(welch(sample, base).p) if len(sample) > 1 and len(base) > 1 else math.nan


def _effect(sample: list[float], base: list[float]) -> float:
    from study.stats import hedges_g

    return float(hedges_g(sample, base)) if len(sample) > 1 and len(base) > 1 else math.nan
