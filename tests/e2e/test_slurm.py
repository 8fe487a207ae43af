"""The script for Slurm, on pretended nodes with a pretended `srun`; Ray and the study are real."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from study.config import load_config
from study.ledger import Ledger, default_url
from tests.slurm.nodes import Slurm

pytestmark = [pytest.mark.e2e, pytest.mark.long]

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "cluster" / "slurm" / "study.sbatch"
STUDY = """\
study: small
data:
  prepared: {folder}/data/phantom-64
  sources: [{{kind: phantom, name: site_a, patients: 14, seed: 1}}]
  image_size: 64
model: {{name: test_efficientnet}}
train: {{epochs: 12, batch_size: 16}}
search:
  trials: 4
  space:
    optim.lr: {{float: [1.0e-4, 1.0e-2], scale: log}}
resources: {{concurrent: 2}}
"""


@pytest.fixture
def slurm(request):
    """The nodes of one job; nothing of them stays."""
    made = Slurm(request.param)
    yield made
    made.close()


def start(slurm, *arguments, restarts=0, **env):
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RAY_", "SLURM_", "MLFLOW_", "STUDY_")) and name != "HOME"
    }
    kept |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **env}
    programs = Path(sys.executable).parent
    return slurm.sbatch(SCRIPT, *arguments, programs=programs, env=kept, restarts=restarts)


def ends(slurm, job, seconds=400):
    slurm.wait(lambda: job.poll() is not None, seconds)
    return job.returncode


def trials(file, studies):
    """Number and state of each trial, as the ledger has them."""
    with contextlib.closing(
        Ledger.open(default_url(studies / "small"), config=load_config(file), read_only=True)
    ) as one:
        return [(int(row.trial), row.state) for row in one.rows()]


def leftovers(slurm):
    """What a job must not leave: processes, its folders, its token."""
    return {
        "processes": [line for name in slurm.pids for line in slurm.processes(name)],
        "local": [name for name in slurm.pids for each in slurm.run(name, "ls", "/tmp").split() if "study" in each],
        "shared": list((slurm.folder / ".study-jobs").glob("*")),
    }


NOTHING = {"processes": [], "local": [], "shared": []}


@pytest.mark.parametrize("slurm", [["one", "two"]], indirect=True, ids=["two nodes"])
def test_saves_before_the_limit_and_goes_on(slurm):
    """USR1 in mid-run: a checkpoint, the queue again, nothing left; the next start ends with all trials."""
    file = slurm.folder / "small.yaml"
    file.write_text(STUDY.format(folder=slurm.folder))
    studies = slurm.folder / "studies"
    job = start(slurm, file, "--storage", studies)
    journal = studies / "small" / "journal.jsonl"
    slurm.wait(lambda: journal.exists() and journal.read_text().count('"epoch"') >= 3, 400, alive=job)
    token = slurm.folder / ".study-jobs" / "4711" / "token"
    assert (token.stat().st_mode & 0o777, len(token.read_text())) == (0o600, 64)
    assert token.read_text() not in slurm.log
    for name, address in slurm.addresses.items():
        assert [line for line in slurm.processes(name) if "raylet" in line and address in line], name
    told = time.time()
    job.send_signal(signal.SIGUSR1)
    assert ends(slurm, job, 110) == 0
    assert slurm.requeued == ["4711"]
    assert leftovers(slurm) == NOTHING
    saved = [path for path in (studies / "small" / "runs").rglob("checkpoints/*") if path.stat().st_mtime >= told]
    assert saved
    assert [state for _, state in trials(file, studies)].count("complete") < 4

    job = start(slurm, file, "--storage", studies, restarts=1)
    assert ends(slurm, job) == 0, slurm.log[-4000:]
    assert slurm.requeued == ["4711"]
    assert leftovers(slurm) == NOTHING
    assert trials(file, studies) == [(number, "complete") for number in range(4)]


@pytest.mark.parametrize("slurm", [["one"]], indirect=True, ids=["one node"])
class TestOneNode:
    """What goes wrong is told by the job's exit code, and leaves nothing behind."""

    def test_the_drivers_code_is_the_jobs(self, slurm):
        """A fault in the study file ends the job with 2, once, and not in the queue again."""
        file = slurm.folder / "wrong.yaml"
        file.write_text("study: wrong\nlos: {name: emd}\n")
        job = start(slurm, file, "--storage", slurm.folder / "studies")
        assert ends(slurm, job) == 2, slurm.log[-4000:]
        assert "the study ended with 2" in slurm.log
        assert slurm.requeued == []
        assert leftovers(slurm) == NOTHING

    def test_ray_does_not_start(self, slurm):
        """symmetric-run ends with 0 then; the job ends with 3 and says so."""
        port = 20000 + 4711 % 600 * 16
        script = f"import socket, sys; s = socket.create_server(('10.77.0.1', {port})); print('up', flush=True)"
        command = [*slurm.enter("one"), sys.executable, "-c", script + "; sys.stdin.read()"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as squatter:
            assert squatter.stdout.readline() == b"up\n"
            job = start(slurm, "any.yaml")
            assert ends(slurm, job) == 3, slurm.log[-4000:]
            assert "the driver was not started" in slurm.log
            squatter.stdin.close()
        assert slurm.requeued == []
        assert leftovers(slurm) == NOTHING


RAY = """\
#!/usr/bin/env bash
# Ray's part, played: the command on the first node, a wait on the others.
[[ $1 == symmetric-run ]] || exit 0
while [[ $1 != -- ]]; do shift; done
shift
sleep "${BEFORE:-0}"
if [[ $SLURM_PROCID == 0 ]]; then "$@"; else sleep 2; fi
"""
DRIVER = """\
#!/usr/bin/env bash
# A driver that saves when it is told, and is done after a while.
trap 'echo saved; exit 130' TERM
echo "driving $*"
for _ in $(seq 40); do sleep 0.1; done
"""


@pytest.mark.parametrize("slurm", [["one", "two"]], indirect=True, ids=["played"])
class TestScript:
    """The script's own logic, with Ray and the driver played by a few lines of shell."""

    def start(self, slurm, restarts=0, **env):
        programs = slurm.folder / "programs"
        programs.mkdir()
        for name, text in (("ray", RAY), ("study", DRIVER)):
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        return slurm.sbatch(SCRIPT, "my.yaml", "--storage", "s", programs=programs, env=env, restarts=restarts)

    def test_done(self, slurm):
        """Without a signal the driver ends by itself, with its own code, and gets what stands behind the script."""
        job = self.start(slurm)
        assert ends(slurm, job, 30) == 0
        assert "driving run my.yaml --storage s" in slurm.log
        assert slurm.requeued == []
        assert leftovers(slurm) == NOTHING

    def test_told_before_the_driver_runs(self, slurm):
        """A signal while Ray starts is not lost: the driver does not begin, and the job goes back into the queue."""
        job = self.start(slurm, BEFORE="2")
        slurm.wait(lambda: "Ray on 2 nodes" in slurm.log, 20, alive=job)
        job.send_signal(signal.SIGUSR1)
        assert ends(slurm, job, 30) == 0
        assert "driving" not in slurm.log
        assert slurm.requeued == ["4711"]

    def test_cancelled(self, slurm):
        """SIGTERM makes the driver save; a job that is cancelled does not come back."""
        job = self.start(slurm)
        slurm.wait(lambda: "driving" in slurm.log, 20, alive=job)
        job.send_signal(signal.SIGTERM)
        assert ends(slurm, job, 30) == 130
        assert "saved" in slurm.log
        assert slurm.requeued == []
        assert leftovers(slurm) == NOTHING

    def test_not_for_ever(self, slurm):
        """After so many starts the job fails instead of coming back."""
        job = self.start(slurm, restarts=3, STUDY_MOST_STARTS="3")
        slurm.wait(lambda: "driving" in slurm.log, 20, alive=job)
        job.send_signal(signal.SIGUSR1)
        assert ends(slurm, job, 30) == 1
        assert slurm.requeued == []

    def test_nodes_share_no_folder(self, slurm, tmp_path):
        """A folder that one node has to itself is refused before Ray starts."""
        job = self.start(slurm, STUDY_JOBS=str(tmp_path))
        assert ends(slurm, job, 30) == 3
        assert "set STUDY_JOBS to a folder that all nodes share" in slurm.log
        assert "symmetric-run" not in (slurm.folder / "calls").read_text()
