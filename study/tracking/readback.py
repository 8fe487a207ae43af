"""What MLflow alone knows about a study: its table, best first, and its study file."""

import difflib
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from study.errors import InputError
from study.tracking.quick import quick_runs
from study.tracking.server import CONFIG_DIGEST, clean_key, make_reader, unreachable
from study.types import RunRow, TrialRow

RUNS_PER_PAGE: Final = 1000
MAX_LOOKUPS: Final = 20  # trials that are looked up one by one; more are read with all others


def best_rows(tracking_uri: str, study: str, *, trials: Sequence[str] | None = None) -> list[TrialRow]:
    """The complete trials of a study, best first (the lower number of equals), read from MLflow and nothing else.

    ``value`` and ``metrics`` are those of the run of the search at its best epoch, or means over its runs where a trial
    has several; ``test/...`` metrics are means over
    all seeds that were evaluated. ``seeds`` and ``mlflow_run_ids`` list the search's runs first, then the others. Where
    MLflow holds several studies of this name, the newest counts. The baseline has no run of the search and no row.
    With ``trials`` only those are looked up, which is quick however many others there are.

    Raises:
        InputError: there is no such study; the fix names near ones.
        EnvironmentFault: MLflow does not answer.
    """
    few = trials if trials is not None and len(trials) <= MAX_LOOKUPS else None
    tags, children = (quick_runs(tracking_uri, study, few) if few else None) or _runs(tracking_uri, study, few)
    by_trial: dict[str, list[Any]] = defaultdict(list)
    for run in children:
        by_trial[run.data.tags["study.trial"]].append(run)
    metric, mode = clean_key(tags["study.metric"]), tags["study.mode"]
    rows = [row for runs in by_trial.values() if (row := _row(runs, metric=metric)) is not None]
    sign = -1 if mode == "max" else 1
    return sorted(rows, key=lambda row: (sign * (row.value or 0.0), int(row.trial)))


def _runs(tracking_uri: str, study: str, trials: Sequence[str] | None) -> tuple[Mapping[str, str], list[Any]]:
    """Tags of the study's newest run, and the runs of all or some of its trials, from MLflow's client."""
    client = make_reader(tracking_uri)
    try:
        parent = _parent(client, study)
        experiment, below = parent.info.experiment_id, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
        only = [""] if trials is None else [f" AND tags.`study.trial` = '{trial}'" for trial in trials]
        return parent.data.tags, [run for more in only for run in _search(client, experiment, below + more)]
    except InputError:
        raise
    except Exception as error:
        raise unreachable(tracking_uri, error) from error


def study_config_text(tracking_uri: str, study: str) -> str:
    """The resolved study file as YAML, as the newest run of the study had it; checked against its SHA-256.

    Raises:
        InputError: there is no such study; the fix names near ones.
        EnvironmentFault: MLflow does not answer.
    """
    client = make_reader(tracking_uri)
    try:
        parent = _parent(client, study)
        text: str = parent.data.tags.get("study.config", "")
        if not text:
            text = Path(client.download_artifacts(parent.info.run_id, "study.yaml")).read_text(encoding="utf-8")
    except InputError:
        raise
    except Exception as error:
        raise unreachable(tracking_uri, error) from error
    digest = parent.data.tags.get(CONFIG_DIGEST)  # studies of before have none
    if digest and digest != sha256(text.encode()).hexdigest():
        raise InputError(
            f"the study file that MLflow holds of {study!r} is not the one that was sent: its SHA-256 differs",
            "take the study.yaml of the study's directory, or write MLflow anew with `study sync`",
        )
    return text


