"""What a cluster's dashboard may answer, and what we make of it; a small server stands for the dashboard."""

import json
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from platform import python_version

import pytest
import ray

from study.distributed.credentials import AUTHORITIES, open_token
from study.distributed.job_client import RayJobs, Versions, check_versions
from study.errors import EnvironmentFault
from tests.tls import server_context, signed_by_itself

PYTHON = python_version()
TOKEN = "secret-of-the-cluster"


@contextmanager
def dashboard(answers, *, token="", context=None):
    """A server with an answer (text or data) for each path; 404 elsewhere, 401 and 403 as Ray gives them."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            given = self.headers.get("Authorization", "")
            status, answer = 404, "not found"
            if token and not given:
                status, answer = 401, "Unauthorized: Missing authentication token"
            elif token and given != f"Bearer {token}":
                status, answer = 403, "Forbidden: Invalid authentication token"
            elif self.path in answers:
                status, answer = 200, answers[self.path]
            if isinstance(answer, tuple):
                status, answer = answer
            body = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
            self.send_response(status)
            if status == 301:
                self.send_header("Location", answer)
            # A body that ends before its time belongs to a connection that broke.
            self.send_header("Content-Length", str(len(body) + 9 * (answer == "cut short")))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            """Nothing goes to the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"{'https' if context else 'http'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answers(ray_version=ray.__version__, python=PYTHON):
    return {
        "/api/version": {"version": "4", "ray_version": ray_version, "ray_commit": "x", "session_name": "s"},
        "/api/v0/cluster_metadata": {"result": True, "msg": "", "data": {"pythonVersion": python}},
    }


@pytest.fixture(autouse=True)
def _no_token(monkeypatch, tmp_path):
    rays = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "RAY_ADDRESS", "RAY_JOB_HEADERS")
    for name in (*rays, *AUTHORITIES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_what_fits(monkeypatch):
    """The same Ray and Python fit; RAY_ADDRESS does not lead elsewhere."""
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    with dashboard(answers()) as address:
        jobs = RayJobs(address)
        check_versions(jobs.versions, address=address)
        assert jobs.find("nothing") is None


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (answers("2.40.0"), "runs Ray 2.40.0 with Python"),
        (answers(python="3.9.18"), "with Python 3.9.18; expected Ray"),
        ({"/api/version": answers("2.9.3")["/api/version"]}, "runs Ray 2.9.3 with an unknown Python"),
    ],
)
def test_other_versions(found, words):
    """Another Ray or Python is refused, and both are named; the patch of Python may differ."""
    with dashboard(found) as address, pytest.raises(EnvironmentFault, match=words) as error:
        check_versions(RayJobs(address).versions, address=address)
    assert f"expected Ray {ray.__version__} with Python" in error.value.message
    check_versions(Versions(ray=ray.__version__, python=python_version().rpartition(".")[0] + ".99"), address="x")
    check_versions(Versions(ray=ray.__version__, python=""), address="x")


def test_tokens(monkeypatch, tmp_path):
    """A token comes from the variable, the named file or the home; a missing and a wrong one are told apart."""
    with dashboard(answers(), token=TOKEN) as address:
        with pytest.raises(EnvironmentFault, match="asks for a token and got none") as error:
            RayJobs(address)
        assert "RAY_AUTH_TOKEN_PATH" in error.value.fix
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text(f"{TOKEN}\n")
        RayJobs(address)
        (tmp_path / ".ray" / "auth_token").chmod(0o644)
        assert open_token() == str(tmp_path / ".ray" / "auth_token")
        (tmp_path / ".ray" / "auth_token").chmod(0o640)
        assert open_token() == ""
        (tmp_path / "token").write_text("another")
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
        with pytest.raises(EnvironmentFault, match="refuses the token") as error:
            RayJobs(address)
        assert "another" not in str(error.value)
        monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
        RayJobs(address)
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(EnvironmentFault, match="which is not there"):
        RayJobs("http://127.0.0.1:9")


def test_nobody_there():
    """Where nothing listens, or something else does, it is said so."""
    with pytest.raises(EnvironmentFault, match=r"no Ray cluster answers at http://127\.0\.0\.1:9") as error:
        RayJobs("http://127.0.0.1:9")
    assert error.value.exit_code == 3
    not_ray = pytest.raises(EnvironmentFault, match="not the dashboard of a Ray cluster")
    with dashboard({"/api/version": "<html>hello</html>"}) as address, not_ray:
        RayJobs(address)


