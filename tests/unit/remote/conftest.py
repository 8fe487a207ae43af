"""Copies of a store; credentials come from the environment.

``store`` is a real S3-compatible process, and a process that pretends to be Google's store. ``machine`` has its runs in
this process's memory, which costs a tenth, and in those processes where `make test-long` looks; what a run does with a
store is the same.
"""

import uuid

import pytest

from study.data import files
from study.remote import check_store, copy_root


@pytest.fixture
def s3_store(s3, monkeypatch):
    """The URI of an empty store."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnSecret")
    return check_store(s3("studies").replace("AKIDEXAMPLE:wJalrXUtnSecret@", ""))


@pytest.fixture
def gs_store(gs):
    """The URI of an empty store of Google's kind."""
    return check_store(gs("studies"))


@pytest.fixture(params=["s3_store", "gs_store"])
def store(request):
    """The URI of an empty store of either kind."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def memory_store(monkeypatch):
    """The URI of an empty store in this process's memory, which knows folders no more than S3 does."""
    from fsspec.implementations.memory import MemoryFileSystem
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    class Memory(MemoryFileSystem):
        store, pseudo_dirs, cachable = {}, [""], False  # of this test alone

    system, bucket = PyFileSystem(FSSpecHandler(Memory())), f"memory-{uuid.uuid4().hex[:12]}"
    monkeypatch.setattr(files, "_store", lambda _: (system, f"/{bucket}"))
    return check_store(f"s3://{bucket}/studies")


def _folders(store, tmp_path, monkeypatch):
    def folder(name, role="work", run="0-s0"):
        monkeypatch.setenv("STUDY_CACHE", str(tmp_path / name))
        return copy_root(store, role) / "mine" / "runs" / run

    return folder


@pytest.fixture
def distant(store, tmp_path, monkeypatch):
    """A run's folder in the copy of one machine or another, by the machine's name."""
    return _folders(store, tmp_path, monkeypatch)


@pytest.fixture(
    params=["memory_store", *(pytest.param(name, marks=pytest.mark.long) for name in ("s3_store", "gs_store"))]
)
def machine(request, tmp_path, monkeypatch):
    """The same, where the store need not be a process of its own."""
    return _folders(request.getfixturevalue(request.param), tmp_path, monkeypatch)
