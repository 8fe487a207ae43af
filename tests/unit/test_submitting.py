"""Sending a study once: the decision table, what may travel, addresses, and following a job over a line that breaks."""

import dataclasses
import json
import os
import subprocess
import sys
from itertools import count
from pathlib import Path
from platform import python_version

import pytest
import ray
from typer.testing import CliRunner

from study.cli import app
from study.cli.cluster_address import cluster_address
from study.cli.folders import store_config
from study.cli.following import exit_code_of, follow_job
from study.cli.parcel_rules import check_file, check_packages, check_storage, forwarded
from study.cli.staging import pack
from study.cli.submitting import STOP_WAIT
from study.config import load_config
from study.distributed.job_client import Versions
from study.distributed.jobs import ATTEMPTS, Job, Parcel, advice, end_of, log_start, send_once
from study.errors import EnvironmentFault, InputError, StudyError
from study.ledger import ask_to_stop, lock_study
from study.ledger.stopping import look_for_request

OURS = {"study": "tiny", "storage": "/shared", "file": "f"}
PARCEL = Parcel(name="tiny", folder=Path(), entrypoint="STUDY_JOB=2 run", metadata=OURS)


class FakeServer:
    """A cluster's jobs in memory, with Ray's rules; ``script`` happens before each look at a job."""

    address = "http://head:8265"

    def __init__(self, job=None, *, log="", script=(), chunks=()):
        self.job, self.text, self.script, self.chunks = job, log, list(script), list(chunks)
        self.sent, self.deleted, self.clock, self.next = [], 0, 1000.0, "running"

    def now(self):
        return self.clock

    def find(self, name):
        if self.script:
            self.script.pop(0)(self)
        return self.job

    def send(self, parcel):
        if self.job is not None:
            return False
        self.sent.append(parcel)
        self.job = Job(
            name=parcel.name,
            state=self.next,
            entrypoint=parcel.entrypoint,
            metadata=parcel.metadata,
            started=self.clock,
        )
        return True

    def delete(self, name):
        if self.job is None or not self.job.is_over:
            return False
        self.job, self.deleted = None, self.deleted + 1
        return True

    def stop(self, name):
        self.job = dataclasses.replace(self.job, state="stopped", ended=self.clock)
        return True

    def log(self, name):
        return self.text

    def follow(self, name, *, skip):
        step = self.chunks.pop(0)
        if isinstance(step, Exception):
            raise step
        yield step(self, skip)

    def wait(self, seconds):
        self.clock += seconds


def job(state="running", **fields):
    return Job(**{"name": "tiny", "state": state, "metadata": OURS, "entrypoint": "STUDY_JOB=1 run"} | fields)


def become(value):
    return lambda server: setattr(server, "job", value)


