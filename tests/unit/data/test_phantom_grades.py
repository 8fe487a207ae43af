"""Phantoms with grades: exact shares, readers that are one grade off, truth in picture and biopsy."""

import hashlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.config import check_study_file, load_config
from study.data.dicom import read_dicom
from study.data.phantom import PhantomSettings, phantom_manifest, write_phantom
from study.data.phantom_grades import graded
from study.data.sources import read_source
from study.distributed.preparing_manifest import manifest_for, phantom_place
from study.errors import InputError

GRADES = (0.3, 0.22, 0.18, 0.14, 0.1, 0.06)
SITE = PhantomSettings(name="site", patients=100, seed=1, rows=128, cols=104, grades=GRADES, reader_noise=0.3)
WRITTEN = {"labels.csv": "9a970dd6f297c361", "phantom.json": "227755446b1d4516"}  # by the version before grades
OPTIONS = {"patients": 100, "seed": 1, "rows": 128, "cols": 104, "grades": GRADES, "reader_noise": 0.3}


def breasts_of(site: PhantomSettings) -> pd.DataFrame:
    """One row a breast."""
    return phantom_manifest(site).drop_duplicates("breast_id").reset_index(drop=True)


def without_noise(site: PhantomSettings) -> pd.DataFrame:
    return breasts_of(PhantomSettings(**{**vars_of(site), "reader_noise": 0.0}))


def vars_of(site: PhantomSettings) -> dict:
    return {name: getattr(site, name) for name in PhantomSettings.__dataclass_fields__}


def test_old_sites_stay_what_they_are(tmp_path):
    """The table or the settings of a site without the newer settings are not, byte for byte, what they were before."""
    vendors = ("Alpha", "Beta", "Gamma", "Delta")
    write_phantom(tmp_path, PhantomSettings(name="site_x", patients=8, seed=3, vendors=vendors, rows=128, cols=104))
    found = {name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()[:16] for name in WRITTEN}
    assert found == WRITTEN


def test_old_folders_stay_where_they_are(tmp_path):
    """The phantoms of a study file of before get another folder, so that everything is drawn and prepared again."""
    file = tmp_path / "s.yaml"
    file.write_text(
        "study: s\ndata:\n  prepared: data/q\n  sources: [{kind: phantom, name: site_a, patients: 60, seed: 1}]\n"
        "search: {trials: 1, space: {optim.lr: {float: [1.0e-4, 1.0e-2], scale: log}}}\n"
    )
    config = load_config(file)
    root, _ = phantom_place(config.data, config.data.sources[0])
    assert root.name == "site_a-a6e3d78c"


def test_shares_are_exact():
    """A grade has another number of breasts than its share, on the left or the right."""
    truth = without_noise(SITE)
    for side in ("L", "R"):
        counts = truth.loc[truth["laterality"] == side, "birads"].value_counts()
        assert [counts[grade] for grade in range(1, 7)] == [30, 22, 18, 14, 10, 6]
    classes = truth["birads"].map(
        {1: "normal", 2: "benign", 3: "benign", 4: "malignant", 5: "malignant", 6: "malignant"}
    )
    assert list(truth["label3"]) == list(classes)


def test_a_rare_disease_is_as_rare_as_asked():
    """0.7 % of malignant breasts become another share, or none."""
    grades = (0.4583, 0.3056, 0.2291, 0.003, 0.002, 0.002)
    found = breasts_of(PhantomSettings(name="s2", patients=600, seed=2, grades=grades))
    assert (found["biopsy"] == "malignant").mean() == pytest.approx(0.007, abs=0.001)


def test_readers_are_one_grade_off_as_often_as_asked():
    """Readers err more or less often, by more than a grade, or change picture, biopsy or anything else."""
    read, true = breasts_of(SITE), without_noise(SITE)
    off = read["birads"] - true["birads"]
    assert (off != 0).sum() == 60
    assert set(off) == {-1, 0, 1}
    assert 15 < (off > 0).sum() < 50
    assert set(read["birads"]) <= set(range(1, 7))
    expected = np.where(true["birads"] >= 4, "malignant", "benign")
    assert list(read["biopsy"]) == list(true["biopsy"]) == list(expected)
    same = [column for column in read if column not in ("birads", "raw_birads", "label3")]
    pd.testing.assert_frame_equal(read[same], true[same])


@settings(max_examples=30, deadline=None)
@given(true=st.lists(st.integers(1, 6), min_size=1, max_size=40), noise=st.floats(0, 1), seed=st.integers(0, 99))
def test_any_readers(true, noise, seed):
    """Severity leaves its grade, or the number of errors is not that of the share."""
    found = graded(true, noise, np.random.default_rng(seed))
    assert [breast.true for breast in found] == true
    assert all(breast.true == int(breast.severity * 6) + 1 for breast in found)
    assert all(1 <= breast.read <= 6 and abs(breast.read - breast.true) <= 1 for breast in found)
    assert sum(breast.read != breast.true for breast in found) == int(np.floor(noise * len(true) + 0.5))


