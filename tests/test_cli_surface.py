"""The command line is a promise: verbs, options and exit codes."""

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
import typer
from typer.testing import CliRunner

import study
from study.cli import app
from study.cli.folders import check_same_study, study_directory
from study.cli.invocation import INVOCATION, exit_with, program
from study.config import load_config
from study.errors import ConfigError, EnvironmentFault, InputError, InterruptedStudy, StudyError

COMMON = {"--storage", "--debug", "--help"}
SURFACE = {
    "prepare": ["[FILE]", "--dry-run", "--preview", "--plan", "--scale", "--set"],
    "run": ["FILE", "--dry-run", "--scale", "--set"],
    "resume": ["NAME", "--trials", "--space", "--set"],
    "submit": [
        "FILE",
        "--address",
        "--follow",
        "-f",
        "--scale",
        "--set",
        "--env",
        "--package",
        "--exclude",
        "--dry-run",
        "--json",
    ],
    "status": ["NAME", "--watch", "--json", "--address"],
    "stop": ["NAME", "--address", "--wait"],
    "logs": ["NAME", "--lines", "-n", "--follow", "-f", "--address"],
    "best": ["NAME", "--top", "--json", "--yaml", "--where", "--per-cost", "--why"],
    "confirm": ["NAME"],
    "evaluate": ["RUN", "--on", "--ensemble", "--out", "--json"],
    "predict": ["RUN", "FILES...", "--out", "--mc-dropout", "--ensemble"],
    "explain": ["RUN...", "--images", "--numbers", "--split", "--task", "--out"],
    "profile": ["RUN|FILE", "--steps", "--json", "--out", "--set"],
    "report": ["NAME", "--out", "--methods", "--quick"],
    "export": ["RUN", "--to", "--torchscript"],
    "doctor": ["[FILE]", "--licences", "--scale", "--set", "--json"],
    "list": ["--json"],
    "sync": ["NAME"],
    "compare": ["NAME NAME...", "--json"],
}
STUDY_FILE = """
study: {name}
data:
  prepared: {root}/prepared
  sources: [{{kind: phantom, name: site_a, patients: 30, seed: 1}}]
search: {{trials: 4, space: {{optim.lr: {{float: [1.0e-4, 1.0e-2], scale: log}}}}}}
"""


@pytest.fixture(autouse=True)
def _fresh_invocation(monkeypatch):
    """Options of one call do not reach the next."""
    for name, value in {"debug": False, "storage": "studies", "log": None}.items():
        monkeypatch.setattr(INVOCATION, name, value)


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from study.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


def write_study(root: Path, name: str = "tiny") -> Path:
    """A study that has not begun: its directory and resolved file."""
    from study.cli.folders import store_config

    file = root / f"{name}.yaml"
    file.write_text(STUDY_FILE.format(name=name, root=root))
    (root / "studies" / name).mkdir(parents=True)
    store_config(root / "studies" / name, load_config(file))
    return file


def parameters(verb: str) -> list[str]:
    command: Any = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    names: list[str] = []
    for parameter in command.params:
        names += parameter.opts if parameter.param_type_name == "option" else [parameter.metavar]
    return names


