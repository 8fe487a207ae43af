"""What all readers promise, whatever they read."""

import ast
from pathlib import Path

import pandas as pd
import pytest
from pyarrow.fs import LocalFileSystem
from trees import TREES as TREES_A
from trees import message_of, rsna_row, vindr_exam, write_rsna, write_vindr
from trees_b import ROOTS
from trees_b import TREES as TREES_B

from study.data import files
from study.data.manifest import MANIFEST_COLUMNS, finish_manifest
from study.data.sources import SOURCES, read_source

TREES = TREES_A | TREES_B


def root_of(kind, folder):
    """Where the source that was built in a folder begins."""
    return str(folder / ROOTS[kind]) if kind in ROOTS else str(folder)


@pytest.fixture(params=sorted(SOURCES))
def manifest(request, tmp_path):
    """The manifest of each kind of source."""
    kind = request.param
    options = TREES[kind](tmp_path)
    return read_source(kind, root_of(kind, tmp_path), name="here", **options)


def test_columns(manifest):
    """A manifest lacks a column, or has them in another order."""
    assert tuple(manifest.columns) == MANIFEST_COLUMNS
    assert list(manifest.index) == list(range(len(manifest)))


def test_ids_are_text(manifest):
    """An id is a number, empty, or used twice."""
    for column in ("patient_id", "image_id"):
        assert manifest[column].dtype == "str"
        assert manifest[column].notna().all()
    assert manifest["image_id"].is_unique
    assert set(manifest["source"]) == {"here"}


def test_known_words(manifest):
    """Side, view, class or reason is a word that nothing else understands."""
    assert set(manifest["laterality"].dropna()) <= {"L", "R"}
    assert set(manifest["view"].dropna()) <= {"CC", "MLO", "other"}
    assert set(manifest["label3"].dropna()) <= {"normal", "benign", "malignant"}
    assert set(manifest["drop_reason"]) == {""}


def test_paths_are_absolute(manifest):
    """A path depends on the folder in which the program was started."""
    assert all(Path(path).is_absolute() for path in manifest["path"])


def test_breasts(manifest):
    """A breast is not told by patient and side."""
    known = manifest[manifest["laterality"].notna()]
    assert (known["breast_id"] == known["patient_id"] + "_" + known["laterality"]).all()


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A bucket that is a folder of this machine, with what every access to it asks for."""
    (tmp_path / "bucket").mkdir()
    monkeypatch.setattr(files, "_store", lambda _uri: (LocalFileSystem(), str(tmp_path)))
    return tmp_path / "bucket"


@pytest.mark.parametrize("kind", sorted(set(SOURCES) - {"phantom"}))
def test_a_bucket_is_read_like_a_folder(kind, store, monkeypatch):
    """A data set in an object store cannot be read, gives another manifest, or its images get paths of this machine."""
    options = TREES[kind](store)
    monkeypatch.chdir(store)
    below = f"/{ROOTS[kind]}" if kind in ROOTS else ""
    local = read_source(kind, root_of(kind, store), **options)
    remote = read_source(kind, f"s3://key:secret@store/bucket{below}?region=none", **options)
    others = [column for column in MANIFEST_COLUMNS if column != "path"]
    pd.testing.assert_frame_equal(remote[others], local[others])
    for there, here in zip(remote["path"], local["path"], strict=True):
        assert there == f"s3://key:secret@store/bucket{here.removeprefix(str(store))}?region=none"


def test_credentials_of_a_store_are_not_said(store):
    """A message about a table in an object store shows the keys in its URI."""
    place = "s3://key:secret@store/bucket?secret=1"
    for kind in sorted(set(SOURCES) - {"table"}):
        assert "secret" not in message_of(read_source, kind, place, **({"patients": 3} if kind == "phantom" else {}))
    (store / "train.csv").write_text("cancer\n0\n")
    assert "secret" not in message_of(read_source, "rsna", place)


def test_ids_are_not_said(tmp_path):
    """A message about a wrong cell quotes the ids of its row."""
    write_vindr(tmp_path / "vindr", [*vindr_exam("a"), *vindr_exam("b", breast_birads="BI-RADS 9")], pictures=False)
    message = message_of(read_source, "vindr", tmp_path / "vindr")
    assert vindr_exam("b")[0]["study_id"] not in message
    write_rsna(tmp_path / "rsna", [rsna_row(10006, 462822612, cancer=2)], pictures=False)
    message = message_of(read_source, "rsna", tmp_path / "rsna")
    assert "10006" not in message
    assert "462822612" not in message


def test_unknown_kinds_and_options():
    """A misspelt kind or option is accepted, or the nearest right name is not said."""
    assert "did you mean 'phantom'" in message_of(read_source, "fantom", ".")
    assert "did you mean 'table'" in message_of(read_source, "table", ".", tabel="x.csv")
    assert "lacks table" in message_of(read_source, "table", ".")
    assert "no option 'table'" in message_of(read_source, "mias", ".", table="x.csv")


def test_manifest_checks_ids():
    """A reader may leave out patients or images' own ids."""
    rows = pd.DataFrame({"patient_id": ["1", None], "image_id": ["a", "b"]})
    assert "1 of 2 rows have no patient_id" in message_of(finish_manifest, rows, source="x")
    rows = pd.DataFrame({"patient_id": ["1", "2"], "image_id": ["a", "a"]})
    assert "repeat an image_id" in message_of(finish_manifest, rows, source="x")
    assert "no images" in message_of(finish_manifest, rows[:0], source="x")
    rows = pd.DataFrame({"patient_id": ["1", "2"], "image_id": ["a", ""]})
    assert "1 of 2 rows have no image_id; the first is data row 2" in message_of(finish_manifest, rows, source="x")


@pytest.mark.parametrize("kind", ["vindr", "rsna"])
def test_an_image_without_an_id_is_refused(tmp_path, kind):
    """An empty cell gives an image whose place is `.dcm` and whose id is that of no image."""
    if kind == "vindr":
        write_vindr(tmp_path, [*vindr_exam("a"), {**vindr_exam("b")[0], "image_id": ""}], pictures=False)
    else:
        write_rsna(tmp_path, [rsna_row(1, 11), rsna_row(1, "", view="MLO")], pictures=False)
    assert "rows have no image_id" in message_of(read_source, kind, tmp_path)


@pytest.mark.parametrize("kind", ["image_folder", "npz"])
def test_pictures_without_patients_are_nobody_else(tmp_path, kind):
    """Picture 0 of two data sets is one patient: one source held out to test takes the other's images with it."""
    roots = [tmp_path / name for name in "ab"]
    tables = [read_source(kind, root_of(kind, root), name=root.name, **TREES[kind](root)) for root in roots]
    assert list(tables[0]["image_id"]) == list(tables[1]["image_id"])
    assert not set(tables[0]["patient_id"]) & set(tables[1]["patient_id"])


MODULES = sorted(
    path
    for path in Path(finish_manifest.__code__.co_filename).parent.rglob("*.py")
    if path.parent.name == "sources" or path.stem in {"manifest", "tasks", "labels", "splits", "split_rules", "drawing"}
)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_every_message_says_what_to_do(module):
    """A user reads what is wrong with a table, a label or a split, but not one thing that would help."""
    calls = [node for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.Call)]
    errors = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "InputError"]
    assert [call.lineno for call in errors if len(call.args) < 2] == []
