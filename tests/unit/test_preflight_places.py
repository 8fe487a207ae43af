"""Places that a study file names, looked at before anything starts: stores, folders, masks."""

import pytest

from study.config import DataConfig
from study.data.files import write_bytes
from study.distributed.preflight import place_faults
from study.distributed.preparing_manifest import phantom_sources

SECRETS = ("AKIDEXAMPLE", "wJalrXUtnSecret")


def _faults(prepared, **changes):
    sources = [{"kind": "phantom", "name": "a", "patients": 3}]
    data = DataConfig.model_validate({"prepared": str(prepared), "sources": sources} | changes)
    return [(fault.path, fault.message) for fault in place_faults(data)]


def test_a_store_that_answers_is_a_place(s3, tmp_path):
    """A bucket that answers is fine, with and without a dataset in it; so is a folder that is yet to be made."""
    assert _faults(s3("set")) == []
    assert _faults(tmp_path / "a" / "b") == []
    assert _faults(f"file://{tmp_path}/a") == []


@pytest.mark.parametrize("place", ["foo://x:wJalrXUtnSecret@y/z", "s3://AKIDEXAMPLE:wJalrXUtnSecret@b/x?no_such=1"])
def test_a_store_that_cannot_be_opened_is_a_fault(place):
    """A wrong kind of URI is told at its path, before minutes of reading tables, and without its credentials."""
    ((path, message),) = _faults(place)
    assert (path, "cannot be opened" in message) == ("data.prepared", True)
    assert not [secret for secret in SECRETS if secret in message]


def test_masks_must_be_there(tmp_path):
    """A folder of masks that is missing or holds no picture would put every image into quarantine."""
    ((path, message),) = _faults(tmp_path / "set", masks=str(tmp_path / "none"))
    assert (path, "no folder" in message) == ("data.masks", True)
    (tmp_path / "empty").mkdir()
    ((_, message),) = _faults(tmp_path / "set", masks=str(tmp_path / "empty"))
    assert "no PNG file there" in message
    write_bytes(tmp_path / "full" / "site" / "1.png", b"x")
    assert _faults(tmp_path / "set", masks=str(tmp_path / "full")) == []


def test_phantoms_of_a_remote_dataset_lie_on_this_machine(s3, tmp_path, monkeypatch):
    """Synthetic files are written into the cache, not below a folder called 's3:'."""
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "cache"))
    sources = [{"kind": "phantom", "name": "a", "patients": 3}]
    data = DataConfig.model_validate({"prepared": s3("set"), "sources": sources})
    ((root, _),) = phantom_sources(data)
    assert root.is_relative_to(tmp_path / "cache" / "phantom-dicom")