class TestSurface:
    def test_verbs(self):
        """No verb appears or disappears unnoticed."""
        assert set(typer.main.get_command(app).commands) == set(SURFACE)  # type: ignore[attr-defined]

    @pytest.mark.parametrize("verb", SURFACE)
    def test_options(self, verb):
        """No argument or option of a verb appears or disappears unnoticed."""
        assert set(parameters(verb)) | {"--help"} == set(SURFACE[verb]) | COMMON

    def test_version(self):
        """What has to agree between machines, in one line."""
        shown = CliRunner().invoke(app, ["--version"])
        versions = f"study {study.__version__}, Python {platform.python_version()}, Ray {ray.__version__}\n"
        assert (shown.exit_code, shown.output) == (0, versions)

    def test_help_shows_examples(self):
        """The help names every verb and shows commands that can be copied."""
        text = CliRunner().invoke(app, ["--help"]).output
        for verb in SURFACE:
            assert f"  {verb} " in text
        assert "study run search_spaces/quickstart.yaml" in text
        assert "study best quickstart --yaml" in text

    def test_profile_into_a_file(self, tmp_path):
        """An epoch is trained before it turns out that its profile has no place."""
        (tmp_path / "taken").touch()
        refused = CliRunner().invoke(app, ["profile", "quickstart", "--out", str(tmp_path / "taken")])
        assert isinstance(refused.exception, InputError)
        assert "expected a folder" in refused.exception.message

    def test_report(self, tmp_path):
        """The figure of the losses is not written where it is asked for, or another report pretends to exist."""
        place = tmp_path / "new" / "losses.png"
        done = CliRunner().invoke(app, ["report", "losses", "--out", str(place)])
        assert (done.exit_code, done.stdout) == (0, "")
        assert place.read_bytes().startswith(b"\x89PNG")
        for arguments, words in (
            (["quickstart", "--storage", str(tmp_path)], "no study is called 'quickstart'"),
            (["losses", "--out", str(tmp_path)], "expected the name of a PNG file"),
            (["losses", "--out", str(tmp_path / "losses.pdf")], "expected the name of a PNG file"),
            (["losses", "--out", str(place / "below.png")], "cannot be written"),
        ):
            refused = CliRunner().invoke(app, ["report", *arguments])
            assert isinstance(refused.exception, InputError)
            assert exit_with(refused.exception) == 2
            assert words in refused.exception.message

    @pytest.mark.parametrize(
        "arguments",
        [
            ["fly"],
            ["run"],
            ["run", "a.yaml", "--fast"],
            ["best", "x", "--json", "--yaml"],
            ["best", "x", "--top", "0"],
            ["status"],
        ],
    )
    def test_wrong_usage(self, arguments):
        """Wrong usage exits 2, with a word about it on standard error and nothing on standard output."""
        done = CliRunner().invoke(app, arguments)
        assert (done.exit_code, done.stdout) == (2, "")
        assert "Error" in done.stderr


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (StudyError("found", "mend it"), 1),
            (InputError("found", "mend it"), 2),
            (ConfigError("found", "mend it"), 2),
            (EnvironmentFault("found", "mend it"), 3),
        ],
    )
    def test_told_in_two_lines(self, error, code, capsys):
        """An error of ours is what was found and what to do, without a traceback."""
        assert exit_with(error) == code
        assert capsys.readouterr() == ("", "error: found\n  fix: mend it\n")

    def test_interrupted(self, capsys):
        """A stopped study names the command that goes on."""
        assert exit_with(InterruptedStudy("study tiny was stopped", "study resume tiny --storage out")) == 130
        told = "stopped: study tiny was stopped\n  go on with: study resume tiny --storage out\n"
        assert capsys.readouterr() == ("", told)

    def test_debug_shows_the_traceback(self, capsys):
        """With --debug the traceback stands before the message."""
        INVOCATION.debug = True
        assert exit_with(InputError("found", "mend it")) == 2
        assert capsys.readouterr().err.startswith("study.errors.InputError")

    def test_unexpected(self, capsys, tmp_path):
        """A fault of ours is one line, exit code 1, and a traceback in the log that the line names."""
        INVOCATION.log = tmp_path / "tiny" / "study.log"
        with pytest.raises(ZeroDivisionError) as caught:
            raise ZeroDivisionError("division by zero\nsecond line")
        assert exit_with(caught.value) == 1
        told = capsys.readouterr().err
        assert told.startswith("error: ZeroDivisionError: division by zero\n")
        assert "second line" not in told
        assert str(INVOCATION.log) in told
        assert "Traceback (most recent call last)" in INVOCATION.log.read_text()

    def test_unexpected_without_a_place_to_write(self, capsys, tmp_path):
        """Where no log can be written the line says how to see the traceback."""
        (tmp_path / "file").write_text("")
        INVOCATION.storage = str(tmp_path / "file" / "studies")
        assert exit_with(ZeroDivisionError("x")) == 1
        assert "--debug" in capsys.readouterr().err

    def test_program_that_the_shell_does_not_find(self, monkeypatch, tmp_path):
        """Commands to copy carry the folder of the program where the shell would not find it."""
        (tmp_path / ".venv" / "bin").mkdir(parents=True)
        for name in ("study", "mlflow"):
            (tmp_path / ".venv" / "bin" / name).write_text("")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [".venv/bin/study", "run"])
        monkeypatch.setenv("PATH", "")
        assert (program(), program("mlflow")) == (".venv/bin/study", ".venv/bin/mlflow")


class TestNames:
    def test_unknown_name(self, tmp_path):
        """An unknown study is bad input that names the nearest ones."""
        for name in ("quickstart", "losses"):
            write_study(tmp_path, name)
        storage = str(tmp_path / "studies")
        with pytest.raises(InputError, match="no study is called 'quikstart'") as error:
            study_directory("quikstart", storage)
        assert error.value.fix == "did you mean quickstart?"
        with pytest.raises(InputError) as error:
            study_directory("zebra", storage)
        assert "list --storage" in error.value.fix

    def test_file_instead_of_name(self, tmp_path):
        """Whoever resumes a file is told that run takes files."""
        with pytest.raises(InputError, match="is a file") as error:
            study_directory("my.yaml", str(tmp_path))
        assert "run my.yaml" in error.value.fix

    def test_from_the_shell(self, tmp_path):
        """An unknown name exits 2 with two lines on standard error."""
        done = call("status", "zebra", "--json", "--storage", str(tmp_path))
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.splitlines()[0] == f"error: no study is called 'zebra' in {tmp_path}"
        assert "Traceback" not in done.stderr

    def test_storage_uri(self):
        """A storage that cannot be one is refused, not made into a strange folder, and its secrets are not repeated."""
        done = call("list", "--storage", "s3://AKID:hunter2@bucket/studies")
        assert done.returncode == 2
        assert "s3://bucket/studies: the URI holds a user or a password" in done.stderr
        assert "hunter2" not in done.stderr