class TestSendOnce:
    def test_new(self):
        """A study that was never sent starts."""
        server = FakeServer()
        sent = send_once(server, PARCEL, wait=server.wait)
        assert (sent.how, sent.job.state, len(server.sent)) == ("started", "running", 1)

    @pytest.mark.parametrize("state", ["pending", "running"])
    def test_active(self, state):
        """One that runs or waits stays alone."""
        server = FakeServer(job(state))
        sent = send_once(server, PARCEL, wait=server.wait)
        assert (sent.how, sent.job.state, server.sent, server.deleted) == ("running", state, [], 0)

    @pytest.mark.parametrize("state", ["stopped", "failed", "succeeded"])
    def test_ended(self, state):
        """One that has ended, in whatever way, is followed by a new job of its name."""
        server = FakeServer(job(state, ended=900.0))
        sent = send_once(server, PARCEL, wait=server.wait)
        assert (sent.how, len(server.sent), server.deleted, server.clock) == ("resumed", 1, 1, 1000.0)

    def test_ended_just_now(self):
        """Ray's watcher of the ended job has time to leave before its name is used again."""
        server = FakeServer(job("stopped", ended=999.0))
        send_once(server, PARCEL, wait=server.wait)
        assert server.clock == 1004.0
        ahead = FakeServer(job("stopped", ended=5000.0))
        send_once(ahead, PARCEL, wait=ahead.wait)
        assert ahead.clock == 1005.0

    def test_two_at_once(self):
        """Who comes second finds the other's job, whether nobody had one before or one had ended."""
        server = FakeServer(script=[become(None)])
        server.send = lambda parcel: become(job())(server)  # the other was faster
        assert send_once(server, PARCEL, wait=server.wait).how == "running"
        server = FakeServer(job("failed", ended=1.0), script=[lambda s: None, become(job())])
        server.delete = lambda name: False
        assert send_once(server, PARCEL, wait=server.wait).how == "running"

    def test_pending_is_waited_for(self):
        """The command comes back when the job runs, or has waited for long."""
        server = FakeServer(script=[lambda s: None] * 4 + [become(job(entrypoint=PARCEL.entrypoint))])
        server.next = "pending"
        assert send_once(server, PARCEL, wait=server.wait).job.state == "running"
        for_ever = FakeServer()
        for_ever.next = "pending"
        assert send_once(for_ever, PARCEL, wait=for_ever.wait).job.state == "pending"

    def test_place_still_taken(self):
        """A job that Ray could not begin, since the one before still left, is sent again."""
        failed = job(
            "failed",
            entrypoint=PARCEL.entrypoint,
            cause="JOB_SUPERVISOR_ACTOR_START_FAILURE",
            message="the name _ray_internal_job_actor_tiny is already taken",
            ended=1.0,
        )
        server = FakeServer(script=[lambda s: None, become(failed)])
        sent = send_once(server, PARCEL, wait=server.wait)
        assert (sent.how, len(server.sent), server.deleted) == ("resumed", 2, 1)

    def test_not_ours(self):
        """A job of that name that is something else, or a study elsewhere, is left alone."""
        for other in (job(metadata={}), job("failed", metadata={**OURS, "storage": "/other"})):
            server = FakeServer(other)
            with pytest.raises(InputError) as error:
                send_once(server, PARCEL, wait=server.wait)
            assert "--set study=NAME" in error.value.fix
            assert (server.job, server.sent) == (other, [])

    def test_gives_up(self):
        """A job that others send and forget all the time ends in an error, not in a loop."""
        server, turns = FakeServer(), count()
        server.send = lambda parcel: (next(turns), False)[1]
        with pytest.raises(StudyError, match="changed each of"):
            send_once(server, PARCEL, wait=server.wait)
        assert next(turns) == ATTEMPTS