def test_pictures_follow_the_truth(tmp_path):
    """The reader's error, or a second drawing, changes pixels; or lesions do not grow from grade to grade."""
    site = {**vars_of(SITE), "patients": 12, "grades": (1 / 6,) * 6}
    for name, noise in (("noisy", 0.5), ("exact", 0.0), ("again", 0.5)):
        write_phantom(tmp_path / name, PhantomSettings(**{**site, "reader_noise": noise}))
    for path in sorted((tmp_path / "noisy" / "images").iterdir()):
        assert path.read_bytes() == (tmp_path / "exact" / "images" / path.name).read_bytes()
        assert path.read_bytes() == (tmp_path / "again" / "images" / path.name).read_bytes()
    plain = PhantomSettings(**{**site, "grades": (1.0, 0, 0, 0, 0, 0), "reader_noise": 0.0})
    write_phantom(tmp_path / "plain", plain)
    manifest = phantom_manifest(PhantomSettings(**{**site, "reader_noise": 0.0}), tmp_path / "exact")
    added = {grade: [] for grade in range(1, 7)}
    for row in manifest[manifest["manufacturer"] == "Alpha"].itertuples():
        image = read_dicom(row.path).pixels_hw.astype(float)
        bare = read_dicom(tmp_path / "plain" / "images" / f"{row.image_id}.dcm").pixels_hw.astype(float)
        middle = np.s_[16:112, 8:-8]
        added[int(row.birads)].append(np.abs(image - bare)[middle].sum())
    means = [np.mean(added[grade]) for grade in range(1, 7)]
    assert means[0] == 0
    assert means == sorted(means)


def test_another_look(tmp_path):
    """A source with another one's look has its own texture, or shares its patients."""
    first = PhantomSettings(name="a", patients=2, seed=1, shares={"normal": 1.0}, rows=64, cols=64)
    other = PhantomSettings(**{**vars_of(first), "name": "b", "look": "a"})
    assert not set(phantom_manifest(first)["patient_id"]) & set(phantom_manifest(other)["patient_id"])
    own = PhantomSettings(**{**vars_of(other), "look": None})
    write_phantom(tmp_path / "look", other)
    write_phantom(tmp_path / "own", own)
    images = sorted(path.name for path in (tmp_path / "own" / "images").iterdir())
    assert all(
        (tmp_path / "look" / "images" / name).read_bytes() != (tmp_path / "own" / "images" / name).read_bytes()
        for name in images
    )


def test_reader_and_calculation_agree(tmp_path):
    """The manifest read back from the written table lacks the biopsies, or differs otherwise."""
    options = {**OPTIONS, "patients": 6}
    read = read_source("phantom", tmp_path, name="site", **options)
    pd.testing.assert_frame_equal(read, phantom_manifest(PhantomSettings(name="site", **options), tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grades": (0.5, 0.5)}, "2 shares; expected 6"),
        ({"grades": (0.5, 0.5, 0.5, 0, 0, -0.5)}, "shares from 0"),
        ({"grades": (0.5, 0.1, 0.1, 0.1, 0.1, 0.05)}, "add up to 1"),
        ({"reader_noise": 0.2}, "without grades"),
        ({"grades": GRADES, "reader_noise": 1.2}, "share from 0 to 1"),
        ({"grades": GRADES, "patients": 5}, "at least 6"),
        ({"look": "a/b"}, "look 'a/b'"),
    ],
)
def test_bad_settings_are_refused(change, message):
    """Settings that make no site pass construction."""
    with pytest.raises(InputError, match=message):
        PhantomSettings(**{"name": "x", "patients": 10} | change)


@pytest.mark.parametrize(
    ("values", "path", "message"),
    [
        ("grades: [0.5, 0.5]", "grades", "expected"),
        ("grades: [0.5, 0.1, 0.1, 0.1, 0.1, 0.05]", "grades", "make 0.95: expected 1 together"),
        ("grades: [0.5, 0.1, 0.1, 0.1, 0.1, x]", "grades.5", "expected a number"),
        ("reader_noise: 0.2", "reader_noise", "there are no grades"),
        ("grades: [0.5, 0.1, 0.1, 0.1, 0.1, 0.1], reader_noise: 2", "reader_noise", "expected"),
        ("grades: [0.5, 0.1, 0.1, 0.1, 0.1, 0.1], patients: 5", "patients", "expected at least 6"),
        ("rows: 10", "rows", "expected"),
        ("look: a/b", "look", "expected 1 to 32 letters"),
    ],
)
def test_faults_of_a_study_file(tmp_path, values, path, message):
    """A study file with a phantom that cannot be is accepted, or the fault is told elsewhere."""
    patients = "" if "patients" in values else "patients: 10, "
    file = tmp_path / "s.yaml"
    file.write_text(
        f"study: s\ndata:\n  prepared: data/q\n  sources: [{{kind: phantom, name: a, {patients}{values}}}]\n"
        "search: {trials: 1, space: {optim.lr: {float: [1.0e-4, 1.0e-2], scale: log}}}\n"
    )
    _, faults = check_study_file(file)
    found = [fault for fault in faults if fault.path.startswith(f"data.sources.0.{path}")]
    assert found, faults
    assert message in found[0].message


def test_labels_of_a_study(tmp_path):
    """Grades, biopsies and readers of a phantom do not become the labels that the tasks ask for."""
    file = tmp_path / "s.yaml"
    file.write_text(
        "study: s\ndata:\n  prepared: data/q\n  sources:\n"
        "    - {kind: phantom, name: a, patients: 60, grades: [0.2, 0.2, 0.2, 0.2, 0.1, 0.1], reader_noise: 0.5}\n"
        "  labels: {task: binary, auxiliary: [birads]}\n"
        "search: {trials: 1, space: {optim.lr: {float: [1.0e-4, 1.0e-2], scale: log}}}\n"
    )
    manifest = manifest_for(load_config(file).data)
    assert set(manifest["drop_reason"]) == {""}
    assert (manifest["label"] == (manifest["biopsy"] == "malignant")).all()
    assert (manifest["birads_label"] == manifest["birads"] - 1).all()
    assert set(manifest["binary_origin"]) == {"biopsy"}
    border = (manifest["birads"] >= 4) != (manifest["biopsy"] == "malignant")
    assert 0 < border.mean() < 0.25
