"""Who may speak to the cluster that a study starts: nobody without its token."""

import os
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray

JOIN = """
import ray
try:
    ray.init(address={address!r}, log_to_driver=False)
except BaseException as error:
    print("refused", type(error).__name__)
else:
    print("joined")
"""


@pytest.fixture
def node(cluster):
    """What Ray says of the one node, and how to reach it."""
    import ray

    (found,) = (node for node in ray.nodes() if node["Alive"])
    return found | {"gcs": ray.get_runtime_context().gcs_address}


def own_token():
    return os.environ.get("RAY_AUTH_TOKEN") or (Path.home() / ".ray" / "auth_token").read_text()


def status(place, *, method="GET", token=None):
    """The status that an address answers with."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"http://{place}", method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.skipif("RAY_AUTH_TOKEN" in os.environ, reason="another token is named")
def test_the_token_is_the_owners_alone(node):
    """Others on the machine can read the token, and with it run code as its owner."""
    assert stat.S_IMODE((Path.home() / ".ray" / "auth_token").stat().st_mode) == 0o600
    assert os.environ["RAY_AUTH_MODE"] == "token"


@pytest.mark.parametrize(
    ("port", "path", "method"),
    [
        ("DashboardAgentListenPort", "/api/job_agent/jobs/", "POST"),
        ("DashboardAgentListenPort", "/api/version", "GET"),
        ("RuntimeEnvAgentPort", "/get_or_create_runtime_env", "POST"),
    ],
)
def test_requests_without_the_token_are_refused(node, port, path, method):
    """An address that runs code answers whoever asks."""
    place = f"{node['NodeManagerAddress']}:{node[port]}{path}"
    assert status(place, method=method) == 401
    assert status(place, method=method, token="0" * 64) in (401, 403)
    assert status(place, method=method, token=own_token()) not in (401, 403)


@pytest.mark.long
@pytest.mark.parametrize("surroundings", [{"RAY_AUTH_TOKEN": "0" * 64}, {"RAY_AUTH_MODE": "disabled"}])
def test_drivers_without_the_token_are_refused(node, surroundings):
    """A driver with another token, or without any, joins the cluster."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    words = [sys.executable, "-c", JOIN.format(address=node["gcs"])]
    environ = known | {"RAY_gcs_rpc_server_reconnect_timeout_s": "5"} | surroundings
    done = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert "joined" not in done.stdout
