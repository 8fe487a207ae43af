"""Fixtures that several test folders share."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import settings

from study.data.shards import DATASET_FILE, FORMAT, MANIFEST_FILE, SHARD_FOLDER, open_dataset
from study.data.shards_file import Content, write_shard
from tests.servers import GcsServer

# A build machine tries the same examples every time; a developer's machine keeps looking for new ones.
settings.register_profile("build", derandomize=True, deadline=None)
settings.register_profile("developer", deadline=None)
settings.load_profile("build" if os.environ.get("CI") else "developer")

CLASSES = ("normal", "benign", "malignant")


def write_dataset(root: Path, *, images: int = 96, size: int = 32, seed: int = 0) -> Path:
    """A prepared dataset whose classes differ in the brightness of a square; two sources, three splits."""
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % 3
    pixels = rng.integers(0, 90, (images, size, size), dtype=np.uint8)
    for i, label in enumerate(labels):
        pixels[i, 8:20, 8:20] += np.uint8(50 * label + 20)
    (root / SHARD_FOLDER).mkdir(parents=True)
    half = images // 2
    records = {}
    for name, part in (("a.arrow", pixels[:half]), ("b.arrow", pixels[half:])):
        record = write_shard(root / SHARD_FOLDER / name, [Content(pixels=image) for image in part])
        records[name] = [record.rows, record.size_bytes, record.crc32]
    sources = np.where(np.arange(images) % 2 == 0, "site_a", "site_b")
    manifest = pd.DataFrame(
        {
            "image_id": [f"{i:016x}" for i in range(images)],
            "patient_id": [f"{i // 2:016x}" for i in range(images)],
            "source": sources,
            "segment": sources,
            "label": pd.array(labels, dtype="Int64"),
            "split": np.array(["train", "train", "val", "test"])[np.arange(images) // 4 % 4],
            "shard": np.where(np.arange(images) < half, "a.arrow", "b.arrow"),
            "shard_row": np.arange(images) % half,
        }
    )
    manifest.to_parquet(root / MANIFEST_FILE)
    kind = {"image_hw": [size, size], "channels": 1, "bits": 8, "encoding": "raw"}
    about = {"format": FORMAT, "classes": CLASSES, "fingerprint": f"tiny-{images}-{size}-{seed}"} | kind
    (root / DATASET_FILE).write_text(json.dumps(about | {"shards": records, "settings": {}, "counts": {}}))
    return root


@pytest.fixture
def tiny_dataset(tmp_path):
    """An open prepared dataset of 96 images of 32 pixels."""
    return open_dataset(write_dataset(tmp_path / "tiny"))


@pytest.fixture(scope="session")
def make_dataset():
    """The function that writes a tiny prepared dataset into a folder."""
    return write_dataset


@pytest.fixture(scope="session")
def s3_server():
    """Host and port of an S3-compatible server, a process of its own that the tests start and stop."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host, port = free.getsockname()
    command = [sys.executable, "-m", "moto.server", "-H", host, "-p", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **quiet) as server:
        try:
            _wait_for(host, port)
            yield f"{host}:{port}"
        finally:
            server.terminate()


def _wait_for(host, port):
    for _ in range(600):
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("the S3 server does not start")


@pytest.fixture
def s3(s3_server):
    """URI of a place in a new bucket, as a function of its path; it names server and credentials."""
    bucket = f"study-{uuid.uuid4().hex[:12]}"
    request = urllib.request.Request(f"http://{s3_server}/{bucket}", method="PUT")
    with urllib.request.urlopen(request, timeout=30):
        pass
    query = f"?scheme=http&endpoint_override={s3_server}&region=us-east-1"
    return lambda path: f"s3://AKIDEXAMPLE:wJalrXUtnSecret@{bucket}/{path}{query}"


@pytest.fixture(scope="session")
def gcs_server(tmp_path_factory):
    """A pretended Google Cloud Storage, a process of its own that takes orders (`tests.servers.GcsServer.pretend`)."""
    server = GcsServer(tmp_path_factory.mktemp("gcs"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def gs(gcs_server, monkeypatch):
    """URI of a place in a new bucket of Google's kind, as a function of its path; the environment has credentials."""
    bucket = f"study-{uuid.uuid4().hex[:12]}"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(gcs_server.key))
    gcs_server.pretend(make=[bucket], faults=[], page=1000, needs="Bearer ey")
    return lambda path: gcs_server.uri(bucket, path)