def _parent(client: Any, study: str) -> Any:
    experiment = client.get_experiment_by_name(study)
    if experiment is None or experiment.lifecycle_stage != "active":
        names = [one.name for one in client.search_experiments() if one.name != "Default"]
        near = difflib.get_close_matches(study, names, n=3) or sorted(names)[:3]
        fix = f"did you mean {' or '.join(near)}?" if near else "run it first: `study run FILE`"
        raise InputError(f"MLflow knows no study {study!r}", fix)
    parents = _search(client, experiment.experiment_id, "tags.`study.kind` = 'parent'")
    if not parents:
        raise InputError(
            f"MLflow's experiment {study!r} was not written by a study", "give the study a name of its own"
        )
    return max(parents, key=lambda run: run.info.start_time)


def _search(client: Any, experiment: str, filter_string: str) -> list[Any]:
    runs: list[Any] = []
    token: str | None = None
    while True:
        page = client.search_runs(
            [experiment], filter_string=filter_string, max_results=RUNS_PER_PAGE, page_token=token
        )
        runs += page
        token = page.token
        if not token:
            return runs


def _row(runs: Sequence[Any], *, metric: str) -> TrialRow | None:
    """The row of one trial; None unless its runs of the search are complete."""
    searched = sorted((run for run in runs if run.data.tags.get("study.stage") == "search"), key=_place)
    if not searched or len(searched) < int(searched[0].data.tags.get("study.runs", 1)):
        return None
    if any(run.data.tags.get("study.state") != "complete" for run in searched):
        return None
    first = searched[0].data.tags
    others = sorted((run for run in runs if run not in searched), key=_place)
    metrics = _means([_best_metrics(run) for run in searched])
    if not math.isfinite(metrics.get(metric, math.nan)):
        return None
    of_seeds = [*searched, *others]
    return TrialRow(
        trial=first["study.trial"],
        state="complete",
        value=metrics[metric],
        params=json.loads(first.get("study.params", "{}")),
        metrics={**metrics, **_test_means(of_seeds)},
        seeds=tuple(dict.fromkeys(int(run.data.tags["study.seed"]) for run in of_seeds)),
        epochs=sum(int(run.data.tags["study.epochs"]) for run in searched),
        mlflow_run_ids=tuple(run.info.run_id for run in of_seeds),
        checkpoint=first.get("study.checkpoint", ""),
        runs=tuple(_run_row(run, metric=metric) for run in searched) if len(searched) > 1 else (),
    )


def _run_row(run: Any, *, metric: str) -> RunRow:
    tags, value = run.data.tags, _best_metrics(run).get(metric)
    seed, fold = _place(run)[1:]
    epochs, place = int(tags["study.epochs"]), tags.get("study.checkpoint", "")
    return RunRow(seed=seed, fold=fold, state="complete", value=value, epochs=epochs, checkpoint=place)


def _place(run: Any) -> tuple[int, int, int]:
    """Where a run stands among those of its trial: first the one with the trial's state, then by seed and fold."""
    tags = run.data.tags
    return int("study.trial_state" not in tags), int(tags["study.seed"]), int(tags.get("study.fold", 0))


def _means(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of every metric over runs; NaN where one has none."""
    names = dict.fromkeys(name for of_run in metrics for name in of_run)
    return {name: statistics.fmean(of_run.get(name, math.nan) for of_run in metrics) for name in names}


def _best_metrics(run: Any) -> dict[str, float]:
    values = run.data.metrics.items()
    found = {key.removeprefix("best/"): float(value) for key, value in values if key.startswith("best/")}
    return {**_undefined(run.data.tags, "study.undefined"), **found}


def _test_means(runs: Sequence[Any]) -> dict[str, float]:
    """Mean of every test metric over the runs that have it; NaN where any of them could not define it."""
    values: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        found = {key: float(value) for key, value in run.data.metrics.items() if key.startswith("test/")}
        for key, value in {**_undefined(run.data.tags, "study.undefined_test"), **found}.items():
            values[key].append(value)
    return {key: statistics.fmean(all_values) for key, all_values in values.items()}


def _undefined(tags: Mapping[str, str], tag: str) -> dict[str, float]:
    return dict.fromkeys(json.loads(tags.get(tag, "[]")), math.nan)
