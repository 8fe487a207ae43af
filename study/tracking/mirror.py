"""Records of the journal as calls of MLflow; applying one twice gives the same as once."""

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from study.errors import EnvironmentFault
from study.tracking.journal import NO_RUN, Record, Run
from study.tracking.server import MAX_TAG, clean_key, is_local, make_client, param_text

logger = logging.getLogger(__name__)

METRICS_PER_BATCH: Final = 1000
PARAMS_PER_BATCH: Final = 100
RUNS_PER_PAGE: Final = 1000
STATUS: Final = {
    "complete": "FINISHED",
    "pruned": "FINISHED",
    "failed": "FAILED",
    "running": "KILLED",
    "done": "FINISHED",
}


class Mirror:
    """One study's experiment, parent run and child runs, found by their tags or made.

    Args:
        tracking_uri: MLflow's address.
        study: name of the experiment.
        study_id: tag by which this study's runs are found.
        artifact_dir: where artifacts go when MLflow is a database file.
    """

    def __init__(self, tracking_uri: str, *, study: str, study_id: str, artifact_dir: Path) -> None:
        self._uri = tracking_uri
        self._study = study
        self._study_id = study_id
        self._artifact_dir = artifact_dir
        self._client: Any = None
        self._experiment = ""
        self._runs: dict[Run, str] = {}

    def is_new(self) -> bool:
        """Whether MLflow knows nothing of this study yet, so that the journal has to be told from its beginning."""
        return NO_RUN not in self._connected()

    def forget(self) -> None:
        """Look everything up again with the next record; for use after any failure."""
        self._client = None
        self._runs = {}

    def apply(self, records: Sequence[Record]) -> None:
        """Carry one record over, or several epochs of one run at once. Raises whatever MLflow raises."""
        first = records[0]
        match first.kind:
            case "epoch":
                self._epochs(records)
            case "study":
                self._describe(first)
            case "start":
                self._start(first)
            case "end":
                self._end(first)
            case "test":
                self._test(first)
            case "artifact":
                self._artifact(first)
            case "close":
                self._tag(self._run_id(first), {"study.state": first.payload["state"]})
                self._set_status(self._run_id(first), first)

    def _connected(self) -> dict[Run, str]:
        if self._client is not None:
            return self._runs
        client = make_client(self._uri)
        experiment = client.get_experiment_by_name(self._study)
        if experiment is not None and experiment.lifecycle_stage != "active":
            raise EnvironmentFault(
                f"MLflow's experiment {self._study} was deleted", "restore it in MLflow, or give the study another name"
            )
        if experiment is None:
            location = self._artifact_dir.resolve().as_uri() if is_local(self._uri) else None
            self._experiment = client.create_experiment(self._study, artifact_location=location)
        else:
            self._experiment = experiment.experiment_id
        self._runs = dict(_known_runs(client, self._experiment, self._study_id))
        self._client = client
        return self._runs

    def _run_id(self, record: Record) -> str:
        """The MLflow run of a record; made with all of its identifying tags in one call when it is new."""
        runs = self._connected()
        if record.run not in runs:
            tags = {"study.id": self._study_id, "study.kind": "parent", "study.state": "running"}
            name = self._study
            if record.run != NO_RUN:
                parent = self._run_id(_for_study(record))
                trial = {"study.trial": record.trial, "study.seed": str(record.seed), "mlflow.parentRunId": parent}
                tags |= {"study.kind": "run", **trial}
                name = f"{record.trial}-s{record.seed}"
            made = self._client.create_run(self._experiment, start_time=record.time_ms, tags=tags, run_name=name)
            runs[record.run] = made.info.run_id
        return runs[record.run]

    def _describe(self, record: Record) -> None:
        run_id, text = self._run_id(record), record.payload["config"]
        tags = {f"study.{key}": str(record.payload[key]) for key in ("metric", "mode", "search_seed")}
        self._tag(run_id, {**tags, "study.state": "running", "study.config": text if len(text) < MAX_TAG else ""})
        self._client.update_run(run_id, status="RUNNING")
        self._client.log_text(run_id, text, "study.yaml")

    def _start(self, record: Record) -> None:
        from mlflow.entities import Param

        run_id, payload = self._run_id(record), record.payload
        tags = {"study.state": "running", "study.attempt": str(payload["attempt"])}
        tags["study.params"] = json.dumps(payload["params"])
        # The run of the search stays one when the same seed is confirmed later.
        if self._client.get_run(run_id).data.tags.get("study.stage") != "search":
            tags["study.stage"] = payload["stage"]
        self._tag(run_id, tags)
        self._client.update_run(run_id, status="RUNNING")
        params = [Param(clean_key(key), param_text(value)) for key, value in payload["params"].items()]
        for part in _parts(params, PARAMS_PER_BATCH):
            self._client.log_batch(run_id, params=part)
        if payload["config"]:
            self._client.log_text(run_id, payload["config"], "config.yaml")

    def _epochs(self, records: Sequence[Record]) -> None:
        points = []
        for record in records:
            payload = record.payload
            extra = {"epoch/seconds": payload["seconds"], "epoch/images": payload["images"]}
            points += _metrics({**payload["metrics"], **extra}, record, step=payload["epoch"])
        run_id, last = self._run_id(records[0]), records[-1].payload
        self._log(run_id, points)
        if last.get("batches"):
            self._tag(run_id, {"study.batches": f"epoch {last['epoch']}: {last['batches']}"})

    def _end(self, record: Record) -> None:
        run_id, payload = self._run_id(record), record.payload
        best = {f"best/{key}": value for key, value in payload["metrics"].items()}
        self._log(run_id, _metrics(best, record, step=payload["best_epoch"]))
        is_interrupted = payload["state"] == "running"
        tags = {
            "study.state": "interrupted" if is_interrupted else payload["state"],
            "study.epochs": str(payload["epochs"]),
            "study.best_epoch": str(payload["best_epoch"]),
            "study.checkpoint": payload["checkpoint"],
            "study.reason": payload["reason"][: MAX_TAG // 2],
            "study.undefined": _undefined(payload["metrics"]),
        }
        self._tag(run_id, tags)
        self._set_status(run_id, record)

    def _test(self, record: Record) -> None:
        run_id, payload = self._run_id(record), record.payload
        self._log(run_id, _metrics(payload["metrics"], record, step=payload["best_epoch"]))
        self._tag(run_id, {"study.undefined_test": _undefined(payload["metrics"])})

    def _artifact(self, record: Record) -> None:
        path = Path(record.payload["path"])
        if not path.is_file():
            raise FileNotFoundError(f"the artifact {path} is gone")
        self._client_for(record).log_artifact(self._run_id(record), str(path), record.payload["folder"] or None)

    def _client_for(self, record: Record) -> Any:
        self._run_id(record)
        return self._client

    def _log(self, run_id: str, points: Sequence[Any]) -> None:
        for part in _parts(points, METRICS_PER_BATCH):
            self._client.log_batch(run_id, metrics=part)

    def _tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(run_id, tags=[RunTag(key, value[:MAX_TAG]) for key, value in tags.items()])

    def _set_status(self, run_id: str, record: Record) -> None:
        status = STATUS.get(record.payload["state"], "KILLED")
        self._client.set_terminated(run_id, status=status, end_time=record.time_ms)


def _known_runs(client: Any, experiment: str, study_id: str) -> Iterable[tuple[Run, str]]:
    """This study's runs; of several with one name, which a lost answer can leave, the oldest."""
    token: str | None = None
    while True:
        page = client.search_runs(
            [experiment],
            filter_string=f"tags.`study.id` = '{study_id}'",
            max_results=RUNS_PER_PAGE,
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        for run in page:
            tags = run.data.tags
            is_parent = tags.get("study.kind") == "parent"
            yield (NO_RUN if is_parent else (tags["study.trial"], int(tags["study.seed"]))), run.info.run_id
        token = page.token
        if not token:
            return


def _for_study(record: Record) -> Record:
    return Record(sequence=0, kind="study", trial="", seed=0, time_ms=record.time_ms, payload={})


def _metrics(values: Mapping[str, float], record: Record, *, step: int) -> list[Any]:
    """Points with the record's own time, so that a second delivery is the same point; only finite numbers."""
    from mlflow.entities import Metric

    return [
        Metric(clean_key(key), float(value), record.time_ms, step)
        for key, value in values.items()
        if math.isfinite(value)
    ]


def _undefined(metrics: Mapping[str, float]) -> str:
    """The names of undefined metrics as a JSON list, cut so that it fits into a tag."""
    names = [clean_key(key) for key, value in metrics.items() if not math.isfinite(value)]
    while len(text := json.dumps(names)) > MAX_TAG:
        names = names[: len(names) // 2]
    return text


def _parts(items: Sequence[Any], size: int) -> Iterable[list[Any]]:
    return (list(items[start : start + size]) for start in range(0, len(items), size))
