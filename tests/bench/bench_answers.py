"""How long the verbs that only look take to answer on a study of 1,000 trials: a fresh process each, as people call it.

    .venv/bin/python tests/bench/bench_answers.py

12 parameters (6 conditional), 10 epochs of 30 metrics a trial, a ledger and an MLflow database with as many runs. The
goal is an answer within 2 s; processor time is told beside, since a busy machine stretches the other.
"""

import argparse
import contextlib
import json
import os
import random
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from study.cli.comparing import DATASET
from study.cli.folders import ledger_url, store_config
from study.config import load_config
from study.ledger import Ledger
from study.ledger.asking import ended
from study.ledger.creating import create_trial
from study.ledger.records import epoch_to_json
from study.ledger.several import epoch_key
from study.tracking import Tracker, default_uri
from study.types import EpochResult, RunOutcome

METRIC = "val/auroc_macro"
GOAL_S = 2.0
EPOCHS = 10
FILE = """
study: {name}
data: {{prepared: {root}/none, sources: [{{kind: phantom, name: a, patients: 30}}]}}
train: {{epochs: 10}}
search:
  trials: {trials}
  algorithm: random
  space:
    loss.name: {{choice: [cross_entropy, focal, emd, corn]}}
    loss.gamma: {{float: [0.5, 5.0], when: {{loss.name: focal}}}}
    loss.label_smoothing: {{float: [0.0, 0.2], when: {{loss.name: cross_entropy}}}}
    loss.class_weights: {{choice: [none, balanced], when: {{loss.name: [focal, cross_entropy]}}}}
    loss.class_weight_source: {{choice: [sampled, raw], when: {{loss.class_weights: balanced}}}}
    optim.lr: {{float: [1.0e-4, 1.0e-2], scale: log}}
    optim.weight_decay: {{float: [1.0e-4, 1.0e-1], scale: log}}
    optim.schedule: {{choice: [cosine, step, plateau]}}
    optim.step_epochs: {{int: [2, 10], when: {{optim.schedule: step}}}}
    optim.plateau_epochs: {{int: [2, 8], when: {{optim.schedule: plateau}}}}
    model.drop_rate: {{float: [0.0, 0.5]}}
    sampler.name: {{choice: [label, source_label]}}
confirm: {{top: 2, seeds: [0, 1, 2]}}
"""


def metrics_of(value: float) -> dict[str, float]:
    """30 metrics of an epoch."""
    return {METRIC: value, "val/f1_macro": value / 2} | {f"val/segment/s{i}/auroc_macro": value for i in range(28)}


def make_study(root: Path, name: str, trials: int) -> None:
    """A study of finished trials with its confirmation, in the ledger and in MLflow."""
    file = root / f"{name}.yaml"
    file.write_text(FILE.format(root=root, name=name, trials=trials))
    config, directory = load_config(file), root / "studies" / name
    directory.mkdir(parents=True)
    store_config(directory, config)
    rng, done = random.Random(name), []
    with contextlib.closing(Ledger.open(ledger_url(directory), config=config)) as ledger:
        ledger.record_stage(DATASET, "d1")
        ledger.begin()
        for number in range(trials):
            draft, _ = ledger._asking.draft()
            assert draft is not None
            value, state = rng.random(), "pruned" if number % 3 == 2 else "complete"
            epochs = EPOCHS if state == "complete" else 3
            for epoch in range(1, epochs + 1):
                result = EpochResult(epoch=epoch, metrics=metrics_of(value), images=500, seconds=2.0)
                draft.user_attrs[epoch_key(epoch)] = epoch_to_json(result)
            outcome = {
                "state": state,
                "best_epoch": epochs,
                "metrics": metrics_of(value),
                "checkpoint": "",
                "reason": "",
            }
            trial = ended(draft, state=TrialState[state.upper()], values=[value], outcome=outcome)
            create_trial(ledger._storage, ledger._study_id, trial)
            ledger._take(trial)
            done.append((number, trial.user_attrs["params"], state, epochs, value))
        best = sorted((value, number) for number, _, state, _, value in done if state == "complete")[-2:]
        for trial_name in (*(str(number) for _, number in best), "baseline"):
            for seed in (0, 1, 2):
                outcome = RunOutcome(state="complete", best_epoch=1, metrics={"test/auroc_macro": rng.random()})
                ledger.record_run(trial_name, seed, outcome, kind="evaluate")
    tracker = Tracker(directory, default_uri(directory), config)
    assert tracker.close() == 0
    fill_mlflow(directory / "mlflow.db", done)