class TestFollow:
    LOG = "old run\nRunning entrypoint for job tiny: STUDY_JOB=1 run\n"

    def follow(self, server, first):
        out, notes = [], []
        last = follow_job(server, first, write=out.append, note=notes.append, wait=server.wait)
        return last, "".join(out), notes

    def test_begins_at_its_own_output(self):
        """What earlier jobs of the name have printed is not shown."""
        done = job("succeeded", exit_code=0)

        def end(server, skip):
            become(done)(server)
            return (self.LOG + "a\nb\n")[skip:]

        server = FakeServer(job(), log=self.LOG, chunks=[end])
        assert self.follow(server, job()) == (done, "a\nb\n", [])
        assert log_start(self.LOG, "STUDY_JOB=2 run") == -1

    def test_line_that_breaks(self):
        """After a break the rest is shown, and nothing twice."""
        text = self.LOG + "a\nb\n"

        def end(server, skip):
            become(job("failed", exit_code=3))(server)
            return text[skip:]

        fault = EnvironmentFault("no Ray cluster answers", "x")
        server = FakeServer(job(), log=self.LOG, chunks=[lambda s, skip: text[skip:-2], fault, end])
        last, out, notes = self.follow(server, job())
        assert (out, exit_code_of(last)) == ("a\nb\n", 3)
        assert notes == ["no Ray cluster answers; trying again"]

    def test_proxy_without_websockets(self, monkeypatch):
        """The log that cannot be followed is asked for instead, to the job's end, however long that takes."""
        monkeypatch.setattr("study.cli.following.PATIENCE_S", 100.0)
        clock = iter(range(0, 10_000, 40))
        monkeypatch.setattr("study.cli.following.time.monotonic", lambda: float(next(clock)))
        faults = [EnvironmentFault("does not give the log: status 404", "x") for _ in range(20)]
        server = FakeServer(job(), log=self.LOG, chunks=faults)

        def wait(seconds):
            server.text += "line\n"
            if server.text.count("line") == 9:
                become(job("succeeded", exit_code=0))(server)

        out, notes = [], []
        last = follow_job(server, job(), write=out.append, note=notes.append, wait=wait)
        assert (last.state, "".join(out)) == ("succeeded", "line\n" * 9)
        assert notes == ["does not give the log: status 404; trying again"]

    def test_last_words(self):
        """What was printed between Ray's last look at the log and the job's end is shown: often it is the reason."""

        def end(server, skip):
            become(job("failed", exit_code=2))(server)
            server.text = self.LOG + "a\nerror: no study\n"
            return (self.LOG + "a\n")[skip:]

        server = FakeServer(job(), log=self.LOG, chunks=[end])
        assert self.follow(server, job())[1] == "a\nerror: no study\n"

    def test_ended_before_it_printed(self):
        """A job that never began shows nothing, and its follower ends."""
        failed = job("failed", cause="RUNTIME_ENV_SETUP_FAILURE", message="pip failed")
        server = FakeServer(failed, log="old run\n", chunks=[lambda s, skip: "old run\n"[skip:]])
        last, out, _ = self.follow(server, failed)
        assert (out, exit_code_of(last), end_of(last)) == ("", 1, "failed before it began")
        assert "--package" in advice(last)

    def test_another_took_its_place(self):
        """A job that was sent anew is not mistaken for the one that was followed."""
        server = FakeServer(job(entrypoint="STUDY_JOB=9 run"), log=self.LOG, chunks=[])
        with pytest.raises(StudyError, match="sent anew"):
            self.follow(server, job())

    @pytest.mark.parametrize(
        ("state", "code", "expected"),
        [("succeeded", 0, 0), ("stopped", None, 130), ("failed", 2, 2), ("failed", None, 1)],
    )
    def test_exit_code(self, state, code, expected):
        """The program ends as the job did."""
        assert exit_code_of(job(state, exit_code=code)) == expected


