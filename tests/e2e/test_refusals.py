"""What a study refuses, and what it allows instead; nothing here hangs, and nothing ends with a traceback."""

import os
import re
import shutil
import sqlite3
import time
from pathlib import Path

import pytest
import yaml

from study.ledger import lock_holder

pytestmark = pytest.mark.e2e

CPUS = len(os.sched_getaffinity(0))
FAULTY = """\
study: refused
data:
  prepared: {folder}/data/refused
  sources: [{{kind: phantom, name: site_a, patients: 2, seed: 1, shares: {{normal: 1, benign: 0, malignant: 0}}}}]
model: {{name: efficientnet_b33}}
train: {{epohcs: 3, batch_size: {batch}}}
resources: {resources}
"""


@pytest.fixture
def here(cli, tmp_path):
    """`study` in an empty folder of this test's own."""
    return type(cli)(tmp_path)


def faults(text: str) -> dict[str, str]:
    """What is said of each path."""
    return dict(re.findall(r"^  (?!fix:)(\S+): (.+)$", text, flags=re.MULTILINE))


@pytest.mark.parametrize(
    ("resources", "path", "message"),
    [
        (
            {"workers": CPUS + 62},
            "resources.workers",
            rf"{CPUS + 62}: one run needs {CPUS + 63} CPUs .*at most {CPUS}, .*",
        ),
        ({"cpus_per_worker": CPUS + 97}, "resources.cpus_per_worker", rf"{CPUS + 97}: expected at most {CPUS} .*"),
        ({"concurrent": CPUS + 48}, "resources.concurrent", rf"{CPUS + 48}: expected at most \d+ on this machine .*"),
    ],
    ids=["workers", "cpus_per_worker", "concurrent"],
)
def test_all_faults_at_once(here, resources, path, message):
    """Too many CPUs, too few patients, an unknown network and a misspelt key are told together, within a minute."""
    batch = resources.get("workers", 1) * 2
    (here.folder / "study.yaml").write_text(FAULTY.format(folder=here.folder, batch=batch, resources=resources))
    done = here("run", "study.yaml", timeout=60)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    told = faults(done.stderr)
    assert set(told) == {"data.splits", "model.name", "train.epohcs", path}
    assert "2 patients" in told["data.splits"]
    assert re.match(r"'efficientnet_b33': .*did you mean 'efficientnet_b3'", told["model.name"])
    assert "did you mean 'epochs'?" in told["train.epohcs"]
    assert re.fullmatch(message, told[path])
    assert "Traceback" not in done.stderr
    assert [path.name for path in here.folder.iterdir()] == ["study.yaml"]


def test_another_configuration(finished):
    """A changed file under the name of a study that exists is refused with every changed path and both ways out."""
    before = (finished.directory / "study.yaml").read_bytes()
    changes = ["--set", "optim.weight_decay=0.5", "--set", "train.epochs=9", "--set", "data.image_size=32"]
    for verb in (("run", "small.yaml"), ("resume", "small")):
        done = finished.cli(*verb, *changes)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: study 'small' exists with another configuration:\n")
        assert faults(done.stderr) == {
            "data.image_size": "64 -> 32",
            "optim.weight_decay": "0.01 -> 0.5",
            "train.epochs": "4 -> 9",
        }
        assert "study resume small`" in done.stderr
        assert "--set study=NAME" in done.stderr
    done = finished.cli("resume", "small", "--set", "search.trials=4")
    assert done.returncode == 2
    assert "search.trials: 4; expected at least 5" in done.stderr
    assert (finished.directory / "study.yaml").read_bytes() == before


def mlflow_seen(database: Path):
    """(trial, seed) of every child run, and (run, key, step) of every metric point."""
    with sqlite3.connect(database) as db:
        tags = {(run, key): value for run, key, value in db.execute("select run_uuid, key, value from tags")}
        runs = [(tags[run, "study.trial"], int(tags[run, "study.seed"])) for run, key in tags if key == "study.trial"]
        points = db.execute("select run_uuid, key, step from metrics").fetchall()
    return runs, points


@pytest.mark.long
def test_a_larger_budget_and_a_second_driver(finished, here):
    """Resume with more trials adds trials and changes none; meanwhile a second driver is told who is at work."""
    shutil.copytree(finished.cli.folder, here.folder, dirs_exist_ok=True)
    database = here.folder / "elsewhere.db"
    env = {"MLFLOW_TRACKING_URI": f"sqlite:///{database}"}
    before = finished.cli.ledger("small")
    process = here.start("resume", "small", "--set", "search.trials=6", env=env)
    deadline = time.monotonic() + 60
    while not (holder := lock_holder(here.folder / "studies" / "small")) or not holder.pid:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for verb in (("resume", "small"), ("run", "small.yaml", "--set", "search.trials=6")):
        refused = here(*verb, env=env, timeout=60)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert f"study small is running as process {process.pid} on " in refused.stderr
    assert process.poll() is None
    assert process.wait(timeout=200) == 0, (here.folder / "out.txt").read_text()
    after = here.ledger("small")
    assert len(after.rows()) == 6
    assert [row for row in after.rows() if row.trial != "5"] == list(before.rows())
    assert yaml.safe_load((here.folder / "studies" / "small" / "study.yaml").read_text())["search"]["trials"] == 6
    runs, points = mlflow_seen(database)
    assert len(runs) == len(set(runs))
    old, _ = mlflow_seen(finished.directory / "mlflow.db")
    assert {*old, ("5", 0)} <= set(runs)
    assert len(points) == len(set(points))


@pytest.mark.long
def test_every_trial_fails(cli, small_file):
    """A study that cannot be trained ends with 1 and the reason, in two lines; looking at it says the same."""
    wild = ["search=null", "confirm=null", "optim.lr=1.0e+30", "optim.clip_norm=null", "study=wild"]
    options = [word for change in wild for word in ("--set", change)]
    done = cli("run", str(small_file), *options)
    assert (done.returncode, done.stdout) == (1, "")
    reason = "the loss CrossEntropy is nan at step 1 (epoch 1)"
    lines = done.stderr.splitlines()
    assert lines[-2] == f"error: none of the 1 trials was completed: 1 x bad configuration: {reason} (trial 0)"
    assert lines[-1].startswith("  fix: ")
    assert "Traceback" not in done.stderr
    status = cli("status", "wild")
    assert f"reason: {reason}" in status.stderr
    best = cli("best", "wild", "--yaml")
    assert (best.returncode, best.stdout) == (1, "")
