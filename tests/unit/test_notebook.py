"""Studies from a notebook, with a kernel that is made up: what is drawn, where, and what comes back."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from study import notebook
from study.cli import looking
from study.errors import ConfigError, StudyError
from study.ledger import Now, RunNow
from study.notebook import start, table_html, watch
from study.types import Limits, StudyResult, TrialRow
from study.watching import Snapshot

FILE = """
study: drawn
data: {{prepared: {root}/none, sources: [{{kind: phantom, name: a, patients: 30}}]}}
search: {{trials: 4, space: {{optim.lr: {{float: [1.0e-4, 1.0e-2], scale: log}}}}}}
"""


def snapshot(epoch: int, state: str = "running") -> Snapshot:
    row = TrialRow(
        trial="0",
        state="running" if state == "running" else "complete",
        value=0.5 + epoch / 100,
        params={"loss.name": "<b>emd</b>"},
        metrics={},
        seeds=(0,),
        epochs=epoch,
        curve=tuple(0.5 + i / 100 for i in range(1, epoch + 1)),
        images=100 * epoch,
        seconds=float(epoch),
    )
    result = StudyResult(study="drawn", state=state, metric="val/qwk", mode="max", rows=(row,), trials_planned=4)  # type: ignore[arg-type]
    run = RunNow(trial="0", seed=0, epoch=epoch, epochs=20, value=0.5, rate=100.0, seconds=1.0, told=100.0)
    now = Now(host="h", pid=1, directory="/d", since=0.0, told=100.0, stage="searching", stage_since=90.0, runs=(run,))
    return Snapshot(result=result, taken=100.0, limits=Limits(trials=4), now=now, driver="process 1 on h", epochs=20)


@pytest.fixture
def looks(monkeypatch, tmp_path):
    """A study that is seen four times, the last time when it is done."""
    file = tmp_path / "drawn.yaml"
    file.write_text(FILE.format(root=tmp_path))
    from study.config import load_config

    found = looking.Found(config=load_config(file), directory=tmp_path)
    seen = [snapshot(1), snapshot(2), snapshot(3), snapshot(3, "done")]
    monkeypatch.setattr(notebook, "find", lambda name, storage: found)
    monkeypatch.setattr(looking.Looker, "look", lambda self: seen.pop(0) if len(seen) > 1 else seen[0])
    monkeypatch.setattr(notebook.time, "sleep", lambda _: None)
    return seen


@pytest.fixture
def kernel(monkeypatch):
    """A notebook's IPython: every drawing, by the display in whose place it stands."""
    drawn: list[list[str]] = []

    def display(content, *, display_id):
        assert display_id
        drawn.append([content.data])
        place = drawn[-1]
        return SimpleNamespace(update=lambda other: place.append(other.data))

    shell = ModuleType("IPython")
    shell.get_ipython = lambda: SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    shown = ModuleType("IPython.display")
    shown.HTML = lambda text: SimpleNamespace(data=text)  # type: ignore[attr-defined]
    shown.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", shell)
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    return drawn


def test_the_table_updates_in_place(looks, kernel):
    """Every look draws a table of its own, or the last one is not drawn."""
    record = watch("drawn")
    ((first, *others),) = kernel
    assert "<td style='text-align: left'>1/20</td>" in first
    assert "3/20" in others[-2]
    assert "drawn  done" in others[-1]
    assert len(others) == 3
    assert (record["study"], record["state"]) == ("drawn", "done")


def test_what_a_study_says_is_text(looks):
    """A value of a study file becomes markup in the notebook."""
    text = table_html(snapshot(2), log="a<b", name="drawn")
    assert "&lt;b&gt;emd" in text
    assert "<b>" not in text
    assert "log: a&lt;b" in text
    for part in ("searching for 10 s", "driven by process 1 on h", "2/20", "<td style='text-align: left'>100</td>"):
        assert part in text


def test_without_a_notebook(looks, capsys):
    """Outside of a notebook nothing is shown, or IPython is needed."""
    watch("drawn")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "drawn  running  0 of 4 trials (1 running)"
    assert [line for line in lines if "epoch 3/20" in line] == ["trial 0  epoch 3/20  val/qwk 0.530  100 images/s"]
    assert lines[-1] == "trial 0  complete  val/qwk 0.530"


def test_leaving(looks, monkeypatch, capsys):
    """Interrupting the kernel raises, or a watch with a limit goes on for ever."""

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    assert watch("drawn", timeout_s=0.0)["state"] == "running"
    monkeypatch.setattr(notebook, "next_snapshot", interrupt)
    assert watch("drawn")["study"] == "drawn"


class TestStart:
    @pytest.fixture
    def file(self, tmp_path) -> Path:
        path = tmp_path / "drawn.yaml"
        path.write_text(FILE.format(root=tmp_path))
        return path

    def test_faults_come_at_once(self, file, tmp_path):
        """A study file with faults starts a process, or leaves a directory behind."""
        with pytest.raises(ConfigError, match=r"search\.trials"):
            start(file, overrides=["search.trials=no"], storage=str(tmp_path / "studies"))
        assert not (tmp_path / "studies").exists()

    def test_it_runs_apart(self, file, tmp_path, monkeypatch):
        """The command is another one than the terminal's, its output is lost, or a start that failed says nothing."""
        called = []
        real = subprocess.Popen

        def popen(command, **options):
            called.append(command)
            code = "print('no worker'); raise SystemExit(3)" if len(called) == 1 else "pass"
            return real([sys.executable, "-c", code], **options)

        monkeypatch.setattr(notebook.subprocess, "Popen", popen)
        storage = str(tmp_path / "studies")
        with pytest.raises(StudyError, match=r"ended with exit code 3:\nno worker"):
            start(file, overrides=["seed=3"], storage=storage)
        assert called[0][3:] == ["run", str(file), "--set", "seed=3", "--storage", storage]
        started = start(file, storage=storage)
        started.process.wait()
        assert repr(started).startswith("study drawn: ended with exit code 0, process ")
