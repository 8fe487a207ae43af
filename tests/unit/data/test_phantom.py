import hashlib
import json
import threading

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.data.dicom import read_dicom
from study.data.phantom import PhantomSettings, phantom_manifest, write_phantom
from study.data.phantom_file import VENDORS
from study.data.prepare import PrepareSettings, prepare_image
from study.data.sources import read_source
from study.errors import InputError

ALL_VENDORS = ("Alpha", "Beta", "Gamma", "Delta")
SMALL = PhantomSettings(name="site_x", patients=8, seed=3, vendors=ALL_VENDORS, rows=128, cols=104)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small site of all vendors: its root and manifest."""
    root = tmp_path_factory.mktemp("phantom")
    assert write_phantom(root, SMALL) == 32
    return root, phantom_manifest(SMALL, root)


def digest(root):
    """Names and contents of all files under a folder."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_tags_and_labels_say_the_same(small):
    """The label table and the files disagree about side, view, vendor, size or depth."""
    _, manifest = small
    for row in manifest.itertuples():
        tags = read_dicom(row.path).tags
        assert (tags.laterality, tags.view, tags.manufacturer) == (row.laterality, row.view, row.manufacturer)
        assert (tags.model, tags.photometric, tags.image_kind) == (row.model, row.photometric, "FFDM")
        assert (tags.rows, tags.cols, tags.bits_stored) == (row.rows, row.cols, row.bits_stored)
        assert tags.transfer_syntax == row.transfer_syntax
    assert set(manifest["photometric"]) == {"MONOCHROME1", "MONOCHROME2"}
    assert set(manifest["bits_stored"]) == {8, 12, 14, 16}


def test_files_are_valid_and_carry_identifiers(small):
    """A file lacks a part that DICOM asks for, or nothing in it could be given away."""
    _, manifest = small
    seen = set()
    for row in manifest.itertuples():
        dataset = pydicom.dcmread(row.path)
        assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
        assert dataset.StudyInstanceUID == row.study_id
        assert dataset.SeriesInstanceUID == row.series_id
        assert dataset.SOPInstanceUID.is_valid
        assert dataset.PatientID == row.patient_id
        assert str(dataset.PatientName)
        assert dataset.PatientBirthDate
        seen.add(dataset.SOPInstanceUID)
    assert len(seen) == len(manifest)


def test_reader_and_calculation_agree(small):
    """The manifest read back from the written table differs from the one computed without writing."""
    root, manifest = small
    options = {"patients": 8, "seed": 3, "vendors": ALL_VENDORS, "rows": 128, "cols": 104}
    pd.testing.assert_frame_equal(read_source("phantom", root, name="site_x", **options), manifest)
    relative = phantom_manifest(SMALL)
    assert [str(root / path) for path in relative["path"]] == list(manifest["path"])


def test_writing_again_fills_gaps_only(small):
    """A second call writes everything again, misses a lost file, or writes other bytes."""
    root, manifest = small
    before = digest(root)
    calls = []
    assert write_phantom(root, SMALL, progress=calls.append) == 0
    assert calls == list(range(1, 33))
    lost = root / manifest["path"].iloc[5]
    lost.unlink()
    assert write_phantom(root, SMALL) == 1
    assert digest(root) == before


def test_writing_side_by_side(tmp_path):
    """Two writers of one site disturb each other, or leave parts behind."""
    site = PhantomSettings(name="both", patients=4, rows=64, cols=64)
    errors = []

    def write():
        try:
            write_phantom(tmp_path / "both", site)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    write_phantom(tmp_path / "alone", site)
    assert errors == []
    assert digest(tmp_path / "both") == digest(tmp_path / "alone")


@pytest.mark.parametrize("change", [{"seed": 4}, {"patients": 9}, {"vendors": ("Alpha",)}, {"rows": 130}])
def test_another_site_is_refused(small, change):
    """Other settings are written into the folder of a site."""
    root, _ = small
    before = digest(root)
    values = {"name": "site_x", "patients": 8, "seed": 3, "vendors": ALL_VENDORS, "rows": 128, "cols": 104}
    with pytest.raises(InputError, match=next(iter(change))):
        write_phantom(root, PhantomSettings(**values | change))
    assert digest(root) == before


def test_a_foreign_label_table_is_kept(tmp_path):
    """The label table of a real data set is overwritten."""
    (tmp_path / "labels.csv").write_text("image_id\n1\n")
    with pytest.raises(InputError, match="not a phantom's"):
        write_phantom(tmp_path, SMALL)
    assert (tmp_path / "labels.csv").read_text() == "image_id\n1\n"


def test_settings_file_is_readable(small):
    """The settings are not written down, or damage to them is not noticed."""
    root, _ = small
    text = (root / "phantom.json").read_text()
    assert json.loads(text)["patients"] == 8
    (root / "phantom.json").write_text(text[:20])
    with pytest.raises(InputError, match="not readable"):
        write_phantom(root, SMALL)
    (root / "phantom.json").write_text(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "a/b"}, "name 'a/b'"),
        ({"patients": 2}, "at least 3"),
        ({"vendors": ("Alfa",)}, "did you mean 'Alpha'"),
        ({"vendors": ()}, "expected some of"),
        ({"shares": {"normal": 0.5, "benign": 0.2}}, "add up to 1"),
        ({"shares": {"normal": 1.0, "cyst": 0.0}}, "cyst"),
        ({"shares": {"normal": 1.5, "benign": -0.5}}, "shares from 0"),
        ({"rows": 10}, "64 to 8192"),
    ],
)
def test_bad_settings_are_refused(change, message):
    """Settings that make no site pass construction."""
    with pytest.raises(InputError, match=message):
        PhantomSettings(**{"name": "x", "patients": 4} | change)


