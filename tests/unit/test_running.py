"""The verbs that train, around a stand-in for the driver: what the user sees, files, exit codes."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from study.cli.folders import stored_config

STUDY_FILE = """
study: tiny
data:
  prepared: {root}/prepared
  sources: [{{kind: phantom, name: site_a, patients: 30, seed: 1}}]
train: {{epochs: 2}}
search: {{trials: 4, space: {{optim.lr: {{float: [1.0e-4, 1.0e-2], scale: log}}}}}}
"""

# Replaces the driver, so that no cluster is needed; everything around it is real.
DRIVER = """
    import os, sys, types
    from study.errors import InterruptedStudy, StudyError
    from study.types import EpochResult, Event, StudyResult, TrialRow

    def run_study(config, *, study_dir, ledger_url, tracking_uri, observe, stop):
        print("chatter of a library")
        os.write(2, b"chatter of C code\\n")
        observe(Event(kind="stage", text="searching"))
        observe(Event(kind="started", trial="0", params={{"optim.lr": 0.01}}))
        metrics = {{"val/auroc_macro": 0.75}}
        result = EpochResult(epoch=1, metrics=metrics, images=100, seconds=2.0)
        observe(Event(kind="epoch", trial="0", result=result, value=0.75))
        {then}
        observe(Event(kind="ended", trial="0", state="complete"))
        row = TrialRow(trial="0", state="complete", value=0.75, params={{"optim.lr": 0.01}}, metrics=metrics,
                       seeds=(0,), epochs=1, curve=(0.75,))
        return StudyResult(study=config.study, state="done", metric="val/auroc_macro", mode="max", rows=(row,),
                           trials_planned=config.search.trials, did_work={did_work})

    driver = types.ModuleType("study.distributed.tuner")
    driver.run_study = run_study
    sys.modules["study.distributed.tuner"] = driver
    from study.cli import main
    main()
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a study file and the directory of a study that was made from it and has not begun."""
    from study.cli.folders import store_config
    from study.config import load_config

    file = tmp_path / "tiny.yaml"
    file.write_text(STUDY_FILE.format(root=tmp_path))
    (tmp_path / "out" / "tiny").mkdir(parents=True)
    store_config(tmp_path / "out" / "tiny", load_config(file))
    return tmp_path


def start(root: Path, *arguments: str, then: str = "", did_work: bool = True) -> subprocess.Popen[str]:
    code = textwrap.dedent(DRIVER).format(then=then, did_work=did_work)
    command = [sys.executable, "-c", code, *arguments, "--storage", "out"]
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_resume_to_the_end(root):
    """A run shows its events and its tables, keeps libraries quiet, and leaves figure, table, log and study file."""
    code, out, err = finish(start(root, "resume", "tiny"))
    assert (code, out) == (0, "")
    lines = err.splitlines()
    assert lines[:4] == [
        "searching",
        "trial 0  started  lr=0.01",
        "trial 0  epoch 1/2  val/auroc_macro 0.750  50 images/s",
        "trial 0  complete  val/auroc_macro 0.750",
    ]
    assert lines[5].split() == ["rank", "trial", "parameters", "val/auroc_macro", "val/f1_macro", "epochs", "state"]
    assert "  study   out/tiny" in lines
    assert "  study best tiny --storage out --yaml" in lines
    assert "chatter" not in err
    log = (root / "out" / "tiny" / "study.log").read_text()
    assert "chatter of a library" in log
    assert "chatter of C code" in log
    for name in ("report/search.png", "report/search.csv", "study.yaml"):
        assert (root / "out" / "tiny" / name).exists()


def test_a_finished_study_says_so(root):
    """A study with nothing left to do says that before its tables."""
    code, _, err = finish(start(root, "resume", "tiny", did_work=False))
    assert code == 0
    assert "study tiny is done; nothing is left to run" in err


def test_budget_grows_on_resume(root):
    """A larger budget on resume is kept in the study file; anything else is refused and changes nothing."""
    assert finish(start(root, "resume", "tiny", "--set", "search.trials=9"))[0] == 0
    assert stored_config(root / "out" / "tiny").search.trials == 9  # type: ignore[union-attr]
    before = (root / "out" / "tiny" / "study.yaml").read_text()
    code, _, err = finish(start(root, "resume", "tiny", "--set", "train.epochs=9"))
    assert code == 2
    assert "  train.epochs: 2 -> 9" in err.splitlines()
    assert (root / "out" / "tiny" / "study.yaml").read_text() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_stops_in_order(root, number):
    """A signal asks the driver to stop, says so, and ends with the command that goes on and code 130."""
    then = "stop.wait(30); raise InterruptedStudy('study tiny was stopped')"
    process = start(root, "resume", "tiny", then=then)
    assert process.stderr is not None
    while "epoch 1/2" not in process.stderr.readline():
        pass
    process.send_signal(number)
    code, out, err = finish(process)
    assert (code, out) == (130, "")
    assert err.splitlines() == [
        "stopping: saving a checkpoint ... (again to quit at once)",
        "stopped: study tiny was stopped",
        "  go on with: study resume tiny --storage out",
    ]


def test_a_reader_that_goes_away_does_not_end_the_study(root):
    """A study whose output is piped into something that ends early runs to its end."""
    then = "import time; time.sleep(0.5)\n    for _ in range(3): observe(Event(kind='stage', text='x' * 70_000))"
    process = start(root, "resume", "tiny", then=then)
    assert process.stderr is not None
    process.stderr.readline()
    process.stderr.close()
    process.wait(timeout=60)
    assert (root / "out" / "tiny" / "report" / "search.png").exists()


def test_two_signals_quit_at_once(root):
    """A second signal quits with code 130 though the driver does not come back."""
    process = start(root, "resume", "tiny", then="import time; time.sleep(60)")
    assert process.stderr is not None
    for text in ("epoch 1/2", "stopping"):
        while text not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == 130


def test_a_failure_is_told_in_two_lines(root):
    """An error of the driver is what was found and what to do, without a traceback, with the error's exit code."""
    code, _, err = finish(
        start(root, "resume", "tiny", then="raise StudyError('all slots are gone', 'look at the log')")
    )
    assert code == 1
    assert err.splitlines()[-2:] == ["error: all slots are gone", "  fix: look at the log"]