class TestWhatTravels:
    def test_package(self):
        """The package and the file travel; caches and hidden files do not."""
        luggage = pack("study: x\n")
        names = [name for name, _, _ in luggage.files]
        assert {"study/__main__.py", "study/report/page/templates/page.html.j2"} <= set(names)
        assert all(name.startswith("study/") for name in names)
        assert not [name for name in names if "__pycache__" in name or "/." in name]
        assert luggage.size < 5_000_000

    def test_copied_program_runs(self, tmp_path):
        """The copy is a program of its own, and not the one that made it."""
        pack("study: x\n").write(tmp_path)
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        for words in (["-c", "import study; print(study.__file__)"], ["-m", "study", "logs", "--help"]):
            command = [sys.executable, *words]
            done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
            assert ("--follow" if "-m" in words else str(tmp_path / "study" / "__init__.py")) in done.stdout
        assert (tmp_path / "study.yaml").read_text() == "study: x\n"

    def test_excludes_and_limit(self, tmp_path):
        """Patterns leave files here; too much is refused with the largest files."""
        for name, size in (("__main__.py", 1), ("data/scan.dcm", 21_000_000), (".git/objects", 5)):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(b"x" * size)
        with pytest.raises(InputError) as error:
            pack(package=tmp_path)
        assert "21.0 MB  study/data/scan.dcm" in error.value.message
        assert "--exclude" in error.value.fix
        for pattern in ("*.dcm", "data", "study/data/*"):
            assert [name for name, _, _ in pack(package=tmp_path, excludes=[pattern]).files] == ["study/__main__.py"]
        with pytest.raises(InputError, match="behind"):
            pack(package=tmp_path, excludes=["*"])

    @pytest.mark.parametrize(
        "name",
        [
            "STUDY_LEDGER_URL",
            "HF_TOKEN",
            "MLFLOW_TRACKING_PASSWORD",
            "AWS_ACCESS_KEY_ID",
            "my_secret",
            "PGPASSWORD",
            "API_KEY",
            "DB_PASS",
            "DB_PWD",
            "PROXY_AUTH",
        ],
    )
    def test_secrets_stay(self, name, monkeypatch):
        """A secret is refused by its name, its value is not shown, and the way round is named."""
        monkeypatch.setenv(name, "hunter2")
        with pytest.raises(InputError, match=name) as error:
            forwarded([name])
        assert "hunter2" not in str(error.value)
        assert "environment of the nodes" in error.value.fix

    def test_environment(self, monkeypatch):
        """Variables go by name with their value of here; what the program sets itself, or is not set, does not."""
        monkeypatch.setenv("SITE", "north")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:pw@mlflow:5000")
        assert forwarded(["SITE"]) == {"SITE": "north"}
        for name, words in (
            ("NOT_SET_HERE", "not set here"),
            ("SITE=x", "the name of a variable"),
            ("MLFLOW_TRACKING_URI", "user or a password"),
            ("RAY_ADDRESS", "sets it itself"),
        ):
            with pytest.raises(InputError, match=words) as error:
                forwarded([name])
            assert "pw" not in error.value.message.replace("password", "")

    def test_packages(self):
        """Packages are spelt as for pip; a password in an URL is refused and not shown."""
        assert check_packages(["timm==1.0.31", "a>=2", "a>=2"]) == ("a>=2", "timm==1.0.31")
        for spec in ("./local.whl", "a b", "ray==2.9", "Study", "x @ https://me:hunter2@host/x.whl"):
            with pytest.raises(InputError, match="--package") as error:
                check_packages([spec])
            assert "hunter2" not in str(error.value)

    def test_storage(self):
        """A relative folder means nothing in a job; stores and absolute paths do."""
        for good in ("/shared/studies", "s3://bucket/studies", "s3://bucket/x?region=a@b"):
            check_storage(good, is_default=False)
        for good in ("gs://anonymous@bucket/x", "abfs://box@account.dfs.core.windows.net/x"):
            check_storage(good, is_default=False)
        for told in ("/shared/studies/", "/shared//studies", "/shared/./studies"):
            assert check_storage(told, is_default=False) == "/shared/studies"
        assert check_storage("s3://bucket/x/?region=eu", is_default=False) == "s3://bucket/x?region=eu"
        for bad, words in (
            ("studies", "relative"),
            ("./x", "relative"),
            ("s3://key:hunter2@bucket/x", "credentials"),
            ("s3://bucket/x?region=eu&secret_key=hunter2", "credentials"),
            ("s3://", "no bucket"),
            ("file:///shared/x", "expected a folder"),
            ("nfs://host/x", "studies cannot lie in nfs://"),
            ("gcs://bucket/x", "studies cannot lie in gcs://"),
            ("S3://bucket/x", "neither a folder nor a store"),
            ("s3:/bucket/x", "neither a folder nor a store"),
        ):
            with pytest.raises(InputError, match=words) as error:
                check_storage(bad, is_default=bad == "studies")
            assert "hunter2" not in str(error.value)

    def test_study_file(self, tmp_path):
        """Paths of this machine are told all at once, and passwords by their place alone."""
        file = tmp_path / "a.yaml"
        sources = "[{kind: phantom, name: a, patients: 9}, {kind: mias, name: b, root: pictures}]"
        file.write_text(f"study: a\ndata: {{prepared: data/a, sources: {sources}}}\n")
        with pytest.raises(InputError) as error:
            check_file(load_config(file))
        assert error.value.message.splitlines()[1:] == ["  data.prepared: data/a", "  data.sources.1.root: pictures"]
        good = ["data.prepared=/shared/a", "data.sources.1.root=s3://bucket/pictures"]
        check_file(load_config(file, good))
        for secret in ("s3://key:hunter2@bucket/a", "abfs://box@account/a?client_secret=hunter2"):
            with pytest.raises(InputError, match=r"data\.prepared") as error:
                check_file(load_config(file, [*good, f"data.prepared={secret}"]))
            assert "hunter2" not in str(error.value)
        check_file(load_config(file, [*good, "data.sources.1.root=gs://anonymous@public/pictures"]))