@settings(max_examples=40, deadline=None)
@given(
    patients=st.integers(3, 60),
    shares=st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)).filter(any),
    seed=st.integers(0, 2**40),
)
def test_classes_follow_the_shares(patients, shares, seed):
    """A class with a share is missing, or a class's share of breasts is more than one patient off."""
    wanted = {name: part / sum(shares) for name, part in zip(("normal", "benign", "malignant"), shares, strict=True)}
    manifest = phantom_manifest(PhantomSettings(name="s", patients=patients, seed=seed, shares=wanted))
    assert len(manifest) == 4 * patients
    counts = manifest["label3"].value_counts()
    for name, share in wanted.items():
        assert (counts.get(name, 0) > 0) == (share > 0)
        # a class of a tiny share takes its one patient from the others
        assert abs(counts.get(name, 0) - share * 4 * patients) <= 4 * 2


def test_views_of_a_breast_agree():
    """CC and MLO of one breast differ in label or BI-RADS, or left and right never differ."""
    manifest = phantom_manifest(PhantomSettings(name="s", patients=60, seed=1))
    for column in ("label3", "birads"):
        assert (manifest.groupby("breast_id")[column].nunique() == 1).all()
    assert (manifest.groupby("breast_id")["view"].agg(set) == {"CC", "MLO"}).all()
    assert 10 < (manifest.groupby("patient_id")["label3"].nunique() > 1).sum() < 50
    grades = manifest.groupby("label3")["birads"].agg(set)
    assert (grades["normal"], grades["benign"], grades["malignant"]) == ({1}, {2}, {4, 5})
    assert set(manifest["density"]) == {"A", "B", "C", "D"}
    assert manifest.groupby("patient_id")["manufacturer"].nunique().eq(1).all()


def test_sites_do_not_share_patients():
    """Two sites, or two seeds, give the same patients or exams."""
    one, two, three = (
        phantom_manifest(PhantomSettings(name=name, patients=6, seed=seed))
        for name, seed in (("a", 1), ("b", 1), ("a", 2))
    )
    assert not set(one["patient_id"]) & set(two["patient_id"])
    assert not set(one["study_id"]) & set(three["study_id"])
    assert list(one["density"]) != list(three["density"])


@pytest.mark.parametrize("vendor", list(VENDORS))
def test_pictures_look_like_breasts(tmp_path, vendor):
    """A picture lacks a dark background or a marker apart from the breast, or its chest wall is on the wrong side."""
    site = PhantomSettings(name="look", patients=3, vendors=(vendor,), rows=256, cols=208)
    write_phantom(tmp_path, site)
    for row in phantom_manifest(site, tmp_path).itertuples():
        image = read_dicom(row.path)
        near_left = image.pixels_hw if row.laterality == "L" else image.pixels_hw[:, ::-1]
        assert (near_left[150:, -8:] == 0).all()
        bright = (near_left == image.max_value).astype(np.uint8)
        count, _ = cv2.connectedComponents(bright[:40, 80:])
        assert count >= 3  # side and view, beside the background
        prepared = prepare_image(image, laterality=row.laterality, settings=PrepareSettings(image_hw=(128, 128)))
        assert prepared.flipped == (row.laterality == "R")
        assert prepared.is_cropped
        assert prepared.box[3] - prepared.box[1] > 100
        assert (prepared.pixels > 0).mean() > 0.25


def test_lesions_show_in_the_pixels_only(tmp_path):
    """A lesion changes nothing in its picture, or the two classes differ in brightness instead of shape."""
    frames = {}
    for label in ("normal", "benign", "malignant"):
        site = PhantomSettings(name="one", patients=12, vendors=("Alpha",), shares={label: 1.0}, rows=256, cols=208)
        write_phantom(tmp_path / label, site)
        manifest = phantom_manifest(site, tmp_path / label)
        frames[label] = np.stack([read_dicom(path).pixels_hw.astype(float) for path in manifest["path"]])
    added = {label: frames[label] - frames["normal"] for label in ("benign", "malignant")}
    lit = {label: (change > 150).mean(axis=(1, 2)) for label, change in added.items()}
    assert all((share > 0.0005).all() for share in lit.values())
    assert all((share < 0.2).all() for share in lit.values())
    means = {label: change.sum(axis=(1, 2)).mean() for label, change in added.items()}
    assert 0.4 < means["malignant"] / means["benign"] < 2.5


def test_vendors_and_sites_differ_in_looks(tmp_path):
    """The grey levels of a prepared picture do not tell vendor and site better than guessing."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, groups, halves = [], [], []
    for name, vendor in (("a", "Alpha"), ("a", "Beta"), ("b", "Alpha"), ("b", "Gamma")):
        site = PhantomSettings(name=name, patients=12, vendors=(vendor,), rows=256, cols=208)
        root = tmp_path / f"{name}-{vendor}"
        write_phantom(root, site)
        for number, path in enumerate(phantom_manifest(site, root)["path"]):
            pixels = prepare_image(read_dicom(path), settings=PrepareSettings(image_hw=(128, 128))).framed()
            tissue = pixels[pixels > 8].astype(float)
            detail = np.abs(np.diff(pixels[32:96, 32:80].astype(float))).mean()
            features.append([*np.percentile(tissue, (5, 25, 50, 75, 95)), detail])
            groups.append(f"{name}-{vendor}")
            halves.append(number < 24)
    half = np.array(halves)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    model.fit(np.array(features)[half], np.array(groups)[half])
    assert model.score(np.array(features)[~half], np.array(groups)[~half]) > 0.6  # guessing gives 0.25
