"""Files of a source lie below its root, unless the study file says otherwise."""

from pathlib import Path

import pytest
from trees_b import picture, write, write_pictures

from study.config import check_study_file
from study.data.files import list_files
from study.data.sources import read_source
from study.data.sources.places import check_inside
from study.errors import InputError


@pytest.fixture
def root(tmp_path):
    """A folder with one picture, beside one that belongs to somebody else."""
    write(tmp_path / "data" / "a.png", picture())
    write(tmp_path / "other" / "b.png", picture())
    return tmp_path / "data"


def read(root, *paths, **options):
    rows = "".join(f"{path},p{number},0,i{number}\n" for number, path in enumerate(paths))
    (root / "t.csv").write_text("path,patient_id,label,image_id\n" + rows)
    return list(read_source("table", root, name="clinic", table="t.csv", **options)["path"])


@pytest.mark.parametrize(
    "path",
    [
        *("../other/b.png", "x/../../other/b.png", "../../etc/passwd", "/etc/passwd", "..", "s3://bucket/b.png"),
        *("link.png", "folder/b.png", "../data2/a.png"),
    ],
)
def test_paths_that_lead_out_are_refused(root, path):
    """A table names a file of this machine outside of its root, and the file is read."""
    (root / "link.png").symlink_to(root.parent / "other" / "b.png")
    (root / "folder").symlink_to(root.parent / "other")
    with pytest.raises(InputError) as caught:
        read(root, "a.png", path)
    assert f"source clinic: 1 of 2 files lie outside of its root {root}, the first in row 2" in caught.value.message
    assert "allow_outside: true" in caught.value.fix
    assert "passwd" not in str(caught.value)
    assert len(read(root, "a.png", path, allow_outside=True)) == 2


def test_paths_that_stay_inside_are_read(root):
    """A path is refused for its dots, for being absolute, or for a link that stays inside."""
    (root / "link.png").symlink_to("a.png")
    (root / "sub").mkdir()
    (root.parent / "alias").symlink_to(root)
    paths = ("a.png", "./a.png", "sub/../a.png", str(root / "a.png"), "link.png", "missing.png", "no/such/file.png")
    assert len(read(root, *paths)) == len(paths)
    assert len(read(root.parent / "alias", "a.png", str(root / "a.png"))) == 2


def test_stores_have_roots_too():
    """A URI of another bucket, or one that climbs, passes for one below the root."""
    check_inside(
        ["s3://key:secret@b/data/x/a.png?region=x", "s3://key:secret@b/data/a"], "s3://key:secret@b/data?q", name="a"
    )
    for place in ("s3://b/other/a.png", "s3://c/data/a.png", "s3://b/data/../k", "/data/a.png", "s3://b/database/a"):
        with pytest.raises(InputError) as caught:
            check_inside([place], "s3://b/data", name="a")
        assert "other" not in str(caught.value)


def test_links_in_folders_of_classes(tmp_path):
    """A picture that is a link to a file elsewhere is read as one of the data set."""
    write_pictures(tmp_path / "set", "a/x.png", "b/y.png")
    (tmp_path / "secret.png").write_bytes(picture())
    (tmp_path / "set" / "b" / "z.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(InputError, match="1 of 3 files lie outside"):
        read_source("image_folder", tmp_path / "set")
    assert len(read_source("image_folder", tmp_path / "set", allow_outside=True)) == 3


def test_links_in_a_circle_end(tmp_path):
    """Folders that link to each other are listed for ever."""
    for name in "abc":
        write(tmp_path / name / f"{name}.png", b"")
    for here in "abc":
        for there in "abc":
            (tmp_path / here / f"to_{there}").symlink_to(tmp_path / there)
    found = list_files(tmp_path)
    assert {Path(name).name for name in found} == {"a.png", "b.png", "c.png"}
    assert len(found) < 30


@pytest.mark.parametrize(
    ("source", "paths"),
    [
        ("{kind: table, name: a, root: d, table: ../t.csv}", ["data.sources.0.table"]),
        ("{kind: table, name: a, root: d, table: x/../../t.csv}", ["data.sources.0.table"]),
        ("{kind: table, name: a, root: d, table: ../t.csv, allow_outside: true}", []),
        ("{kind: table, name: a, root: d, table: /data/t.csv}", []),
        ("{kind: table, name: a, root: d, table: s3://bucket/t.csv}", []),
        ("{kind: rsna, root: d, table: /etc/passwd}", ["data.sources.0.table"]),
        ("{kind: embed, root: d, tables: ../x, images: s3://b/c}", ["data.sources.0.tables", "data.sources.0.images"]),
        ("{kind: cbis_ddsm, root: ../d, tables: a..b}", []),
        ("{kind: cmmd, root: /d, table: ..}", ["data.sources.0.table"]),
    ],
)
def test_places_in_the_study_file(tmp_path, source, paths):
    """A place below a root climbs out of it, or a root of the user's choice is refused."""
    (tmp_path / "s.yaml").write_text(f"study: a\ndata:\n  prepared: p\n  sources: [{source}]\n")
    _, faults = check_study_file(tmp_path / "s.yaml")
    assert [fault.path for fault in faults] == paths
    assert all("allow_outside: true" in fault.message for fault in faults)
