"""Whole studies through the command line, in processes of their own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from study.config import load_config
from study.ledger import Ledger, default_url

STUDY = str(Path(sys.executable).parent / "study")
SMALL = """\
study: small
data:
  prepared: {folder}/data/phantom-64
  sources:
    - {{kind: phantom, name: site_a, patients: 14, seed: 1, vendors: [Alpha]}}
    - {{kind: phantom, name: site_b, patients: 14, seed: 2, vendors: [Beta]}}
  image_size: 64
  segments: [source]
model: {{name: test_efficientnet, drop_rate: 0.1}}
augment: {{policy: mammogram}}
train: {{epochs: 4, batch_size: 16}}
search:
  trials: 5
  pruner: {{name: successive_halving, min_epochs: 1}}
  space:
    loss.name: {{choice: [cross_entropy, emd, corn, focal]}}
    loss.gamma: {{float: [0.5, 5.0], when: {{loss.name: focal}}}}
    optim.lr: {{float: [1.0e-4, 1.0e-2], scale: log}}
confirm: {{top: 1, seeds: [0, 1]}}
resources: {{concurrent: 1}}
"""


def surroundings(extra: Mapping[str, str] | None) -> dict[str, str]:
    """This process's environment without what would send a study elsewhere, with a wide terminal and ``extra``."""
    elsewhere = ("MLFLOW_TRACKING_URI", "STUDY_LEDGER_URL", "RAY_ADDRESS")
    kept = {name: value for name, value in os.environ.items() if name not in elsewhere}
    return {**kept, "COLUMNS": "140", **(extra or {})}


class Cli:
    """Runs `study` in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(
        self, *args: str, timeout: float = 300, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end; standard output and error come back as text."""
        return self.command([STUDY, *args], timeout=timeout, env=env)

    def command(
        self, words: Sequence[str], *, timeout: float = 300, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run any command in the folder to its end."""
        return subprocess.run(
            words,
            cwd=self.folder,
            env=surroundings(env),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def start(self, *args: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start in a process group of its own, as a shell would; all it prints goes to ``out.txt``."""
        with (self.folder / "out.txt").open("ab") as out:
            return subprocess.Popen(
                [STUDY, *args],
                cwd=self.folder,
                env=surroundings(env),
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def ledger(self, study: str) -> Ledger:
        """The ledger of a study below this folder, read only."""
        directory = self.folder / "studies" / study
        config = load_config(directory / "study.yaml")
        return Ledger.open(default_url(directory), config=config, read_only=True)

    def kill_when(
        self, process: subprocess.Popen[bytes], condition, *, sig=signal.SIGKILL, timeout: float = 200
    ) -> int:
        """Send ``sig`` to the whole group as soon as ``condition()`` holds; the exit code."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert process.poll() is None, (
                f"the study ended before the signal:\n{(self.folder / 'out.txt').read_text()}"
            )
            assert time.monotonic() < deadline, "the moment to send the signal did not come"
            time.sleep(0.02)
        if sig == signal.SIGKILL:
            os.killpg(process.pid, sig)
        else:
            process.send_signal(sig)
        return process.wait(timeout=120)


@pytest.fixture(scope="module")
def cli(tmp_path_factory):
    """`study` in an empty folder, shared by the tests of a module."""
    return Cli(tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="session")
def phantom_data(tmp_path_factory):
    """A folder in which the small study's data is prepared once."""
    return tmp_path_factory.mktemp("shared")


@dataclass(frozen=True)
class Finished:
    """The small study after its one and only run: where it lies, and what the program printed."""

    cli: Cli
    printed: str
    data: Path

    @property
    def directory(self) -> Path:
        """The study directory."""
        return self.cli.folder / "studies" / "small"

    @property
    def mlflow_uri(self) -> str:
        """The study's own MLflow database."""
        return f"sqlite:///{self.directory / 'mlflow.db'}"


@pytest.fixture(scope="session")
def finished(tmp_path_factory, phantom_data):
    """The small study, run once for all tests that look at a finished one; they leave it as it is."""
    cli = Cli(tmp_path_factory.mktemp("finished"))
    (cli.folder / "small.yaml").write_text(SMALL.format(folder=phantom_data))
    done = cli("run", "small.yaml")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    return Finished(cli, done.stderr, phantom_data / "data")


@pytest.fixture
def small_file(tmp_path, phantom_data):
    """The small study's file; all copies share one prepared dataset."""
    path = tmp_path / "small.yaml"
    path.write_text(SMALL.format(folder=phantom_data))
    return path
