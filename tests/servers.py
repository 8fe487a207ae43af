"""Servers that tests start as processes of their own."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.processes import descendants, title

PASSWORD = "geheim-7-Zaunkoenig"


def free_port():
    """A port that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class PostgresServer:
    """A PostgreSQL server in a temporary directory, with a user ``me`` and a password.

    It refuses to run as root, so it runs as nobody then. Tests that need it are skipped where it is not installed.
    """

    def __init__(self):
        missing = [name for name in ("initdb", "postgres") if not shutil.which(name)]
        if missing:
            pytest.skip(f"no PostgreSQL server on this machine: {' and '.join(missing)} not found")
        self.programs = Path(shutil.which("postgres")).resolve().parent
        self.home = Path(tempfile.mkdtemp(prefix="ledger-pg-"))
        self.port = free_port()
        self.url = f"postgresql://me:{PASSWORD}@127.0.0.1:{self.port}/postgres"
        self.process = None
        self._as_user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.geteuid() == 0 else []
        (self.home / "password").write_text(PASSWORD)
        if self._as_user:
            for path in (self.home, self.home / "password"):
                shutil.chown(path, "nobody", "nogroup")
        words = ["-D", self.home / "data", "-U", "me", "-N", "-A", "scram-sha-256", "--pwfile", self.home / "password"]
        self._run(self.programs / "initdb", *words)

    def start(self):
        """Start it, and wait until it answers."""
        words = ["-D", self.home / "data", "-p", str(self.port), "-k", self.home, "-h", "127.0.0.1", "-F"]
        log = (self.home / "log").open("ab")
        self.process = subprocess.Popen(
            [*self._as_user, self.programs / "postgres", *words], cwd=self.home, stdout=log, stderr=log
        )
        for _ in range(600):
            if self.answers():
                return
            assert self.process.poll() is None, (self.home / "log").read_text()
            time.sleep(0.05)
        raise AssertionError("the PostgreSQL server does not start")

    def answers(self):
        """Whether a client can log in."""
        import pg8000.native

        try:
            pg8000.native.Connection(
                "me", host="127.0.0.1", port=self.port, password=PASSWORD, database="postgres", timeout=5
            ).close()
        except (pg8000.native.InterfaceError, pg8000.native.DatabaseError, OSError):
            return False
        return True

    def stop(self, sig=signal.SIGINT):
        """A "fast" shutdown by default; SIGTERM would wait for the clients. SIGKILL is a crash.

        After a crash the server's own processes notice that it is gone and leave; until then no other server may start.
        """
        if self.process is None:
            return
        own = descendants(self.process.pid)
        self.process.send_signal(sig)
        self.process.wait()
        self.process = None
        deadline = time.monotonic() + 60
        while any("postgres" in title(pid) for pid in own):
            assert time.monotonic() < deadline, "processes of the PostgreSQL server do not end"
            time.sleep(0.02)

    def remove(self):
        """Stop it, and delete what it has written."""
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    def _run(self, *words):
        options = {"cwd": self.home, "capture_output": True, "text": True}
        done = subprocess.run([*self._as_user, *words], check=False, **options)
        assert done.returncode == 0, done.stderr


class MlflowServer:
    """An MLflow server over a database and a folder of its own, which it makes when they are missing."""

    def __init__(self, home):
        self.home, self.port, self.process = home, free_port(), None
        self.home.mkdir(parents=True, exist_ok=True)
        self.uri = f"http://127.0.0.1:{self.port}"

    @property
    def database(self):
        """The file that holds all but the artifacts."""
        return self.home / "mlflow.db"

    def start(self):
        """Start it; `wait` tells when it answers."""
        words = ["--backend-store-uri", f"sqlite:///{self.database}", "--artifacts-destination", self.home / "files"]
        words += ["--port", str(self.port), "--workers", "1"]
        with (self.home / "log").open("ab") as log:
            command = [sys.executable, "-m", "mlflow", "server", *words]
            self.process = subprocess.Popen(command, start_new_session=True, stdout=log, stderr=log, cwd=self.home)

    def wait(self, seconds=120):
        """Wait until it answers."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
            except OSError:
                assert time.monotonic() < deadline, (self.home / "log").read_text()[-2000:]
                time.sleep(0.1)

    def kill(self):
        """SIGKILL to all of its processes; nothing when it does not run."""
        if self.process is None:
            return
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None


class GcsServer:
    """A pretended Google Cloud Storage (`tests/gcs.py`), and a key file of a service account that nobody else knows."""

    def __init__(self, home):
        self.port, self.key, self.process = free_port(), home / "service-account.json", None
        self.endpoint = f"127.0.0.1:{self.port}"
        private = rsa.generate_private_key(65537, 2048).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        content = {"type": "service_account", "private_key_id": "1", "private_key": private.decode()}
        # Google's library signs its tokens itself; it need not ask for them.
        content |= {"client_email": "me@pretended.iam.gserviceaccount.com", "token_uri": "http://127.0.0.1:9/"}
        self.key.write_text(json.dumps(content))

    def start(self):
        """Start it, and wait until it answers."""
        self.process = subprocess.Popen([sys.executable, Path(__file__).with_name("gcs.py"), str(self.port)])
        for _ in range(600):
            with contextlib.suppress(OSError):
                return self.pretend()
            assert self.process.poll() is None
            time.sleep(0.05)
        raise AssertionError("the pretended store does not start")

    def pretend(self, **wanted):
        """Order something of the server (attributes of `tests.gcs.Store`; ``make``: buckets); what was asked so far."""
        request = urllib.request.Request(f"http://{self.endpoint}/pretend", json.dumps(wanted).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return [tuple(asked) for asked in json.load(answer)]

    def uri(self, bucket, path=""):
        """URI of a place."""
        return f"gs://{bucket}/{path}?scheme=http&endpoint_override={self.endpoint}"

    def stop(self):
        """End it."""
        self.process.terminate()
        self.process.wait()
