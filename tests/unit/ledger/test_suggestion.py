"""Suggestions: a function of seed, number and finished trials, and good ones."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from study.ledger import Ledger
from study.ledger.suggestion import mix


@pytest.mark.parametrize("algorithm", ["tpe", "random"])
def test_suggestions_depend_on_the_seed_alone(tmp_path, algorithm, tools):
    """Two searches with one seed ask for the same parameters, another seed for others; conditions are kept."""
    tables = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        config = tools.make_config(trials=14, epochs=1, seed=seed, algorithm=algorithm, pruner="none")
        tables.append(tools.table(tools.run_search(tools.make_url(tmp_path / name), config)))
    assert tables[0] == tables[1]
    assert [row[3] for row in tables[0]] != [row[3] for row in tables[2]]
    params = [json.loads(row[3]) for row in tables[0]]
    assert len({one["optim.lr"] for one in params}) == 14
    assert all(("loss.gamma" in one) == (one["loss.name"] == "focal") for one in params)
    assert all(isinstance(one["optim.step_epochs"], int) and isinstance(one["data.flip"], bool) for one in params)
    assert len({mix(3, number) for number in range(1000)}) == 1000


def test_tpe_learns_from_finished_trials(tmp_path, tools):
    """After its random start TPE proposes values near the good ones: the last third is better than the first."""
    config = tools.make_config(trials=45, epochs=1, pruner="none")
    values = [row.value for row in tools.run_search(tools.make_url(tmp_path), config).rows()]
    assert sum(values[30:]) / 15 > sum(values[:15]) / 15 + 0.05


def test_running_trials_repel_the_sampler(tmp_path, tools):
    """Suggestions made side by side differ from each other."""
    ledger = tools.run_search(tools.make_url(tmp_path), tools.make_config(trials=12, epochs=1, pruner="none"))
    ledger.budget = 20
    params = [ledger.next_trial().params for _ in range(8)]
    assert len({json.dumps(one) for one in params}) == 8
    assert ledger.next_trial() is None
    assert ledger.counts() == {"complete": 12, "running": 8}


def test_without_search_there_is_one_trial(tmp_path, tools):
    """A study file without a search gives one trial without parameters."""
    config = tools.config_of(None)
    ledger = Ledger.open(tools.make_url(tmp_path), config=config)
    assert ledger.next_trial().params == {}
    assert ledger.next_trial() is None


def test_optuna_is_quiet(tmp_path, tools):
    """A whole search prints nothing; Optuna alone would announce the new study."""
    code = "import importlib.util, sys; spec = importlib.util.spec_from_file_location('cases', sys.argv[2])\n"
    code += "cases = importlib.util.module_from_spec(spec); spec.loader.exec_module(cases)\n"
    code += "cases.run_search(sys.argv[1], cases.make_config(trials=5, epochs=1))"
    arguments = [tools.make_url(tmp_path), str(Path(__file__).with_name("conftest.py"))]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, cwd=Path(__file__).parents[3], check=True
    )
    assert (done.stdout, done.stderr) == (b"", b"")
    assert (tmp_path / "ledger.db").exists()


def test_options_that_python_takes_for_equal_are_kept_apart(tmp_path, tools):
    """An option true and an option 1 of one parameter come back as what they were."""
    space = {**tools.SPACE, "optim.clip_norm": {"choice": [1, True, None, 1.5]}}
    config = tools.make_config(trials=30, epochs=1, space=space, algorithm="random", pruner="none")
    ledger = tools.run_search(tools.make_url(tmp_path), config)
    found = {json.dumps(row.params["optim.clip_norm"]) for row in ledger.rows()}
    assert found == {"1", "true", "null", "1.5"}