def test_a_fault_of_ours_goes_to_the_log(root):
    """An unexpected error is one line that names the log; the traceback is there."""
    code, _, err = finish(start(root, "resume", "tiny", then="raise ZeroDivisionError('division by zero')"))
    assert code == 1
    assert "error: ZeroDivisionError: division by zero" in err
    assert "Traceback" not in err
    assert "out/tiny/study.log" in err
    assert "Traceback (most recent call last)" in (root / "out" / "tiny" / "study.log").read_text()


def test_one_driver_at_a_time(root):
    """A study that runs is refused to a second driver, which names the first."""
    process = start(root, "resume", "tiny", then="stop.wait(30); raise InterruptedStudy('stopped')")
    assert process.stderr is not None
    while "epoch 1/2" not in process.stderr.readline():
        pass
    code, _, err = finish(start(root, "resume", "tiny"))
    assert code == 2
    assert f"is running as process {process.pid}" in err
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 130


def test_confirm_waits_for_the_search(root):
    """A study whose search is not over is not confirmed; the fix is to resume it."""
    code, _, err = finish(start(root, "confirm", "tiny"))
    assert code == 2
    assert "0 of 4 trials are finished" in err
    assert "study resume tiny --storage out" in err


def test_run_keeps_a_confirmation_that_was_added_later(root, monkeypatch):
    """Running the file again after `confirm NAME` drops the confirmation from the study."""
    from study.cli import running
    from study.cli.folders import store_config

    file, storage = root / "tiny.yaml", str(root / "out")
    stored = stored_config(root / "out" / "tiny")
    confirmed = type(stored).model_validate({**stored.model_dump(mode="json"), "confirm": {"top": 1}})
    store_config(root / "out" / "tiny", confirmed)
    driven = []
    monkeypatch.setattr(running, "known_rows", lambda *_: ["a trial"])
    monkeypatch.setattr(running, "_run", lambda config, *_, **__: driven.append(config))
    running.run_file(file, storage=storage, overrides=())
    assert driven == [confirmed]
