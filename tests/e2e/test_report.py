"""The report of a finished study, from the command line."""

import pytest

pytestmark = pytest.mark.e2e


def test_report_of_a_finished_study(finished):
    """The page, its tables and figures lie in the study's folder, hold what the study found, and name nobody."""
    done = finished.cli("report", "small", "--out", "page")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    folder = finished.cli.folder / "page"
    text = (folder / "report.html").read_text()
    assert done.stderr.startswith("Trial ")
    assert "than the baseline" in text
    assert "Nothing failed." in text
    assert "of the attribution lies inside the breast" in text
    assert (folder / "tables" / "comparison.csv").read_text().count("\n") == 3
    assert {path.suffix for path in (folder / "figures").iterdir()} == {".png", ".svg", ".jpg"}
    written = "".join(path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file())
    ids = finished_ids(finished)
    assert len(ids) > 100
    assert [name for name in ids if name in written] == []


def finished_ids(finished):
    """Hashed ids of all images and patients of the study."""
    from study.data.shards import read_manifest

    manifest = read_manifest(finished.data / "phantom-64")
    return {str(name) for column in ("image_id", "patient_id") for name in manifest[column]}


def test_explain_two_runs(finished):
    """Panels and numbers of the best trial and the baseline side by side; what is no run is refused by name."""
    done = finished.cli("explain", "small", "small/baseline-s1", "--images", "2", "--numbers", "8", "--out", "looks")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    folder = finished.cli.folder / "looks"
    assert (folder / "panels.png").read_bytes().startswith(b"\x89PNG")
    lines = (folder / "attention.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 3
    assert lines[-1].startswith('"baseline, seed 1",malignant,')
    refused = finished.cli("explain", "small/99")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "no trained run '99'" in refused.stderr