class TestVerbs:
    """What the verbs say about jobs; the cluster is the fake one."""

    @pytest.fixture
    def call(self, monkeypatch, tmp_path):
        """Calls the program on a cluster in memory; the study's file names nothing of this machine."""
        file = tmp_path / "tiny.yaml"
        file.write_text("study: tiny\ndata: {prepared: /shared/a, sources: [{kind: phantom, name: a, patients: 9}]}\n")
        versions = Versions(ray=ray.__version__, python=python_version())

        def call(server, verb, *words):
            server.versions = versions
            monkeypatch.setattr("study.distributed.job_client.RayJobs", lambda address: server)
            what = str(file) if verb == "submit" else "tiny"
            return CliRunner().invoke(app, [verb, what, "--address", "http://head:8265", *words])

        return call

    def test_submit(self, call):
        """A new study is sent with its file's digest; a second time nothing is, and the answer is the same."""
        server = FakeServer()
        first = call(server, "submit", "--storage", "/shared", "--json")
        told = json.loads(first.stdout)
        assert (first.exit_code, told["how"], told["state"]) == (0, "started", "running")
        assert told["follow"].endswith("logs tiny --follow --address http://head:8265")
        assert server.sent[0].metadata.keys() == {"study", "storage", "file"}
        assert server.sent[0].environment == dict([STOP_WAIT])
        again = call(server, "submit", "--storage", "/shared", "--json")
        assert (again.exit_code, json.loads(again.stdout)["how"], len(server.sent)) == (0, "running", 1)
        assert "warning" not in again.stderr
        slash = call(server, "submit", "--storage", "/shared/", "--json")
        assert (slash.exit_code, json.loads(slash.stdout)["how"]) == (0, "running")
        other = call(server, "submit", "--storage", "/shared", "--set", "seed=2")
        assert (other.exit_code, len(server.sent)) == (0, 1)
        assert "runs with another study file" in other.stderr

    def test_submit_that_fails_at_once(self, call):
        """A job that Ray could not begin is an error with Ray's reason."""
        server = FakeServer()
        server.next = "failed"
        done = call(server, "submit", "--storage", "/shared")
        assert isinstance(done.exception, StudyError)
        assert "failed before it began: Ray gives no reason" in done.exception.message

    def test_what_stays_is_told(self, call, monkeypatch):
        """Addresses of servers that are set here and not sent are named, without their value."""
        monkeypatch.setenv("STUDY_LEDGER_URL", "postgresql://me:hunter2@db/x")
        done = call(FakeServer(), "submit", "--storage", "/shared")
        assert "STUDY_LEDGER_URL is set here and does not travel" in done.stderr
        assert "hunter2" not in done.stderr

    def test_stop(self, call):
        """A job that runs is asked and waited for; one that has ended is left alone; an unknown one is bad input."""
        server = FakeServer(job())
        done = call(server, "stop")
        assert (done.exit_code, server.job.state) == (0, "stopped")
        assert "submit tiny --address http://head:8265 --storage /shared" in done.stderr
        again = call(server, "stop")
        assert (again.exit_code, "(stopped); nothing to stop" in again.stderr) == (0, True)
        assert isinstance(call(FakeServer(), "stop").exception, InputError)
        foreign = call(FakeServer(job(metadata={})), "stop")
        assert isinstance(foreign.exception, InputError)
        spaced = call(FakeServer(job(metadata=OURS | {"storage": "/my studies"})), "stop")
        assert "--storage '/my studies'" in spaced.stderr

    def test_stop_over_a_connection_that_breaks(self, call, monkeypatch):
        """A proxy that answers for the cluster once is no reason to leave; a cluster that has gone is."""
        monkeypatch.setattr("study.cli.stopping.LOOK_EVERY_S", 0.0)

        def away(server):
            raise EnvironmentFault("no Ray cluster answers behind http://head:8265 (status 502)", "wait")

        server = FakeServer(job(), script=[lambda server: None, away, away])
        done = call(server, "stop")
        assert (done.exit_code, done.stderr.count("trying again")) == (0, 1)
        assert "stopped; go on with" in done.stderr
        monkeypatch.setattr("study.cli.stopping.PATIENCE_S", 0.0)
        gone = call(FakeServer(job(), script=[lambda server: None, *[away] * 99]), "stop")
        assert isinstance(gone.exception, EnvironmentFault)

    def test_stop_that_takes_long(self, call):
        """A job that still saves when the time is over is told of, with exit code 1."""
        server = FakeServer(job())
        server.stop = lambda name: True
        done = call(server, "stop", "--wait", "0.1")
        assert isinstance(done.exception, StudyError)
        assert "still runs after 0.1 s" in done.exception.message
        assert call(server, "stop", "--wait", "0").exit_code == 0

    def test_status_where_the_storage_is_out_of_sight(self, call):
        """The job's state and reason are told, and that the study cannot be seen from here."""
        failed = job("failed", exit_code=127, message="log\n/bin/sh: 1: python: not found", ended=5.0)
        done = call(FakeServer(failed), "status")
        assert done.exit_code == 0
        for words in ("failed with exit code 127, ended 1970", "python: not found", "fix: activate", "cannot be seen"):
            assert words in done.stderr
        record = json.loads(call(FakeServer(failed), "status", "--json").stdout)
        assert (record["state"], record["job"]["state"], record["job"]["exit_code"]) == (None, "failed", 127)
        assert isinstance(call(FakeServer(), "status").exception, InputError)

    def test_status_of_a_study_that_is_seen(self, call, directory):
        """The job is told beside the study, which is looked for where the job says that it lies."""
        (directory.parent / "tiny").mkdir()
        text = (directory / "study.yaml").read_text().replace("study: a\n", "study: tiny\n")
        (directory.parent / "tiny" / "study.yaml").write_text(text)
        here = FakeServer(job(metadata={**OURS, "storage": str(directory.parent)}, started=60.0))
        done = call(here, "status")
        assert "job tiny at http://head:8265: running since 1970-01-01T00:01:00" in done.stderr
        assert "tiny  new" in done.stderr
        record = json.loads(call(here, "status", "--json").stdout)
        assert (record["study"], record["state"], record["job"]["state"]) == ("tiny", "new", "running")
        none = json.loads(call(FakeServer(), "status", "--json", "--storage", str(directory.parent)).stdout)
        assert (none["state"], none["job"]) == ("new", None)

    def test_logs(self, call):
        """The lines of the present job alone are shown; followed, the program ends as the job did."""
        text = TestFollow.LOG + "a\nb\n"
        assert call(FakeServer(job(), log=text), "logs").stdout == "a\nb\n"
        assert call(FakeServer(job(), log=text), "logs", "-n", "1").stdout == "b\n"

        def end(server, skip):
            become(job("failed", exit_code=2))(server)
            return (text + "c\n")[skip:]

        done = call(FakeServer(job(), log=text, chunks=[end]), "logs", "-n", "1", "-f")
        assert (done.stdout, done.exit_code) == ("b\nc\n", 2)
        assert isinstance(call(FakeServer(), "logs").exception, InputError)