JOB = {"type": "SUBMISSION", "submission_id": "a", "entrypoint": "x", "status": "RUNNING"}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("<html>log in</html>", r"not the dashboard of a Ray cluster \(status 200\)"),
        ('{"type": "SUBM', "not the dashboard"),
        ([1], "not the dashboard"),
        ("null", "not the dashboard"),
        ((301, "/api/jobs/a"), "TooManyRedirects"),
        ("cut short", "no Ray cluster answers at .*: ChunkedEncodingError"),
        ((502, "<html>\n</html>"), r"no Ray cluster answers behind .* \(status 502\)"),
        ((503, ""), "status 503"),
        ((504, "late"), "status 504"),
        (JOB | {"status": "DRAINING"}, "tells of a job in an unknown way: status"),
        ({"status": "RUNNING"}, "in an unknown way: entrypoint, type"),
        (JOB | {"metadata": [1]}, "in an unknown way: metadata"),
    ],
)
def test_odd_answers(answer, words):
    """Whatever stands before a cluster answers instead of it is an error of ours, which `follow` survives."""
    with dashboard({**answers(), "/api/jobs/a": answer}) as address:
        jobs = RayJobs(address)
        with pytest.raises(EnvironmentFault, match=words):
            jobs.find("a")
    with dashboard({**answers(), "/api/jobs/a": JOB}) as address:
        assert RayJobs(address).find("a").state == "running"


def test_odd_times():
    """A clock that is wrong, or tells other units, is no reason to fail: what is told is a date."""
    odd = JOB | {"start_time": 10**18, "end_time": -5}
    with dashboard({**answers(), "/api/jobs/a": odd}) as address:
        job = RayJobs(address).find("a")
    assert datetime.fromtimestamp(job.started, UTC).year == 9999
    assert job.ended == 0


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((502, "x"), "behind"),
        ({"ray_version": None, "version": "4"}, "not the dashboard"),
        ([1], "not the dashboard"),
        ((301, "/api/version"), "TooManyRedirects"),
        ("cut short", "ChunkedEncodingError"),
    ],
)
def test_odd_versions(answer, words):
    """So are odd answers to the first question."""
    with dashboard({"/api/version": answer}) as address, pytest.raises(EnvironmentFault, match=words):
        RayJobs(address)


def test_what_no_header_can_carry(monkeypatch, tmp_path):
    """A token or a header of several lines is told before it is sent, without its content."""
    for token in ("hunter2\nx", "hunter2 x", "hunter2\u20ac"):
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
        with pytest.raises(EnvironmentFault, match="RAY_AUTH_TOKEN holds something else than") as error:
            RayJobs("http://127.0.0.1:9")
        assert "hunter2" not in str(error.value)
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    for content, words in (("\n", "which is empty"), ("a\nb\n", "holds something else")):
        (tmp_path / "token").write_text(content)
        with pytest.raises(EnvironmentFault, match=words):
            RayJobs("http://127.0.0.1:9")
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    monkeypatch.setenv("RAY_JOB_HEADERS", json.dumps({"X": "a\nb"}))
    with pytest.raises(EnvironmentFault, match="a header that cannot be sent"):
        RayJobs("http://127.0.0.1:9")


def test_certificates(monkeypatch, tmp_path):
    """One that signed itself is refused with what to set; either variable makes it trusted, for the log as well."""
    certificate, key = signed_by_itself(tmp_path)
    with dashboard(answers(), context=server_context(certificate, key)) as address:
        with pytest.raises(EnvironmentFault, match=r"is not trusted here: self-signed certificate\n") as found:
            RayJobs(address)
        assert "REQUESTS_CA_BUNDLE or SSL_CERT_FILE" in found.value.fix
        for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
            with monkeypatch.context() as patch:
                patch.setenv(name, str(certificate))
                server = RayJobs(address)
                assert server.versions.ray == ray.__version__
                assert server._client._ssl_context.get_ca_certs()[0]["subject"] == ((("commonName", "study"),),)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
        with pytest.raises(EnvironmentFault, match=r"SSL_CERT_FILE names .*none, which is not there"):
            RayJobs(address)


def test_https_where_there_is_none():
    """The certificate of a server that has none is not what is wrong."""
    with dashboard(answers()) as address, pytest.raises(EnvironmentFault, match="does not speak TLS") as found:
        RayJobs(address.replace("http:", "https:"))
    assert found.value.fix == f"name it as {address}"


def test_headers(monkeypatch):
    """Headers for what stands before a cluster are those of Ray's own commands."""
    monkeypatch.setenv("RAY_JOB_HEADERS", json.dumps({"Authorization": f"Bearer {TOKEN}"}))
    with dashboard(answers(), token=TOKEN) as address:
        RayJobs(address)
    monkeypatch.setenv("RAY_JOB_HEADERS", "x: y")
    with pytest.raises(EnvironmentFault, match="RAY_JOB_HEADERS is not a JSON object"):
        RayJobs("http://127.0.0.1:9")
