"""Records of the journal as calls of MLflow; applying one twice gives the same as once."""

import json
import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from study.errors import EnvironmentFault
from study.tracking.journal import NO_RUN, Record, Run
from study.tracking.server import CONFIG_DIGEST, DIGEST, MAX_TAG, clean_key, is_local, make_client, param_text
from study.types import RunKey

logger = logging.getLogger(__name__)

METRICS_PER_BATCH: Final = 800  # beside 100 parameters and 100 tags; MLflow takes 1,000 of all together
PARAMS_PER_BATCH: Final = 100
RUNS_PER_PAGE: Final = 1000
EPOCH_MARK: Final = "epoch/seconds"
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

    Attributes:
        sent, there: number of runs, and of records by kind, that MLflow has got in this session or had already.
    """

    def __init__(self, tracking_uri: str, *, study: str, study_id: str, artifact_dir: Path) -> None:
        self._uri = tracking_uri
        self._study = study
        self._study_id = study_id
        self._artifact_dir = artifact_dir
        self._client: Any = None
        self._experiment = ""
        self._runs: dict[Run, str] = {}
        self._found: dict[str, set[int] | None] = {}
        self._had_doubles = False
        self.sent: Counter[str] = Counter()
        self.there: Counter[str] = Counter()

    def is_new(self) -> bool:
        """Whether MLflow knows nothing of this study yet, so that the journal has to be told from its beginning."""
        return NO_RUN not in self._connected()

    def forget(self) -> None:
        """Look everything up again with the next record; for use after any failure."""
        self._client = None
        self._runs, self._found = {}, {}

    def apply(self, records: Sequence[Record]) -> None:
        """Carry one record over, or several epochs or files of one run at once. Raises whatever MLflow raises."""
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
            case "trial":
                self._trial(first)
            case "test":
                self._test(first)
            case "artifact":
                self._artifacts(records)
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
        self._runs = self._single_runs(client)
        self._found = dict.fromkeys(self._runs.values())
        self._client = client
        self.there["runs"] = max(self.there["runs"], sum(run != NO_RUN for run in self._runs) - self.sent["runs"])
        return self._runs

    def _single_runs(self, client: Any) -> dict[Run, str]:
        """This study's runs, of each run the oldest; what a lost answer has left beside it is deleted."""
        runs: dict[Run, str] = {}
        for run, run_id in _known_runs(client, self._experiment, self._study_id):
            if runs.setdefault(run, run_id) != run_id:
                name = f"{run[0]}-{RunKey(seed=run[1], fold=run[2]).name}"
                logger.warning("MLflow had run %s twice; one is deleted, the other is told everything", name)
                client.delete_run(run_id)
                self._had_doubles = True
        return runs

    def take_doubles(self) -> bool:
        """Whether a run was there twice since the last call: records may have gone to the one that was deleted."""
        self._connected()
        found, self._had_doubles = self._had_doubles, False
        return found

    def _run_id(self, record: Record) -> str:
        """The MLflow run of a record; made with all of its identifying tags in one call when it is new."""
        runs = self._connected()
        if record.run not in runs:
            tags = {"study.id": self._study_id, "study.kind": "parent", "study.state": "running"}
            name = self._study
            if record.run != NO_RUN:
                parent = self._run_id(_for_study(record))
                trial = {"study.trial": record.trial, "study.seed": str(record.seed), "mlflow.parentRunId": parent}
                tags |= {"study.kind": "run", **trial} | ({"study.fold": str(record.fold)} if record.fold else {})
                name = record.run_name
            made = self._client.create_run(self._experiment, start_time=record.time_ms, tags=tags, run_name=name)
            runs[record.run] = made.info.run_id
            self.sent["runs"] += record.run != NO_RUN
        return runs[record.run]

    def _describe(self, record: Record) -> None:
        run_id, text = self._run_id(record), record.payload["config"]
        tags = {f"study.{key}": str(record.payload[key]) for key in ("metric", "mode", "search_seed")}
        tags |= {"study.config": text if len(text) < MAX_TAG else "", CONFIG_DIGEST: sha256(text.encode()).hexdigest()}
        self._tag(run_id, {**tags, "study.state": "running"})
        self._client.update_run(run_id, status="RUNNING")
        self._client.log_text(run_id, text, "study.yaml")

    def _start(self, record: Record) -> None:
        from mlflow.entities import Param

        is_new, payload = record.run not in self._connected(), record.payload
        run_id = self._run_id(record)
        tags = {"study.state": "running", "study.attempt": str(payload["attempt"])}
        tags["study.params"] = json.dumps(payload["params"])
        tags["mlflow.parentRunId"] = self._run_id(_for_study(record))
        tags |= {"study.retry": payload["retry"]} if payload.get("retry") else {}
        tags |= {"study.runs": str(payload["of_runs"])} if payload.get("of_runs", 1) > 1 else {}
        # The run of the search stays one when the same seed is confirmed later.
        if is_new or self._client.get_run(run_id).data.tags.get("study.stage") != "search":
            tags["study.stage"] = payload["stage"]
        params = [Param(clean_key(key), param_text(value)) for key, value in payload["params"].items()]
        for part in _parts(params[PARAMS_PER_BATCH:], PARAMS_PER_BATCH):
            self._client.log_batch(run_id, params=part)
        self._log(run_id, [], params=params[:PARAMS_PER_BATCH], tags=tags)
        if not is_new:
            self._client.update_run(run_id, status="RUNNING")
        if payload["config"]:
            self._client.log_text(run_id, payload["config"], "config.yaml")

    def _epochs(self, records: Sequence[Record]) -> None:
        run_id, last = self._run_id(records[0]), records[-1].payload
        known = self._known_epochs(run_id)
        news = [record for record in records if record.payload["epoch"] not in known]
        points = []
        for record in news:
            payload = record.payload
            # The last of an epoch's points: where it is, all the others are.
            extra = {"epoch/images": payload["images"], EPOCH_MARK: payload["seconds"]}
            numbers = {**payload["metrics"], **payload.get("system", {}), **extra}
            points += _metrics(numbers, record, step=payload["epoch"])
        tags = {"study.batches": f"epoch {last['epoch']}: {last['batches']}"} if last.get("batches") else {}
        self._log(run_id, points, tags=tags)
        self.sent["epoch"] += len(news)
        self.there["epoch"] += len(records) - len(news)

    def _known_epochs(self, run_id: str) -> set[int]:
        """Epochs that MLflow has of a run that it knew before: a journal that was lost tells them with other times."""
        if run_id not in self._found:
            return set()
        known = self._found[run_id]
        if known is None:
            known = {point.step for point in self._client.get_metric_history(run_id, EPOCH_MARK)}
            self._found[run_id] = known
        return known

    def _log_once(self, record: Record, values: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Log single values unless they are there already, as they may be with another time; and tags."""
        run_id = self._run_id(record)
        points = _metrics(values, record, step=record.payload["best_epoch"])
        known = self._client.get_run(run_id).data.metrics if run_id in self._found else {}
        news = [point for point in points if known.get(point.key) != point.value]
        self._log(run_id, news, tags=tags)
        is_there = run_id in self._found and not news
        (self.there if is_there else self.sent)[record.kind] += 1

    def _end(self, record: Record) -> None:
        payload = record.payload
        is_interrupted = payload["state"] == "running"
        tags = {
            "study.state": "interrupted" if is_interrupted else payload["state"],
            "study.epochs": str(payload["epochs"]),
            "study.best_epoch": str(payload["best_epoch"]),
            "study.checkpoint": payload["checkpoint"],
            "study.reason": payload["reason"][: MAX_TAG // 2],
            "study.failure": payload.get("failure", ""),
            "study.undefined": _undefined(payload["metrics"]),
        }
        self._log_once(record, {f"best/{key}": value for key, value in payload["metrics"].items()}, tags)
        self._set_status(self._run_id(record), record)

    def _trial(self, record: Record) -> None:
        """What several runs of a trial make together stands in the first of them."""
        payload = record.payload
        numbers = {f"mean/{key}": value for key, value in payload["means"].items()}
        numbers |= {f"sd/{key}": value for key, value in payload["sds"].items()}
        reason = payload["reason"][: MAX_TAG // 2]
        self._log_once(record, numbers, {"study.trial_state": payload["state"], "study.trial_reason": reason})

    def _test(self, record: Record) -> None:
        metrics = record.payload["metrics"]
        self._log_once(record, metrics, {"study.undefined_test": _undefined(metrics)})

    def _artifacts(self, records: Sequence[Record]) -> None:
        """Files of one run; whoever fetches one can tell by its tag that it was sent."""
        tags = {}
        for record in records:
            path, folder = Path(record.payload["path"]), record.payload["folder"]
            if not path.is_file():
                raise FileNotFoundError(f"the artifact {path} is gone")
            digest = sha256(path.read_bytes()).hexdigest()
            self._client_for(record).log_artifact(self._run_id(record), str(path), folder or None)
            tags[clean_key(f"{DIGEST}{folder + '/' if folder else ''}{path.name}")] = digest
        self._tag(self._run_id(records[0]), tags)
        self.sent["artifact"] += len(records)

    def _client_for(self, record: Record) -> Any:
        self._run_id(record)
        return self._client

    def _log(
        self, run_id: str, points: Sequence[Any], *, params: Sequence[Any] = (), tags: Mapping[str, str] | None = None
    ) -> None:
        """Metrics in as few calls as MLflow takes; parameters and tags come with the last, when all else is there."""
        from mlflow.entities import RunTag

        *parts, last = [*_parts(points, METRICS_PER_BATCH)] or [[]]
        for part in parts:
            self._client.log_batch(run_id, metrics=part)
        entities = [RunTag(key, value[:MAX_TAG]) for key, value in (tags or {}).items()]
        if last or params or entities:
            self._client.log_batch(run_id, metrics=last, params=params, tags=entities)

    def _tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        self._log(run_id, [], tags=tags)

    def _set_status(self, run_id: str, record: Record) -> None:
        status = STATUS.get(record.payload["state"], "KILLED")
        self._client.set_terminated(run_id, status=status, end_time=record.time_ms)


def _known_runs(client: Any, experiment: str, study_id: str) -> Iterable[tuple[Run, str]]:
    """This study's runs, the oldest first; of the same time, in the order of their ids."""
    token: str | None = None
    while True:
        page = client.search_runs(
            [experiment],
            filter_string=f"tags.`study.id` = '{study_id}'",
            max_results=RUNS_PER_PAGE,
            order_by=["attributes.start_time ASC", "attributes.run_id ASC"],
            page_token=token,
        )
        for run in page:
            tags = run.data.tags
            is_parent = tags.get("study.kind") == "parent"
            key = (
                NO_RUN if is_parent else (tags["study.trial"], int(tags["study.seed"]), int(tags.get("study.fold", 0)))
            )
            yield key, run.info.run_id
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