DRIVER = """
import signal, sys, threading
from pathlib import Path
from study.ledger import lock_study
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
with lock_study(Path(sys.argv[1]), beat_s=0.05) as held:
    held.listen(stop.set)
    print("held", flush=True)
    stop.wait(30)
    print("asked" if held.is_asked_to_stop else "signalled", flush=True)
"""


@pytest.fixture
def directory(tmp_path):
    """The directory of a study that has not begun."""
    file = tmp_path / "a.yaml"
    file.write_text("study: a\ndata: {prepared: /shared/a, sources: [{kind: phantom, name: a, patients: 9}]}\n")
    made = tmp_path / "studies" / "a"
    made.mkdir(parents=True)
    store_config(made, load_config(file))
    return made


class TestStop:
    @pytest.fixture
    def running(self, directory):
        """A study in a storage, and a process that holds it until it is asked to stop."""
        process = subprocess.Popen([sys.executable, "-c", DRIVER, str(directory)], stdout=subprocess.PIPE, text=True)
        with process:
            assert process.stdout.readline() == "held\n"
            yield directory, process
            process.kill()

    @pytest.mark.parametrize("is_here", [True, False])
    def test_driver(self, running, is_here, monkeypatch):
        """A driver of this machine gets a signal, one elsewhere finds a request; the verb waits for its end."""
        directory, process = running
        if not is_here:
            monkeypatch.setattr("study.ledger.is_here", lambda holder: False)
        done = CliRunner().invoke(app, ["stop", "a", "--storage", str(directory.parent), "--wait", "20"])
        assert done.exit_code == 0, done.stderr
        assert f"asked process {process.pid}" in done.stderr
        assert "go on with: " in done.stderr
        assert process.stdout.readline() == ("signalled\n" if is_here else "asked\n")
        again = CliRunner().invoke(app, ["stop", "a", "--storage", str(directory.parent)])
        assert (again.exit_code, "not running" in again.stderr) == (0, True)
        assert not (directory / ".stop").exists()

    def test_does_not_end(self, directory, monkeypatch):
        """A driver that goes on is told of, with exit code 1; without waiting the verb comes back at once."""
        monkeypatch.setattr("study.cli.stopping.os.kill", lambda *_: None)
        words = ["stop", "a", "--storage", str(directory.parent), "--wait"]
        with lock_study(directory):
            done = CliRunner().invoke(app, [*words, "0.1"])
            assert isinstance(done.exception, StudyError)
            assert "still runs after 0.1 s" in done.exception.message
            assert CliRunner().invoke(app, [*words, "0"]).exit_code == 0

    def test_request_is_for_one_driver(self, tmp_path):
        """A request for a driver that has ended does not stop the next one."""
        with lock_study(tmp_path / "a") as held:
            ask_to_stop(tmp_path / "a", held.holder)
            look_for_request(tmp_path / "a", held)
            assert held.is_asked_to_stop
            told = []
            held.listen(lambda: told.append(1))
            assert told == [1]
            before = held.holder
        ask_to_stop(tmp_path / "a", before)
        with lock_study(tmp_path / "a") as held:
            look_for_request(tmp_path / "a", held)
            assert not held.is_asked_to_stop

    def test_unknown(self, tmp_path):
        """A study that is not there is bad input."""
        assert isinstance(CliRunner().invoke(app, ["stop", "zebra", "--storage", str(tmp_path)]).exception, InputError)


