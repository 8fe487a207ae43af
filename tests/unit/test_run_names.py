"""What a person may type for a run, and what is said of all else."""

import contextlib
from pathlib import Path

import pytest

from study.cli.folders import ledger_url, store_config
from study.cli.profiling import _of_run
from study.cli.run_names import find_models, find_runs
from study.config import load_config
from study.errors import InputError
from study.ledger import Ledger, lock_study
from study.types import EpochResult, RunOutcome

STUDY_FILE = """
study: tiny
data:
  prepared: {root}/prepared
  sources: [{{kind: phantom, name: site_a, patients: 30, seed: 1}}]
search: {{trials: 4, algorithm: random, space: {{optim.lr: {{float: [1.0e-4, 1.0e-2], scale: log}}}}}}
confirm: {{top: 1, seeds: [0, 1]}}
"""


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    """Two complete trials, of which 1 is better and has three seeds; a baseline; trial 2 has no checkpoint."""
    root = tmp_path_factory.mktemp("names")
    (root / "tiny.yaml").write_text(STUDY_FILE.format(root=root))
    config = load_config(root / "tiny.yaml")
    directory = root / "studies" / "tiny"
    for run in ("0-s0", "1-s0", "1-s10", "1-s2", "baseline-s0"):
        (directory / "runs" / run / "checkpoints").mkdir(parents=True)
    (directory / "runs" / "2-s0").mkdir()
    store_config(directory, config)
    with contextlib.closing(Ledger.open(ledger_url(directory), config=config)) as ledger:
        for value in (0.7, 0.8, 0.6):
            trial = ledger.next_trial()
            metrics = {"val/auroc_macro": value}
            ledger.report(trial.number, EpochResult(epoch=1, metrics=metrics, images=96, seconds=1.0))
            ledger.finish(trial.number, RunOutcome(state="complete", best_epoch=1, metrics=metrics))
    return str(root / "studies")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("tiny", "1-s0"),
        ("tiny/", "1-s0"),
        ("tiny/0", "0-s0"),
        ("tiny/1-s10", "1-s10"),
        ("tiny/baseline", "baseline-s0"),
    ],
)
def test_forms(storage, text, found):
    """Another run than the one that was meant is used; the run's own parameters are not those of its trial."""
    (run,) = find_runs(text, storage=storage)
    assert (run.name, run.directory.name, run.seed) == (f"tiny/{found}", found, int(found.partition("-s")[2]))
    own = run.params.get("optim.lr", run.study_config.optim.lr)
    assert run.config.optim.lr == own
    assert run.study_directory.name == "tiny"


def test_all_seeds(storage):
    """Seeds are in the order of their numbers, and metrics are those of the ledger."""
    runs = find_runs("tiny/1", storage=storage, all_seeds=True)
    assert [run.seed for run in runs] == [0, 2, 10]
    assert runs[0].metrics == {"val/auroc_macro": 0.8}
    assert runs[1].metrics == {}


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("tiny/2", "trial 2 of study tiny has no checkpoint these have: tiny/0-s0, "),
        ("tiny/99", "as in tiny/0-s0, tiny/1-s0, tiny/1-s2, tiny/1-s10, ..."),
        ("tiny/1-s3", "did you mean tiny/1-s"),
        ("tiny/baselin", "did you mean tiny/baseline-s0"),
        ("tiny/x/y", "expected STUDY"),
        ("tini", "did you mean tiny"),
    ],
)
def test_what_there_is_not(storage, text, fix):
    """Each message helps to the next name."""
    with pytest.raises(InputError) as caught:
        find_runs(text, storage=storage)
    assert fix in f"{caught.value.message} {caught.value.fix}"


def test_a_profile_beside_the_running_study_says_so(storage, capsys):
    """Times that were taken beside the study's own work are told as those of a run alone."""
    _of_run("tiny/0", (), storage=storage)
    assert capsys.readouterr().err == ""
    with lock_study(Path(storage) / "tiny"):
        _of_run("tiny/0", (), storage=storage)
    assert "warning: study tiny is running on " in capsys.readouterr().err


def test_a_study_that_has_just_begun(storage, tmp_path):
    """Of a study without a complete trial nobody says which run to name, or that there is none yet."""
    config = load_config(Path(storage).parent / "tiny.yaml")
    directory = tmp_path / "tiny"
    directory.mkdir()
    store_config(directory, config)
    with contextlib.closing(Ledger.open(ledger_url(directory), config=config)) as ledger:
        ledger.next_trial()
    with pytest.raises(InputError, match="no run of study tiny has a checkpoint yet"):
        find_runs("tiny", storage=str(tmp_path))
    (directory / "runs" / "0-s0" / "checkpoints").mkdir(parents=True)
    with pytest.raises(InputError, match="no complete trial yet") as caught:
        find_runs("tiny", storage=str(tmp_path))
    assert caught.value.fix == "name a run: tiny/0-s0"
    assert find_runs("tiny/0", storage=str(tmp_path))[0].name == "tiny/0-s0"


def test_an_exported_folder_is_one_network(tmp_path):
    """An ensemble of a folder is refused; a folder that is damaged says so."""
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(InputError, match="one network"):
        find_models(str(tmp_path), storage="studies", all_seeds=True)
    with pytest.raises(InputError, match=r"model\.safetensors is missing"):
        find_models(str(tmp_path), storage="studies")
