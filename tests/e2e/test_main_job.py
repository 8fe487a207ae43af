"""The main job: one study from the file to the table, and everything that can be asked of it afterwards."""

import hashlib
import json
import math
import re
import shlex
import shutil
import sqlite3
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import yaml
from sklearn.metrics import f1_score, roc_auc_score

from study.cli.invocation import program
from study.config import apply_params, load_config

pytestmark = pytest.mark.e2e

CLASSES = ("normal", "benign", "malignant")
METRIC = "val/auroc_macro"
TRIAL_KEYS = {"trial", "state", "value", "params", "metrics", "seeds", "epochs", "mlflow_run_ids", "checkpoint"}
RUN_FILES = {"val.png", "predictions_val.parquet", "confusion_val.json", "plan.png", "plan.json"}
TEST_FILES = {"test.png", "predictions_test.parquet", "confusion_test.json"}
# Everything that may stand before the closing table: our own lines, and nothing of Ray, Tune or MLflow.
RUN = r"(trial \d+|baseline)( seed \d+)?"
OWN_LINES = re.compile(
    r"(preparing images|starting \d+ worker slots?|searching|confirming on the test split|writing to MLflow"
    r"|  (writing phantom images|reading images|trained or read) \d+ of \d+(, [\d.]+ files/s)?(, about .+ left)?"
    rf"|{RUN}  started(  \S+=\S+( \S+=\S+)*)?"
    rf"|{RUN}  epoch \d+/\d+  val/auroc_macro \d\.\d{{3}}(  [\d.]+ images/s)?"
    rf"|{RUN}  (complete|pruned)  val/auroc_macro \d\.\d{{3}}"
    rf"|{RUN}  tested  test/auroc_macro \d\.\d{{3}})"
)


def contents(folder: Path) -> dict[str, str]:
    """A digest of every file below a folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha1(path.read_bytes()).hexdigest() for path in files}


def cells(line: str) -> list[str]:
    """The cells of a table's line, which stand at least two blanks apart."""
    return re.split(r"\s{2,}", line.strip())


def table(text: str, first: str) -> list[dict[str, str]]:
    """The rows of the table whose heading begins with ``first``; a row without its first cells is filled with ''."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if cells(line)[0] == first)
    names = cells(lines[start])
    rows = []
    for line in lines[start + 1 :]:
        found = cells(line)
        if len(found) < len(names) - 1:
            break
        rows.append(dict(zip(names, [""] * (len(names) - len(found)) + found, strict=True)))
    return rows


def next_commands(text: str) -> list[str]:
    """The commands below ``Next``, to the end of the text."""
    return [line.strip() for line in text.rstrip().rpartition("\nNext\n")[2].splitlines()]


def mlflow_runs(database: Path, copy: Path):
    """A client on a copy of the database, the parent runs, and the child runs by (trial, seed) as a list of pairs."""
    from mlflow import MlflowClient

    shutil.copy(database, copy)
    client = MlflowClient(tracking_uri=f"sqlite:///{copy}")
    experiment = client.get_experiment_by_name("small")
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    parents = [run for run in runs if "study.trial" not in run.data.tags]
    children = [run for run in runs if "study.trial" in run.data.tags]
    return (
        client,
        parents,
        [((run.data.tags["study.trial"], int(run.data.tags["study.seed"])), run) for run in children],
    )


def best_epoch_value(folder: Path, split: str) -> float:
    """AUROC of a run's predictions, one class against the others, averaged: computed here from the file alone."""
    frame = pd.read_parquet(folder / f"predictions_{split}.parquet")
    areas = [roc_auc_score(frame["label"] == name, frame[f"probability_{name}"]) for name in CLASSES]
    return float(np.mean(areas))