class TestLogs:
    def test_follow_ends_with_the_driver(self, directory):
        """Following shows what comes, and ends when nobody drives the study any more."""
        (directory / "study.log").write_text("one\ntwo\n")
        storage = str(directory.parent)
        with lock_study(directory):
            command = [sys.executable, "-m", "study", "logs", "a", "-f", "-n", "1", "--storage", storage]
            reader = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            assert reader.stdout.readline() == "two\n"
            with (directory / "study.log").open("a") as log:
                log.write("three\n")
        out, err = reader.communicate(timeout=30)
        assert (out, reader.returncode) == ("three\n", 0)
        assert "nobody drives study a now" in err


class TestAddress:
    def test_order(self, monkeypatch):
        """The option wins, then Ray's variables in Ray's order."""
        monkeypatch.setenv("RAY_ADDRESS", "http://c:8265")
        assert cluster_address(None) == "http://c:8265"
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "https://b/ray/")
        assert cluster_address(None) == "https://b/ray"
        assert cluster_address("http://a:8265/") == "http://a:8265"
        assert cluster_address("HTTP://[::1]:8265") == "http://[::1]:8265"

    @pytest.mark.parametrize("verb", ["status", "stop", "logs"])
    def test_names_stay_in_their_place(self, verb):
        """A name is part of an URL, so one that no study can have is refused before anybody is asked."""
        for name in ("../x", "a/b", "..", "a?b", ""):
            asked = CliRunner().invoke(app, [verb, "--address", "http://127.0.0.1:9", "--", name])
            assert isinstance(asked.exception, InputError), name
            assert "no study can be called" in asked.exception.message

    @pytest.mark.parametrize(
        ("address", "words", "fix"),
        [
            ("ray://head:10001", "Ray Client", "--address http://head:8265"),
            ("10.0.0.1:6379", "by which nodes join", "--address http://10.0.0.1:8265"),
            ("head:8265", "without http", "--address http://head:8265"),
            ("head", "without http", "--address http://head:8265"),
            ("auto", "expected an URL", "--address"),
            ("ftp://head", "expected an URL of http", "--address"),
            ("http://", "expected http://HOST:PORT", "--address"),
            ("http://head:port", "expected http://HOST:PORT", "--address"),
            ("http://me:hunter2@head:8265", "user or a password", "RAY_AUTH_TOKEN_PATH"),
            ("http://me:hunter2/x@head:8265", "user or a password", "RAY_AUTH_TOKEN_PATH"),
            ("ray://me:hunter2@head:10001", "user or a password", "RAY_AUTH_TOKEN_PATH"),
            ("me:hunter2@head:8265", "user or a password", "RAY_AUTH_TOKEN_PATH"),
            ("http://[::1", "expected http://HOST:PORT", "--address"),
            ("ray://[::1", "expected http://HOST:PORT", "--address"),
            ("http://he ad:8265", "expected http://HOST:PORT", "--address"),
            ("http://head\n:8265", "expected http://HOST:PORT", "--address"),
            ("::1", "without http", "--address http://[::1]:8265"),
            ("[::1]:8265", "without http", "--address http://[::1]:8265"),
            ("http:/head:8265", "without http", "--address http://head:8265"),
            ("http:head:8265", "without http", "--address http://head:8265"),
            ("//head:8265", "without http", "--address http://head:8265"),
        ],
    )
    def test_refused(self, address, words, fix):
        """Addresses of Ray's other services are named for what they are, with the right one."""
        with pytest.raises(InputError, match=words) as error:
            cluster_address(address)
        assert fix in error.value.fix
        assert "hunter2" not in str(error.value)

    def test_none(self, monkeypatch):
        """Without any address nothing is guessed."""
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(InputError, match="no cluster is named"):
            cluster_address(None)


