"""What has to be true of a study after it was shot at."""

import json
import math
import os
import sqlite3
import subprocess
import sys
from collections import Counter

from study import checkpoint

# Ray Data's own, detached: one of each per cluster, for whatever runs there next.
OF_RAY_DATA = {"_StatsActor", "_AutoscalingCoordinatorActor"}


def rows_of(ledger):
    """The trials."""
    return ledger.rows()


def table_of(ledger):
    """What must be equal: trials, parameters, states, every metric of every epoch, and the confirmed runs."""
    rows = [
        (row.trial, row.state, dict(row.params), row.value, [dict(e.metrics) for e in ledger.epochs(int(row.trial))])
        for row in ledger.rows()
    ]
    runs = [(r.trial, r.seed, r.kind, r.outcome.state, dict(r.outcome.metrics)) for r in ledger.run_records()]
    return [repr(row) for row in rows], [repr(run) for run in runs]


def num_epochs(directory):
    """Epochs in the journal of a study."""
    lines = (directory / "journal.jsonl").read_text().splitlines()
    return sum(json.loads(line)["kind"] == "epoch" for line in lines)


def check_against_mlflow(ledger, directory):
    """MLflow has every run once, every epoch of it once, with numbers, state and parameters of the ledger."""
    with sqlite3.connect(directory / "mlflow.db") as database:
        tags = {(run, key): value for run, key, value in database.execute("select run_uuid, key, value from tags")}
        params = Counter(run for (run,) in database.execute("select run_uuid from params"))
        points = database.execute("select run_uuid, key, step, value from metrics").fetchall()
    runs = [(tags[run, "study.trial"], int(tags[run, "study.seed"]), run) for run, key in tags if key == "study.trial"]
    assert len({(trial, seed) for trial, seed, _ in runs}) == len(runs), "a run is in MLflow twice"
    assert len({point[:3] for point in points}) == len(points), "a point is in MLflow twice"
    by_run = {(trial, seed): run for trial, seed, run in runs}
    values = {(run, key, step): value for run, key, step, value in points}
    for row in ledger.rows():
        run = by_run.pop((row.trial, row.seeds[0]))
        assert tags[run, "study.state"] == row.state
        assert params[run] == len(row.params)
        assert json.loads(tags[run, "study.params"]) == dict(row.params)
        epochs = ledger.epochs(int(row.trial))
        steps = sorted(step for found, key, step in values if (found, key) == (run, "epoch/seconds"))
        assert steps == [result.epoch for result in epochs]
        for result in epochs:
            for key, value in result.metrics.items():
                if math.isfinite(value):
                    assert values[run, key, result.epoch] == value, (row.trial, key, result.epoch)
    tested = {(r.trial, r.seed): r.outcome for r in ledger.run_records() if r.kind == "evaluate"}
    every = {(trial, seed): run for trial, seed, run in runs}
    for pair, outcome in tested.items():
        found = {key: value for (run, key, _), value in values.items() if run == every[pair]}
        for key, value in outcome.metrics.items():
            if math.isfinite(value):
                assert found[key] == value, (pair, key)
    trained = {(r.trial, r.seed) for r in ledger.run_records() if r.kind == "train"}
    assert set(by_run) == trained - {(row.trial, row.seeds[0]) for row in ledger.rows()}, "MLflow has other runs"


def check_against_checkpoints(ledger, directory):
    """The checkpoint of every run holds the epochs that the ledger has, with the same numbers."""
    for row in ledger.rows():
        if row.repeats:
            continue
        state = checkpoint.load_last(directory / "runs" / f"{row.trial}-s{row.seeds[0]}")
        assert state is not None
        kept = {result.epoch: dict(result.metrics) for result in state.history}
        for result in ledger.epochs(int(row.trial)):
            assert repr(kept[result.epoch]) == repr(dict(result.metrics)), (row.trial, result.epoch)
        if row.state == "complete":
            assert sorted(kept) == [result.epoch for result in ledger.epochs(int(row.trial))]
            assert checkpoint.load_best(directory / "runs" / f"{row.trial}-s{row.seeds[0]}") is not None
        leftover = list((directory / "runs").glob("*/checkpoints/.writing-*"))
        assert leftover == [], leftover


def check_nothing_is_left(arena):
    """No actor and no placement group of any driver is left on the cluster."""
    code = (
        "import ray, json; ray.init(log_to_driver=False, logging_level='ERROR');"
        "from ray.util import placement_group_table as t; from ray._private.state import actors;"
        "alive = [a['ActorClassName'] for a in actors().values() if a['State'] != 'DEAD'];"
        "print(json.dumps([[g['state'] for g in t().values()], alive]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "RAY_ADDRESS": arena.address},
        capture_output=True,
        text=True,
        check=True,
    )
    groups, alive = json.loads(done.stdout.splitlines()[-1])
    assert set(groups) <= {"REMOVED"}, groups
    assert sorted(set(alive) - OF_RAY_DATA) == [], Counter(alive)
