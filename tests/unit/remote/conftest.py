"""Copies of a store that is a real S3-compatible process; credentials come from the environment."""

import pytest

from study.remote import check_store, copy_root


@pytest.fixture
def store(s3, monkeypatch):
    """The URI of an empty store."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnSecret")
    return check_store(s3("studies").replace("AKIDEXAMPLE:wJalrXUtnSecret@", ""))


@pytest.fixture
def machine(store, tmp_path, monkeypatch):
    """A run's folder in the copy of one machine or another, by the machine's name."""

    def folder(name, role="work", run="0-s0"):
        monkeypatch.setenv("STUDY_CACHE", str(tmp_path / name))
        return copy_root(store, role) / "mine" / "runs" / run

    return folder
