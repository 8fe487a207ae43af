"""The study's own files in a store, and which URIs may name one."""

import pytest

from study.cli.folders import ledger_url, storage_root, study_directory, study_names
from study.data.files import join, read_bytes, stored_files, write_bytes
from study.doctor.services import check_ledger
from study.doctor.services import check_store as check_store_of
from study.errors import EnvironmentFault, InputError
from study.remote import FilesMirror, bring_all, bring_study, check_store, copy_root, places, push_file


def mirror(folder, *, lost=False, told=None):
    words = [] if told is None else told
    return FilesMirror(folder, is_lost=lambda: lost, tell=words.append, with_cursor=False)


@pytest.fixture
def study(store, tmp_path, monkeypatch):
    """The directory of a study in the copy of one machine or another, by the machine's name."""

    def folder(name):
        monkeypatch.setenv("STUDY_CACHE", str(tmp_path / name))
        path = copy_root(store, "drive") / "mine"
        path.mkdir(exist_ok=True)
        return path

    return folder


def test_files_go_there_and_come_back(study, store):
    """But for what belongs to one machine, and what belongs to runs; an ensemble belongs to the study."""
    here = study("a")
    inside = ["study.yaml", "journal.jsonl", "study.log", "report/search.csv", "runs/1-ensemble/predictions.parquet"]
    outside = ["journal.cursor", "mlflow.db", "mlflow.db-wal", ".lock", ".scratch/x", "runs/0-s0/a", "mlartifacts/1"]
    for name in [*inside, *outside]:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(name)
    with mirror(here):
        pass
    assert sorted(stored_files(join(store, "mine"))) == sorted(inside)
    there = study("b")
    bring_study(there)
    bring_all(there)
    assert {name: (there / name).read_text() for name in inside} == {name: name for name in inside}


def test_the_machine_that_went_on_has_the_newer_file(study):
    """A copy that was killed before its last upload is ahead of the store; one that others have overtaken is not."""
    here = study("a")
    (here / "journal.jsonl").write_text("1\n")
    with mirror(here):
        pass
    (here / "journal.jsonl").write_text("1\n2\n")
    bring_study(here)
    assert (here / "journal.jsonl").read_text() == "1\n2\n"
    there = study("b")
    bring_study(there)
    (there / "journal.jsonl").write_text("1\nother\n")
    with mirror(there):
        pass
    bring_study(here)
    assert (here / "journal.jsonl").read_text() == "1\nother\n"


def test_a_driver_that_lost_its_study_writes_nothing(study, store):
    """What the other one has brought there stays."""
    write_bytes(join(store, "mine", "journal.jsonl"), b"theirs")
    (study("a") / "journal.jsonl").write_text("ours")
    with mirror(study("a"), lost=True):
        pass
    assert read_bytes(join(store, "mine", "journal.jsonl")) == b"theirs"


def test_a_store_that_stays_away_is_told_in_the_end(study, monkeypatch):
    """The study is not lost for it."""
    monkeypatch.setattr(places, "PAUSES_S", (0.0,))
    monkeypatch.setattr("study.remote.files.write", lambda *_: (_ for _ in ()).throw(OSError("AWS Error X_Y")))
    (study("a") / "study.log").write_text("x")
    told = []
    with mirror(study("a"), told=told):
        pass
    assert "x y" in told[0]


def test_studies_are_found_by_name(store, study):
    """By their study file; the nearest name is told for one that is not there, without the options of the URI."""
    for name in ("first", "second"):
        write_bytes(join(store, name, "study.yaml"), b"study: x\n")
    write_bytes(join(store, "third", "other.txt"), b"")
    study("a")
    assert study_names(store) == ["first", "second"]
    assert (study_directory("first", store) / "study.yaml").read_bytes() == b"study: x\n"
    with pytest.raises(InputError, match=r"no study is called 'frst' in (s3|gs)://[^?]*\n.*did you mean first"):
        study_directory("frst", store)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("s3://AKID:hunter2@bucket/x", "holds a user or a password"),
        ("s3://AKID@bucket/x", "holds a user or a password"),
        ("s3://bucket/x?secret_key=hunter2", "unknown option secret_key"),
        ("s3://bucket/x?access_token=hunter2&region=a", "unknown option access_token"),
        ("s3:///x", "no bucket"),
        ("gs://anonymous:hunter2@bucket/x", "holds a user or a password"),
        ("gs://bucket/x?access_token=hunter2", "unknown option access_token"),
    ],
)
def test_a_uri_with_a_secret_is_refused(uri, words):
    """Without repeating it."""
    with pytest.raises(InputError, match=words) as caught:
        storage_root(uri)
    assert "hunter2" not in str(caught.value)


def test_uris_of_several_stores_are_taken():
    """A slash at the end names the same place; options of another service stay."""
    assert check_store("gs://bucket/studies/") == "gs://bucket/studies"
    assert check_store("gs://anonymous@bucket/x") == "gs://anonymous@bucket/x"
    assert check_store("s3://b?endpoint_override=h:9000&scheme=http") == "s3://b?endpoint_override=h:9000&scheme=http"
    assert check_store("abfs://container@account.dfs.core.windows.net/x")


@pytest.mark.parametrize("url", ["", "sqlite:////x/ledger.db"])
def test_a_study_in_a_store_needs_a_server_for_its_ledger(study, monkeypatch, url):
    """A file of one machine would be a ledger that nobody else has."""
    monkeypatch.setenv("STUDY_LEDGER_URL", url)
    with pytest.raises(InputError, match="needs its ledger on a server"):
        ledger_url(study("a"))
    monkeypatch.setenv("STUDY_LEDGER_URL", "postgresql://u@h/d")
    assert ledger_url(study("a")) == "postgresql://u@h/d"


def test_a_bucket_that_is_not_there(store, tmp_path, monkeypatch):
    """The error names the place and what the store said, and keeps credentials to itself."""
    monkeypatch.setattr(places, "PAUSES_S", ())
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path))
    elsewhere = store.replace("://study-", "://none-")
    folder = copy_root(elsewhere, "drive") / "mine"
    folder.mkdir()
    told = []
    (folder / "study.yaml").write_text("x")
    with mirror(folder, told=told):
        pass
    assert "no such bucket" in told[0]
    assert "wJalrXUtnSecret" not in told[0]
    with pytest.raises(EnvironmentFault, match=r"(s3|gs)://none-[^?]*: the store does not do what it is asked"):
        push_file(folder, "study.yaml")


def test_the_doctor_looks_at_the_store(store, study, monkeypatch):
    """Whether it can be written, and that the ledger needs a server; nothing stays there."""
    monkeypatch.setattr(places, "PAUSES_S", ())
    monkeypatch.delenv("STUDY_LEDGER_URL", raising=False)
    root = study("a").parent
    assert check_store_of(root).state == "ok"
    assert check_ledger(None, root).state == "missing"
    assert stored_files(store) == {}
    gone = check_store_of(copy_root(store.replace("://study-", "://none-"), "look"))
    assert (gone.state, "no such bucket" in gone.text) == ("missing", True)