@pytest.fixture(scope="module")
def best_json(finished):
    """What ``best --json`` prints."""
    done = finished.cli("best", "small", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def best_yaml(finished):
    """What the first of the next commands, ``best --yaml``, prints."""
    done = finished.cli.command(shlex.split(next_commands(finished.printed)[0]))
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture(scope="module")
def mlflow(finished, tmp_path_factory):
    """MLflow's client, parent runs and child runs."""
    return mlflow_runs(finished.directory / "mlflow.db", tmp_path_factory.mktemp("mlflow") / "mlflow.db")


class TestPrinted:
    """What the first run prints on standard error."""

    def test_nothing_but_our_lines(self, finished):
        """Before the table stand our own lines only: no word of Ray, Tune or MLflow, no colour, nothing overwritten."""
        assert not set("\x1b\r\b") & set(finished.printed)
        before = finished.printed.split("\n\nrank  ")[0].splitlines()
        assert [line for line in before if not OWN_LINES.fullmatch(line)] == []
        assert sum("  started" in line for line in before) == 5 + 3  # the search has trained seed 0 of the best trial
        assert sum("  tested" in line for line in before) == 4

    def test_table(self, finished):
        """The table holds all trials, best first, each with what the ledger has of it."""
        rows = finished.cli.ledger("small").rows()
        assert len(rows) == 5
        place = {"complete": 0, "pruned": 1, "failed": 2}
        expected = sorted(rows, key=lambda row: (place[row.state], -row.value, int(row.trial)))
        printed = table(finished.printed, "rank")
        assert list(printed[0]) == ["rank", "trial", "parameters", METRIC, "val/f1_macro", "epochs", "state"]
        assert [line["trial"] for line in printed] == [row.trial for row in expected]
        for number, (line, row) in enumerate(zip(printed, expected, strict=True), start=1):
            assert line["rank"] == (str(number) if row.state == "complete" else "")
            assert line["parameters"].startswith(f"loss={row.params['loss.name']} ")
            assert line["parameters"].endswith(f"lr={row.params['optim.lr']:.3g}")
            values = [f"{row.value:.3f}", f"{row.metrics['val/f1_macro']:.3f}", str(row.epochs), row.state]
            assert [line[name] for name in (METRIC, "val/f1_macro", "epochs", "state")] == values

    def test_confirmation(self, finished):
        """The confirmation holds the best trial and the baseline, with mean and SD over what their runs predicted."""
        assert "\n\nConfirmed on the test split: test/auroc_macro\n" in finished.printed
        best = table(finished.printed, "rank")[0]
        rows = {line["trial"]: line for line in table(finished.printed, "trial")}
        assert list(rows) == [best["trial"], "baseline"]
        assert rows[best["trial"]]["parameters"] == best["parameters"]
        for trial, line in rows.items():
            runs = finished.directory / "runs"
            values = [best_epoch_value(runs / f"{trial}-s{seed}", "test") for seed in (0, 1)]
            assert line["seeds"] == "2"
            assert line["mean ± SD"] == f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"

    def test_places_and_next_commands(self, finished):
        """Everything that is said to lie somewhere lies there, and three commands follow that can be typed."""
        files = finished.printed.partition("\nFiles\n")[2].partition("\nNext\n")[0]
        places = dict(line.split(maxsplit=1) for line in files.splitlines())
        assert list(places) == ["study", "ledger", "MLflow", "log", "figure"]
        for place in places.values():
            assert (finished.cli.folder / place.removeprefix("sqlite:///")).exists(), place
        assert places["MLflow"] == finished.mlflow_uri
        best, status, mlflow = (shlex.split(command) for command in next_commands(finished.printed))
        assert best[1:] == ["best", "small", "--yaml"]  # run by the fixture best_yaml
        done = finished.cli.command(status)
        assert (done.returncode, done.stdout) == (0, "")
        assert table(done.stderr, "rank") == table(finished.printed, "rank")
        assert table(done.stderr, "trial") == table(finished.printed, "trial")
        assert Path(mlflow[0]).name == Path(program("mlflow")).name
        assert shutil.which(mlflow[0])
        assert mlflow[1:] == ["ui", "--backend-store-uri", finished.mlflow_uri]


class TestAgain:
    """A study that is done."""

    @pytest.mark.parametrize("command", [("run", "small.yaml"), ("resume", "small")], ids=["run", "resume"])
    def test_says_so_and_does_nothing(self, finished, tmp_path, command):
        """It says that it is done, shows the same tables, starts no Ray, and not a byte of it changes."""
        before = contents(finished.directory), contents(finished.data)
        done = finished.cli(*command, env={"RAY_TMPDIR": str(tmp_path / "ray")}, timeout=60)
        assert (done.returncode, done.stdout) == (0, "")
        told = "study small is done; nothing is left to run\n\n\n"
        assert done.stderr == told + finished.printed[finished.printed.index("rank  trial") :]
        assert not (tmp_path / "ray").exists()
        assert (contents(finished.directory), contents(finished.data)) == before


class TestLook:
    """``study prepare`` on a dataset that is there."""

    def test_preview_and_plan(self, finished, tmp_path):
        """Augmentation and sampling cannot be looked at before hours of training, or the look starts a cluster."""
        done = finished.cli("prepare", "small.yaml", "--preview", "--plan", env={"RAY_TMPDIR": str(tmp_path / "ray")})
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        assert "nothing to do" in done.stderr
        assert "sampler source_label, balanced draws of images, seed 0: " in done.stderr
        beside = finished.data / "phantom-64.preview"
        assert {file.name for file in beside.iterdir()} >= {"mammogram.png", "fundus.png", "plan.png", "plan.json"}
        assert not (tmp_path / "ray").exists()


class TestBest:
    """``study best``."""

    def test_json(self, finished, best_json):
        """The promised keys and no others, complete trials only, best first, as the ledger has them."""
        rows = {row.trial: row for row in finished.cli.ledger("small").rows() if row.state == "complete"}
        assert rows
        assert {record["trial"] for record in best_json} == set(rows)
        assert [record["value"] for record in best_json] == sorted((row.value for row in rows.values()), reverse=True)
        for record in best_json:
            row = rows[record["trial"]]
            assert set(record) == TRIAL_KEYS
            assert (record["state"], record["value"], record["params"]) == ("complete", row.value, row.params)
            assert (record["epochs"], record["metrics"][METRIC]) == (row.epochs, row.value)
            assert Path(record["checkpoint"]).is_dir()
        assert best_json[0]["seeds"] == [0, 1]
        assert math.isfinite(best_json[0]["metrics"]["test/auroc_macro"])
        assert not [key for record in best_json[1:] for key in record["metrics"] if key.startswith("test/")]

    def test_agrees_with_mlflow(self, best_json, mlflow):
        """Every value is the one that MLflow has for the run of the search, under the run id that is given."""
        _, _, children = mlflow
        for record in best_json:
            runs = {run.info.run_id: run for (trial, _), run in children if trial == record["trial"]}
            assert set(record["mlflow_run_ids"]) == set(runs)
            first = runs[record["mlflow_run_ids"][0]]
            assert first.data.tags["study.stage"] == "search"
            assert first.data.metrics[f"best/{METRIC}"] == record["value"]
            assert json.loads(first.data.tags["study.params"]) == record["params"]

    def test_mlflow_alone_answers(self, finished, best_json, tmp_path):
        """Without the study directory, a tracking server gives the same list."""
        shutil.copy(finished.directory / "mlflow.db", tmp_path / "mlflow.db")
        env = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"}
        done = finished.cli("best", "small", "--json", "--storage", str(tmp_path / "nowhere"), env=env)
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout) == best_json

    def test_values_can_be_found_again(self, finished, best_json):
        """AUROC and F1 of a trial are those of the predictions that its best epoch left."""
        for record in best_json:
            folder = finished.directory / "runs" / f"{record['trial']}-s0"
            assert best_epoch_value(folder, "val") == pytest.approx(record["value"], abs=1e-9)
            frame = pd.read_parquet(folder / "predictions_val.parquet")
            f1 = f1_score(frame["label"], frame["decoded"], labels=CLASSES, average="macro", zero_division=0)
            assert f1 == pytest.approx(record["metrics"]["val/f1_macro"], abs=1e-9)

    def test_status_json(self, finished, best_json):
        """``status --json`` prints the promised keys alone, with the same best trial."""
        done = finished.cli("status", "small", "--json")
        assert (done.returncode, done.stderr) == (0, "")
        status = json.loads(done.stdout)
        assert set(status) == {"study", "state", "trials", "running", "best"}
        assert (status["study"], status["state"], status["running"]) == ("small", "done", [])
        assert status["trials"] == dict(Counter(row.state for row in finished.cli.ledger("small").rows()))
        assert set(status["best"]) == TRIAL_KEYS
        same = ("trial", "state", "value", "params", "epochs", "checkpoint")
        assert {key: status["best"][key] for key in same} == {key: best_json[0][key] for key in same}


