"""A study that is killed and resumed ends as one that was never touched."""

import json
import signal
import sqlite3

import pytest

from study import checkpoint
from study.config import load_config
from study.ledger import Ledger, default_url

pytestmark = pytest.mark.e2e


def journal(folder, study):
    """Complete lines of the study's journal."""
    path = folder / "studies" / study / "journal.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def epochs(folder, study):
    """Number of epochs in the journal."""
    return sum(record["kind"] == "epoch" for record in journal(folder, study))


def ledger_of(folder, study):
    """The ledger of a study, read only."""
    study_dir = folder / "studies" / study
    config = load_config(study_dir / "study.yaml")
    return Ledger.open(default_url(study_dir), config=config, read_only=True)


def table(folder, study):
    """What must be equal: trials, parameters, states, every metric of every epoch, and the confirmed runs."""
    ledger = ledger_of(folder, study)
    rows = [
        (row.trial, row.state, dict(row.params), row.value, [dict(e.metrics) for e in ledger.epochs(int(row.trial))])
        for row in ledger.rows()
    ]
    runs = [(r.trial, r.seed, r.kind, r.outcome.state, dict(r.outcome.metrics)) for r in ledger.run_records()]
    return repr((rows, runs))


def mlflow_points(folder, study):
    """(trial, seed) of every child run, and (run, key, step) of every metric point."""
    with sqlite3.connect(folder / "studies" / study / "mlflow.db") as db:
        rows = db.execute("select run_uuid, key, value from tags").fetchall()
        tags = {(run, key): value for run, key, value in rows}
        runs = [(tags[run, "study.trial"], tags[run, "study.seed"]) for run, key in tags if key == "study.trial"]
        points = db.execute("select run_uuid, key, step from metrics").fetchall()
    return runs, points


def test_three_kills_change_nothing(cli, small_file, finished):
    """Killed three times, in the search and in the confirm stage, a study ends with the table of a calm one."""
    calm = finished.cli.folder
    process = cli.start("run", str(small_file), "--set", "study=rough")
    assert cli.kill_when(process, lambda: epochs(cli.folder, "rough") >= 1) == -signal.SIGKILL
    total = epochs(calm, "small")
    for share in (0.4, 0.8):
        process = cli.start("resume", "rough")
        assert cli.kill_when(process, lambda s=share: epochs(cli.folder, "rough") >= s * total) == -signal.SIGKILL
    final = cli("resume", "rough")
    assert final.returncode == 0, final.stderr
    assert table(cli.folder, "rough") == table(calm, "small")
    assert epochs(cli.folder, "rough") == total
    runs, points = mlflow_points(cli.folder, "rough")
    calm_runs, calm_points = mlflow_points(calm, "small")
    assert sorted(runs) == sorted(calm_runs)
    assert len(runs) == len(set(runs))
    assert len(points) == len(set(points)) == len(calm_points)
    again = cli("resume", "rough")
    assert again.returncode == 0
    assert "done" in again.stderr


@pytest.mark.parametrize("sig", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_a_polite_stop_saves_and_says_how_to_resume(cli, small_file, sig):
    """Ctrl-C and SIGTERM end with 130, a checkpoint of the running run, and the line that resumes."""
    name = f"stop-{sig.name.lower()}"
    process = cli.start("run", str(small_file), "--set", f"study={name}", "--set", "train.epochs=40")
    code = cli.kill_when(process, lambda: epochs(cli.folder, name) >= 1, sig=sig)
    text = (cli.folder / "out.txt").read_text()
    assert code == 130, text
    assert f"study resume {name}" in text
    running = [row for row in ledger_of(cli.folder, name).rows() if row.state == "running"]
    assert len(running) == 1
    state = checkpoint.load_last(cli.folder / "studies" / name / "runs" / f"{running[0].trial}-s0")
    assert state.step > len(state.history) * (state.history[0].images // 16)  # inside the epoch that was interrupted
