"""A study whose trials are several runs, killed between and within them, ends as one that was never touched."""

import signal

import pytest

from tests.e2e.test_resume import epochs, journal, ledger_of, mlflow_points

pytestmark = [pytest.mark.e2e, pytest.mark.long]

SETS = ("search.trials=2", "search.folds=2", "train.epochs=2", "confirm=null", "search.pruner={name: none}")


def folded(file, name):
    """The command that runs a small study with two folds a trial."""
    sets = [word for one in (f"study={name}", *SETS) for word in ("--set", one)]
    return ("run", str(file), *sets)


def whole_table(folder, study):
    """Trials with their runs, and every metric of every epoch of each run."""
    ledger = ledger_of(folder, study)
    rows = []
    for row in ledger.rows():
        number = int(row.trial)
        curves = [[dict(e.metrics) for e in ledger.epochs(number, key)] for key in ledger.keys(number)]
        runs = [(run.seed, run.fold, run.state, run.value, run.epochs) for run in row.runs]
        rows.append((row.trial, row.state, row.value, row.sd, dict(row.params), runs, curves))
    return repr(rows)


def test_kills_between_and_within_folds_change_nothing(cli, small_file):
    """A fold is lost, trained or told twice, or the trial's mean is another one."""
    calm = cli(*folded(small_file, "calm"))
    assert calm.returncode == 0, calm.stderr
    assert "trial 0 fold 2  complete" in calm.stderr
    assert "2 of 2 runs, SD" in calm.stderr

    def ended():
        return [record["fold"] for record in journal(cli.folder, "rough") if record["kind"] == "end"]

    process = cli.start(*folded(small_file, "rough"))
    assert cli.kill_when(process, lambda: ended() == [1]) == -signal.SIGKILL  # between the folds of trial 0
    process = cli.start("resume", "rough")
    assert cli.kill_when(process, lambda: epochs(cli.folder, "rough") >= 7) == -signal.SIGKILL  # in the last one
    final = cli("resume", "rough")
    assert final.returncode == 0, final.stderr
    assert whole_table(cli.folder, "rough") == whole_table(cli.folder, "calm")
    assert epochs(cli.folder, "rough") == epochs(cli.folder, "calm") == 8
    runs, points = mlflow_points(cli.folder, "rough")
    assert len(runs) == 4
    calm_points = mlflow_points(cli.folder, "calm")[1]
    assert len(points) == len(set(points)) == len(calm_points)