class TestBestYaml:
    """``study best --yaml`` and the study that it makes."""

    def test_is_a_study_file(self, finished, best_yaml, best_json, tmp_path):
        """It is a complete study file without search or confirmation, and with the best trial's parameters."""
        path = tmp_path / "best.yaml"
        path.write_text(best_yaml)
        config = load_config(path)
        assert (config.search, config.confirm) == (None, None)
        assert not yaml.safe_load(best_yaml).get("search")
        assert config.study == f"small-trial-{best_json[0]['trial']}"
        wanted = apply_params(load_config(finished.directory / "study.yaml"), best_json[0]["params"])
        kept = {"study", "search", "confirm", "train"}
        assert config.model_dump(exclude=kept) == wanted.model_dump(exclude=kept)
        assert config.train.epochs == wanted.train.epochs

    @pytest.mark.long
    def test_trains_that_configuration(self, cli, best_yaml, best_json):
        """Running it trains one trial, which ends with the very metrics that the search found."""
        (cli.folder / "best.yaml").write_text(best_yaml)
        done = cli("run", "best.yaml")
        assert done.returncode == 0, done.stderr
        name = f"small-trial-{best_json[0]['trial']}"
        status = json.loads(cli("status", name, "--json").stdout)
        assert (status["state"], status["trials"]) == ("done", {"complete": 1})
        assert status["best"]["value"] == best_json[0]["value"]
        of_split = {key: value for key, value in best_json[0]["metrics"].items() if not key.startswith("test/")}
        assert status["best"]["metrics"] == of_split
        assert cli.ledger(name).test_readings() == []
        assert not list(cli.folder.rglob("*_test.*"))