def fill_mlflow(path: Path, done: list[tuple[int, dict[str, Any], str, int, float]]) -> None:
    """One run a trial, as the tracker would have written it, straight into the database."""
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        experiment, parent = db.execute(
            "SELECT r.experiment_id, r.run_uuid FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid "
            "WHERE t.key = 'study.kind' AND t.value = 'parent'"
        ).fetchone()
        names = [row[1] for row in db.execute("PRAGMA table_info(runs)")]
        base = dict(zip(names, db.execute("SELECT * FROM runs WHERE run_uuid = ?", (parent,)).fetchone(), strict=True))
        for number, params, state, epochs, value in done:
            run = uuid.uuid4().hex
            row = base | {"run_uuid": run, "name": f"{number}-s0", "experiment_id": experiment}
            db.execute(
                f"INSERT INTO runs ({','.join(names)}) VALUES ({','.join('?' * len(names))})", list(row.values())
            )
            tags = {"mlflow.parentRunId": parent, "study.kind": "run", "study.trial": str(number), "study.seed": "0"}
            tags |= {"study.stage": "search", "study.state": state, "study.epochs": str(epochs)}
            tags |= {"study.params": json.dumps(params), "study.undefined": "[]"}
            db.executemany(
                "INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)", [(*tag, run) for tag in tags.items()]
            )
            best = [(f"best/{key}", one, 0, epochs, 0, run) for key, one in metrics_of(value).items()]
            sql = "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES (?, ?, ?, ?, ?, ?)"
            db.executemany(sql, best)
            points = [(k, v, 0, e, 0, run) for e in range(1, epochs + 1) for k, v, *_ in best]
            sql = "INSERT INTO metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES (?, ?, ?, ?, ?, ?)"
            db.executemany(sql, points)


def measure(storage: Path, words: list[str], repeats: int) -> dict[str, Any]:
    """Wall and processor seconds of one command, medians and ranges."""
    command = [sys.executable, "-c", "from study.cli import main; main()", *words, "--storage", str(storage)]
    wall, cpu = [], []
    for _ in range(repeats + 1):
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "COLUMNS": "120"})
        wall.append(time.perf_counter() - began)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    wall, cpu = wall[1:], cpu[1:]  # the first one reads files from the disk
    return {
        "verb": " ".join(words),
        "wall_s": round(statistics.median(wall), 2),
        "wall_range_s": [round(min(wall), 2), round(max(wall), 2)],
        "cpu_s": round(statistics.median(cpu), 2),
    }


VERBS = [
    ["best", "one"],
    ["best", "one", "--json", "--where", "loss.name=focal", "--where", "loss.gamma>2"],
    ["best", "one", "--yaml"],
    ["status", "one"],
    ["status", "one", "--json"],
    ["list"],
    ["compare", "one", "two"],
]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two studies of 1,000 trials."""
    root = tmp_path_factory.mktemp("answers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("one", "two"):
            make_study(root, name, 1000)
    return root / "studies"


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_answers(storage: Path, words: list[str]) -> None:
    """Every question about 1,000 trials is answered within 2 s."""
    found = measure(storage, words, 3)
    print(f"\n{json.dumps(found)}")
    assert found["wall_s"] < GOAL_S


def main() -> None:
    """Print one JSON line for each verb."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="a folder in which the studies are made, or are already")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    root = given.keep or Path(tempfile.mkdtemp())
    for name in ("one", "two"):
        if not (root / "studies" / name).exists():
            root.mkdir(parents=True, exist_ok=True)
            make_study(root, name, given.trials)
    for words in VERBS:
        print(json.dumps(measure(root / "studies", words, given.repeats)), flush=True)


if __name__ == "__main__":
    main()
