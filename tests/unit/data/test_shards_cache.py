"""Files of remote datasets: fetched once per machine, whoever asks first, and never half."""

import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from study.data import shards_cache
from study.data.shards_cache import FOLDER, FileRecord, fetched
from study.errors import InputError

CONTENT = bytes(range(256)) * 64
RECORD = FileRecord(size_bytes=len(CONTENT), crc32=zlib.crc32(CONTENT))
PLACE = "s3://bucket/set/shards/a.arrow"


@pytest.fixture
def downloads(tmp_path, monkeypatch):
    """The list of downloads; each writes what the list's ``content`` says, the first one slowly."""
    monkeypatch.setenv(FOLDER, str(tmp_path / "cache"))
    made, go_on = [], threading.Event()

    def download(place, path):
        made.append(place)
        path.write_bytes(CONTENT[:100])
        go_on.wait(0.3)  # long enough for the others to ask, too
        path.write_bytes(CONTENT)

    monkeypatch.setattr(shards_cache, "download", download)
    return made


def ask(_=None, record=RECORD):
    path = fetched(PLACE, fingerprint="f0", name="shards/a.arrow", expected=record)
    return path, path.read_bytes()


def test_many_askers_make_one_download(downloads):
    """Eight that ask at the same time get one whole file; later ones find it there."""
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(8)))
    assert {content for _, content in found} == {CONTENT}
    assert len({path for path, _ in found}) == 1
    assert ask()[1] == CONTENT
    assert downloads == [PLACE]


def test_a_copy_of_another_size_is_fetched_again(downloads):
    """A copy that was cut off by whatever hand is replaced."""
    path, _ = ask()
    path.write_bytes(CONTENT[:50])
    assert ask()[1] == CONTENT
    assert len(downloads) == 2


def test_what_arrives_otherwise_than_expected_is_refused_and_leaves_nothing(downloads):
    """A store that has another file gives an error, not a dataset, and no part of it stays."""
    with pytest.raises(InputError, match=r"a\.arrow differs from what its dataset\.json says"):
        ask(record=FileRecord(size_bytes=len(CONTENT), crc32=1))
    assert [path.suffix for path in shards_cache.cache_folder().rglob("*") if path.is_file()] == [".lock"]
