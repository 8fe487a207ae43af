"""Checks of what a study talks to: the libraries in a fresh process, Ray, the ledger, MLflow."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from study.doctor.finding import Finding
from study.errors import StudyError
from study.remote import is_copy, probe, shown_place

TIMEOUT_S: Final = 3.0
IMPORT_TIMEOUT_S: Final = 60.0

# Each runs in a process of its own, as a worker would, and prints what it found as JSON.
_PROBES: Final = {
    "PyTorch": (
        "import json, torch; from study.models.torchvision_ops import declare_missing_operators as d; d(); import timm;"
        "n = torch.cuda.device_count();"
        "print(json.dumps({'torch': torch.__version__, 'timm': timm.__version__,"
        "'gpus': [torch.cuda.get_device_name(i) for i in range(n)]}))"
    ),
    "Ray": "import json, ray, ray.tune, ray.train; print(json.dumps({'ray': ray.__version__}))",
    "MLflow": "import json, mlflow; print(json.dumps({'mlflow': mlflow.__version__}))",
}


def check_libraries() -> list[Finding]:
    """PyTorch with timm, Ray and MLflow import, each in a fresh process; GPUs that PyTorch sees are listed."""
    with ThreadPoolExecutor(max_workers=len(_PROBES)) as pool:
        found = dict(zip(_PROBES, pool.map(_probe, _PROBES.values()), strict=True))
    findings = [_library_finding(area, answer) for area, answer in found.items()]
    network = found["PyTorch"]
    if isinstance(network, Mapping):
        findings.insert(1, _gpu_finding(network["gpus"]))
    return findings


def check_ray_address(address: str | None) -> Finding | None:
    """The cluster that ``RAY_ADDRESS`` names takes a connection; ``None`` when it is not set."""
    if not address or address in ("auto", "local"):
        return None
    return _reachable("Ray", address, fallback_port=10001, fix="check RAY_ADDRESS, or unset it to start Ray here")


def check_ledger(url: str | None, storage: Path) -> Finding:
    """SQLite files can be made and locked under ``storage``; a server that ``STUDY_LEDGER_URL`` names answers."""
    if url and not url.startswith("sqlite"):
        return _reachable("ledger", url, fallback_port=5432, fix="check STUDY_LEDGER_URL and that the server runs")
    if is_copy(storage):
        text = "a study in a store needs its ledger on a server"
        return Finding(area="ledger", state="missing", text=text, fix="export STUDY_LEDGER_URL=postgresql://...")
    folder = next((each for each in (storage.resolve(), *storage.resolve().parents) if each.is_dir()), Path("/"))
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".doctor-") as scratch:
            connection = sqlite3.connect(Path(scratch) / "ledger.db")
            with connection:
                connection.execute("CREATE TABLE t (x INTEGER)")
            connection.close()
    except (OSError, sqlite3.Error) as error:
        reason = f"SQLite cannot write in {folder} ({type(error).__name__})"
        return Finding(area="ledger", state="missing", text=reason, fix="choose another folder with --storage")
    return Finding(area="ledger", state="ok", text=f"SQLite writes in {folder}")


def check_store(storage: Path) -> Finding | None:
    """The store of which ``storage`` is a copy answers, and can be written; ``None`` for a folder."""
    if not is_copy(storage):
        return None
    place = shown_place(storage)
    try:
        probe(storage)
    except StudyError as error:
        return Finding(area="storage", state="missing", text=error.message, fix=error.fix)
    return Finding(area="storage", state="ok", text=f"{place} can be read and written")


def check_mlflow_uri(uri: str | None) -> Finding | None:
    """The server that ``MLFLOW_TRACKING_URI`` names answers; ``None`` when it is not set."""
    if not uri or uri.startswith("sqlite"):
        return None
    if not uri.startswith(("http://", "https://")):
        return Finding(
            area="MLflow",
            state="warning",
            text="MLFLOW_TRACKING_URI is neither http(s):// nor sqlite:///, and MLflow refuses folders",
            fix="unset it, or write sqlite:/// and an absolute path",
        )
    scheme, _, rest = uri.rstrip("/").partition("://")
    # Whether it is well needs no user, and urllib takes one for a part of the host's name.
    health = f"{scheme}://{rest.rpartition('@')[2]}/health"
    try:
        with urllib.request.urlopen(health, timeout=TIMEOUT_S):  # noqa: S310 - http(s) only
            return Finding(area="MLflow", state="ok", text=f"{_place(uri)} answers")
    except urllib.error.HTTPError as error:
        text = f"{_place(uri)} answers with status {error.code}"
        return Finding(area="MLflow", state="warning", text=text, fix="check MLFLOW_TRACKING_URI and its credentials")
    except (OSError, HTTPException, ValueError):  # nobody there, no HTTP, no URL
        return Finding(
            area="MLflow",
            state="warning",
            text=f"{_place(uri)} does not answer; records wait in the study's journal",
            fix="check MLFLOW_TRACKING_URI and that the server runs",
        )


def _probe(code: str) -> Mapping[str, object] | str:
    """What the code printed, or why it failed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=IMPORT_TIMEOUT_S, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no answer after {IMPORT_TIMEOUT_S:.0f} s"
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no message"])[-1]
    answer: Mapping[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def _library_finding(area: str, answer: Mapping[str, object] | str) -> Finding:
    if isinstance(answer, str):
        return Finding(area=area, state="missing", text=f"does not import: {answer}", fix="make setup")
    return Finding(area=area, state="ok", text=", ".join(f"{k} {v}" for k, v in answer.items() if k != "gpus"))


def _gpu_finding(gpus: object) -> Finding:
    names = [str(gpu) for gpu in gpus] if isinstance(gpus, list) else []
    text = ", ".join(f"{names.count(name)} x {name}" for name in sorted(set(names)))
    return Finding(area="GPU", state="ok", text=text or "none; studies run on the CPU")


def _reachable(area: str, address: str, *, fallback_port: int, fix: str) -> Finding:
    try:
        parts = urlsplit(address if "://" in address else f"tcp://{address}")
        host, port = parts.hostname or "localhost", parts.port or fallback_port
        socket.create_connection((host, port), timeout=TIMEOUT_S).close()
    except (OSError, ValueError):
        return Finding(area=area, state="missing", text=f"{_place(address)} does not answer", fix=fix)
    return Finding(area=area, state="ok", text=f"{_place(address)} answers")


def _place(address: str) -> str:
    """Host and port of an address, without the credentials in it."""
    rest = (address.partition("://")[2] if "://" in address else address).partition("?")[0]
    return rest.rpartition("@")[2].partition("/")[0] or "localhost"
