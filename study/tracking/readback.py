"""What MLflow alone knows about a study: its table, best first, and its study file."""

import difflib
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from study.errors import InputError
from study.tracking.quick import quick_runs
from study.tracking.server import clean_key, make_reader, unreachable
from study.types import TrialRow

RUNS_PER_PAGE: Final = 1000
MAX_LOOKUPS: Final = 20  # trials that are looked up one by one; more are read with all others


def best_rows(tracking_uri: str, study: str, *, trials: Sequence[str] | None = None) -> list[TrialRow]:
    """The complete trials of a study, best first (the lower number of equals), read from MLflow and nothing else.

    ``value`` and ``metrics`` are those of the run of the search at its best epoch; ``test/...`` metrics are means over
    all seeds that were evaluated. ``seeds`` and ``mlflow_run_ids`` list the search's run first, then the others. Where
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
    """The resolved study file as YAML, as the newest run of the study had it.

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
    """The row of one trial; None unless its run of the search is complete."""
    by_seed = {int(run.data.tags["study.seed"]): run for run in runs}
    first = next((run for run in by_seed.values() if run.data.tags.get("study.stage") == "search"), None)
    if first is None or first.data.tags.get("study.state") != "complete":
        return None
    tags = first.data.tags
    own_seed = int(tags["study.seed"])
    seeds = (own_seed, *sorted(seed for seed in by_seed if seed != own_seed))
    metrics = _best_metrics(first)
    if not math.isfinite(metrics.get(metric, math.nan)):
        return None
    return TrialRow(
        trial=tags["study.trial"],
        state="complete",
        value=metrics[metric],
        params=json.loads(tags.get("study.params", "{}")),
        metrics={**metrics, **_test_means([by_seed[seed] for seed in seeds])},
        seeds=seeds,
        epochs=int(tags["study.epochs"]),
        mlflow_run_ids=tuple(by_seed[seed].info.run_id for seed in seeds),
        checkpoint=tags.get("study.checkpoint", ""),
    )


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