class TestSameStudy:
    def test_budget_may_grow(self, tmp_path):
        """Trials, confirmation and resources may change when a study goes on."""
        file = write_study(tmp_path)
        grown = ["search.trials=9", "confirm.top=3", "confirm.seeds=[0,1]", "resources.workers=2"]
        check_same_study(load_config(file), load_config(file, grown), storage="studies")

    def test_anything_else_is_refused(self, tmp_path):
        """Every changed path is listed with both values, and both ways out."""
        file = write_study(tmp_path)
        with pytest.raises(InputError) as error:
            check_same_study(load_config(file), load_config(file, ["optim.lr=0.1", "train.epochs=3"]), storage="out")
        lines = error.value.message.splitlines()
        assert lines[0] == "study 'tiny' exists with another configuration:"
        assert lines[1:] == ["  optim.lr: 0.001 -> 0.1", "  train.epochs: 20 -> 3"]
        assert "resume tiny --storage out" in error.value.fix
        assert "--set study=NAME" in error.value.fix

    def test_budget_may_not_shrink(self, tmp_path):
        """Fewer trials than before are refused."""
        file = write_study(tmp_path)
        with pytest.raises(InputError, match="expected at least 4"):
            check_same_study(load_config(file), load_config(file, ["search.trials=3"]), storage="studies")


class TestOutput:
    def test_status_of_a_new_study(self, tmp_path):
        """JSON stands alone on standard output, with the promised keys."""
        write_study(tmp_path)
        done = call("status", "tiny", "--json", "--storage", str(tmp_path / "studies"))
        assert json.loads(done.stdout) == {"study": "tiny", "state": "new", "trials": {}, "running": [], "best": None}

    def test_best_of_a_new_study(self, tmp_path):
        """No trial gives an empty list, and no study file."""
        write_study(tmp_path)
        storage = str(tmp_path / "studies")
        assert json.loads(call("best", "tiny", "--json", "--storage", storage).stdout) == []
        done = call("best", "tiny", "--yaml", "--storage", storage)
        assert (done.returncode, done.stdout) == (1, "")
        assert "no trial of study 'tiny' is complete" in done.stderr

    def test_list(self, tmp_path):
        """Every study has its line; a broken one does not hide the others."""
        write_study(tmp_path)
        write_study(tmp_path, "broken")
        (tmp_path / "studies" / "broken" / "study.yaml").write_text("study: [")
        done = call("list", "--storage", str(tmp_path / "studies"))
        assert (done.returncode, done.stdout) == (0, "")
        heading, *lines = [line.split()[:2] for line in done.stderr.splitlines()]
        assert (heading, lines) == (["study", "state"], [["broken", "unreadable:"], ["tiny", "new"]])

    def test_logs(self, tmp_path):
        """The end of the log goes to standard output; without a log the study has not begun."""
        write_study(tmp_path)
        storage = str(tmp_path / "studies")
        assert call("logs", "tiny", "--storage", storage).returncode == 2
        (tmp_path / "studies" / "tiny" / "study.log").write_text("one\ntwo\nthree\n")
        assert call("logs", "tiny", "-n", "2", "--storage", storage).stdout == "two\nthree\n"

    def test_dry_run(self, tmp_path):
        """A dry run counts patients and images by split and class, and writes nothing."""
        file = write_study(tmp_path)
        before = sorted(tmp_path.rglob("*"))
        done = call("prepare", str(file), "--dry-run")
        assert (done.returncode, done.stdout) == (0, "")
        lines = [line.split() for line in done.stderr.splitlines()]
        assert lines[0] == ["source", "split", "patients", "images", "normal", "benign", "malignant"]
        assert [line[1] for line in lines[1:4]] == ["train", "val", "test"]
        assert sum(int(line[2]) for line in lines[1:4]) == 30
        assert sorted(tmp_path.rglob("*")) == before

    def test_broken_file(self, tmp_path):
        """A broken study file exits 2 with all its faults and leaves no directory behind."""
        file = write_study(tmp_path)
        file.write_text(file.read_text() + "loss: {name: fokal}\ntrain: {epochs: 0}\n")
        done = call("run", str(file), "--storage", str(tmp_path / "other"))
        assert (done.returncode, done.stdout) == (2, "")
        assert "loss.name" in done.stderr
        assert "train.epochs" in done.stderr
        assert not (tmp_path / "other").exists()