class TestDryRun:
    def test_plan(self, tmp_path):
        """A dry run asks nobody and shows the command, the weight and the names of variables."""
        file = tmp_path / "a.yaml"
        file.write_text("study: a\ndata: {prepared: /shared/a, sources: [{kind: phantom, name: a, patients: 9}]}\n")
        done = CliRunner().invoke(app, ["submit", str(file), "--dry-run", "--storage", "/shared/my studies"])
        assert (done.exit_code, done.stdout) == (0, "")
        assert "python -m study run study.yaml --storage '/shared/my studies'" in done.stderr
        assert STOP_WAIT[0] in done.stderr
        named = CliRunner().invoke(app, ["submit", "a", "--dry-run", "--storage", "/s", "--set", "search.trials=9"])
        assert "python -m study resume a --storage /s --set search.trials=9" in named.stderr
        secret = ["submit", "a", "--dry-run", "--storage", "/s", "--set", "data.prepared=s3://key:hunter2@bucket/x"]
        for change in ("search.trials", "=9", ""):
            none = CliRunner().invoke(app, ["submit", "a", "--dry-run", "--storage", "/s", "--set", change])
            assert "expected PATH=VALUE" in str(none.exception)
        refused = CliRunner().invoke(app, secret).exception
        assert isinstance(refused, InputError)
        assert "hunter2" not in str(refused)

    def test_faults_of_the_file(self, tmp_path):
        """A broken file is told before anybody is asked."""
        file = tmp_path / "a.yaml"
        file.write_text("study: a\ndata: {prepared: /shared/a}\n")
        done = CliRunner().invoke(app, ["submit", str(file), "--address", "http://127.0.0.1:9", "--storage", "/s"])
        assert isinstance(done.exception, InputError)
        assert "data.sources" in done.exception.message
        for what in ("x" * 300, "/dev/zero"):
            odd = CliRunner().invoke(app, ["submit", what, "--dry-run", "--storage", "/s"])
            assert isinstance(odd.exception, InputError), what
        missing = CliRunner().invoke(app, ["submit", "no.yaml", "--address", "http://127.0.0.1:9", "--storage", "/s"])
        assert isinstance(missing.exception, InputError)
