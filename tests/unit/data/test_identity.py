import hashlib
import logging
import re
import stat
import threading

import pandas as pd
import pytest

from study.data.identity import hash_ids, load_or_make_key
from study.data.manifest import ID_COLUMNS
from study.data.phantom import PhantomSettings, phantom_manifest
from study.errors import InputError

KEY = bytes(range(32))


@pytest.fixture
def manifest():
    """A manifest with all id columns filled."""
    return phantom_manifest(PhantomSettings(name="s", patients=5))


def test_every_id_is_replaced(manifest):
    """An id column keeps a text of the source, or a hash is not 16 hexadecimal digits."""
    hashed = hash_ids(manifest, KEY)
    for column in ID_COLUMNS:
        assert not set(hashed[column]) & set(manifest[column])
        assert all(re.fullmatch("[0-9a-f]{16}", text) for text in hashed[column])
        assert hashed[column].nunique() == manifest[column].nunique()
    rest = [column for column in manifest.columns if column not in ID_COLUMNS]
    pd.testing.assert_frame_equal(hashed[rest], manifest[rest])


def test_grouping_survives(manifest):
    """Two images of a patient or breast no longer belong together."""
    hashed = hash_ids(manifest, KEY)
    for column in ("patient_id", "breast_id", "study_id"):
        assert (pd.crosstab(manifest[column], hashed[column]).gt(0).sum() == 1).all()


def test_hash_is_keyed_blake2b(manifest):
    """The hash is not the documented function, so that another tool could not repeat it."""
    expected = hashlib.blake2b(b"s-p0001", digest_size=8, key=KEY, person=b"patient_id").hexdigest()
    assert hash_ids(manifest, KEY)["patient_id"].iloc[0] == expected


def test_another_key_gives_other_ids(manifest):
    """Hashes do not depend on the key, so that a list of ids would be enough to go back."""
    one, two = hash_ids(manifest, KEY), hash_ids(manifest, KEY[::-1])
    for column in ID_COLUMNS:
        assert not set(one[column]) & set(two[column])


def test_sources(manifest):
    """A patient of two sources becomes two, or two images with one name become one."""
    other = manifest.assign(source="t")
    one, two = hash_ids(manifest, KEY), hash_ids(other, KEY)
    assert list(one["patient_id"]) == list(two["patient_id"])
    assert not set(one["image_id"]) & set(two["image_id"])


def test_columns_do_not_share_hashes(manifest):
    """The same text in two columns can be recognised."""
    same = manifest.assign(study_id=manifest["patient_id"])
    hashed = hash_ids(same, KEY)
    assert not set(hashed["study_id"]) & set(hashed["patient_id"])


def test_missing_ids_stay_missing(manifest):
    """A missing exam becomes an exam of its own, or an optional column is forgotten."""
    hashed = hash_ids(manifest.assign(study_id=pd.Series([None] * 20, dtype="str"), exam_id="e1"), KEY)
    assert hashed["study_id"].isna().all()
    assert hashed["exam_id"].nunique() == 1
    assert hashed["exam_id"].iloc[0] != "e1"


def test_short_keys_are_refused(manifest):
    """A key that could be guessed is accepted."""
    with pytest.raises(InputError, match="3 bytes"):
        hash_ids(manifest, b"abc")


class TestKey:
    """The key is made once, for its owner alone."""

    def test_made_once(self, tmp_path):
        """A second call gives another key, or others may read it."""
        path = tmp_path / "deep" / "key"
        key = load_or_make_key(path)
        assert len(key) == 32
        assert load_or_make_key(path) == key
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert [file.name for file in path.parent.iterdir()] == ["key"]

    def test_two_keys_differ(self, tmp_path):
        """Keys of two data sets are equal."""
        assert load_or_make_key(tmp_path / "a") != load_or_make_key(tmp_path / "b")

    def test_made_side_by_side(self, tmp_path):
        """Processes that start together get different keys."""
        keys = []
        threads = [threading.Thread(target=lambda: keys.append(load_or_make_key(tmp_path / "key"))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(keys) == 8
        assert len(set(keys)) == 1

    def test_foreign_file(self, tmp_path):
        """A file that is not a key is used as one."""
        (tmp_path / "key").write_bytes(b"hello")
        with pytest.raises(InputError, match="5 bytes"):
            load_or_make_key(tmp_path / "key")

    def test_open_key_is_told(self, tmp_path, caplog):
        """Nobody is told that others can read the key."""
        load_or_make_key(tmp_path / "key")
        (tmp_path / "key").chmod(0o644)
        with caplog.at_level(logging.WARNING):
            load_or_make_key(tmp_path / "key")
        assert "chmod 600" in caplog.text