class TestKept:
    """What a study leaves in MLflow, in its ledger and on the disk."""

    def test_mlflow_holds_everything_once(self, finished, mlflow):
        """One parent, each (trial, seed) once, each of its epochs once, with parameters, state and best values."""
        client, parents, children = mlflow
        assert [run.data.tags["study.state"] for run in parents] == ["done"]
        ledger = finished.cli.ledger("small")
        rows = {(row.trial, 0): row for row in ledger.rows()}
        confirmed = {(record.trial, record.seed) for record in ledger.run_records() if record.kind == "train"}
        assert len(confirmed) == 3
        assert sorted(key for key, _ in children) == sorted({*rows, *confirmed})
        for key, run in children:
            epochs = rows[key].epochs if key in rows else 4
            system = ("system/images_per_second", "system/data_wait_share", "system/memory_gib")
            for name in (METRIC, "train/loss", "val/segment/site_a/auroc_macro", "epoch/seconds", *system):
                points = client.get_metric_history(run.info.run_id, name)
                assert sorted(point.step for point in points) == list(range(1, epochs + 1)), (key, name)
            assert run.info.status == "FINISHED"
            assert run.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
            assert run.data.tags["study.state"] == (rows[key].state if key in rows else "complete")
        for key, row in rows.items():
            (run,) = (run for other, run in children if other == key)
            assert float(run.data.params["optim.lr"]) == row.params["optim.lr"]
            curve = client.get_metric_history(run.info.run_id, METRIC)
            assert tuple(point.value for point in sorted(curve, key=lambda point: point.step)) == row.curve

    def test_the_event_log_tells_the_same(self, finished):
        """Every line is JSON; each run begins once, ends once, and has the epochs and values of the ledger."""
        lines = [json.loads(line) for line in (finished.directory / "events.jsonl").read_text().splitlines()]
        assert [line["event"] for line in (lines[0], lines[-1])] == ["log.opened", "log.closed"]
        assert {line["study"] for line in lines} == {"small"}
        assert lines[-1]["state"] == "done"
        told = Counter((line["event"], line["run"]) for line in lines if "run" in line)
        ledger = finished.cli.ledger("small")
        rows = {f"{row.trial}-s0": row for row in ledger.rows()}
        runs = {*rows, *(f"{record.trial}-s{record.seed}" for record in ledger.run_records())}
        for run in runs:
            assert (told["run.started", run], told["run.ended", run]) == (1, 1), run
            assert told["run.epoch", run] == (rows[run].epochs if run in rows else 4)
        readings = Counter(("run.tested", f"{one.trial}-s{one.seed}") for one in ledger.test_readings())
        assert {key: count for key, count in told.items() if key[0] == "run.tested"} == readings
        for run, row in rows.items():
            epochs = [line for line in lines if (line["event"], line.get("run")) == ("run.epoch", run)]
            assert tuple(line["numbers"][METRIC] for line in epochs) == row.curve
            assert all(0 <= line["numbers"]["system/data_wait_share"] < 1 for line in epochs)
            assert [line["step"] for line in epochs] == [line["epoch"] * epochs[0]["step"] for line in epochs]
            assert {(line["attempt"], line["rank"], bool(line["node"])) for line in epochs} == {(1, 0, True)}

    def test_mlflow_holds_the_files(self, finished, mlflow):
        """Every run has its configuration; complete runs have curves, confusion and predictions of their splits."""
        client, parents, children = mlflow
        assert "study.yaml" in {file.path for file in client.list_artifacts(parents[0].info.run_id)}
        tested = {(reading.trial, reading.seed) for reading in finished.cli.ledger("small").test_readings()}
        for key, run in children:
            wanted = {"config.yaml", "batches.jsonl"}
            wanted |= RUN_FILES if run.data.tags["study.state"] == "complete" else set()
            wanted |= TEST_FILES if key in tested else set()
            assert {file.path for file in client.list_artifacts(run.info.run_id)} == wanted, key
            config = yaml.safe_load(Path(client.download_artifacts(run.info.run_id, "config.yaml")).read_text())
            params = json.loads(run.data.tags["study.params"])
            assert config["loss"]["name"] == params.get("loss.name", "cross_entropy")
            assert config["optim"]["lr"] == params.get("optim.lr", 1e-3)

    def test_only_the_confirmation_reads_the_test_split(self, finished, best_json, mlflow):
        """Every reading of the test split is in the ledger, once, after the search; nothing else knows the split."""
        ledger = finished.cli.ledger("small")
        expected = {(trial, seed) for trial in (best_json[0]["trial"], "baseline") for seed in (0, 1)}
        readings = [(reading.trial, reading.seed) for reading in ledger.test_readings()]
        assert sorted(readings) == sorted(expected)
        left = {path.parent.name for path in (finished.directory / "runs").rglob("predictions_test.parquet")}
        assert left == {f"{trial}-s{seed}" for trial, seed in expected}
        for key, run in mlflow[2]:
            assert any(name.startswith("test/") for name in run.data.metrics) == (key in expected), key
            steps = [name for name in run.data.metrics if name.startswith(("best/test/", "epoch/test"))]
            assert steps == []
        records = [json.loads(line) for line in (finished.directory / "journal.jsonl").read_text().splitlines()]
        last_epoch = max(record["sequence"] for record in records if record["kind"] == "epoch")
        assert min(record["sequence"] for record in records if record["kind"] == "test") > last_epoch

    def test_no_identity(self, finished):
        """No byte of the study or of the prepared dataset holds an identifier of the DICOM files, or their paths."""
        files = sorted((finished.data / "phantom-dicom").rglob("*.dcm"))
        assert len(files) == 2 * 14 * 4
        needles = {str(finished.data / "phantom-dicom"), "Phantom Hospital"}
        for path in files:
            header = pydicom.dcmread(path, stop_before_pixels=True)
            needles |= {path.stem, str(header.PatientID), str(header.PatientName), str(header.AccessionNumber)}
            needles |= {str(header.SOPInstanceUID), str(header.SeriesInstanceUID), str(header.StudyInstanceUID)}
        assert len(needles) > 28 + 3 * 112
        found = re.compile("|".join(re.escape(needle) for needle in sorted(needles)))
        assert found.search(next((finished.data / "phantom-dicom").glob("site_a-*/labels.csv")).read_text())
        looked_at = 0
        for root in (finished.directory, finished.data / "phantom-64"):
            for path in sorted(root.rglob("*")):
                assert not found.search(str(path.relative_to(root)))
                if not path.is_file() or path.suffix == ".safetensors":
                    continue
                looked_at += 1
                text = path.read_bytes().decode("latin-1")
                assert not found.search(text), path
                if path.suffix == ".parquet":
                    assert not found.search(pd.read_parquet(path).to_csv()), path
        assert looked_at > 50

    def test_databases_are_sound(self, finished, tmp_path):
        """Ledger and MLflow database pass SQLite's own check."""
        for name in ("ledger.db", "mlflow.db"):
            shutil.copy(finished.directory / name, tmp_path / name)
            with sqlite3.connect(tmp_path / name) as database:
                assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
