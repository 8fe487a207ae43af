"""Names planted in every text of the files, of their folders and of the table: not one byte of them is written."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import pydicom
import pytest
from pydicom.datadict import DicomDictionary, keyword_for_tag
from pydicom.dataset import Dataset

pytestmark = pytest.mark.ray

STUDY = str(Path(sys.executable).parent / "study")
PLANTED = ("MUELLER", "ANNA", "19510317", "KRANKENHAUS")
NAME = "MUELLER^ANNA"
TEXT = {
    **dict.fromkeys(("PN", "LO", "SH", "LT", "ST", "UT", "UC"), NAME),
    "AE": "KRANKENHAUS",
    "CS": "MUELLER_ANNA",
    "DA": "19510317",
    "DT": "19510317",
    "UR": "http://MUELLER/ANNA",
}
# What the pictures or their grouping by device need; all but the two names of the device come from closed lists.
NEEDED = {
    *("PhotometricInterpretation", "Modality", "PresentationIntentType", "ImageType", "ImageLaterality", "Laterality"),
    *("ViewPosition", "Manufacturer", "ManufacturerModelName", "SpecificCharacterSet", "PresentationLUTShape"),
    *("VOILUTFunction", "RescaleType"),
}


def _plant(path, target):
    """A copy of a phantom file with a name in every text element of the dictionary, nested and private ones too."""
    dataset = pydicom.dcmread(path)
    for tag, (vr, *_) in DicomDictionary.items():
        keyword = keyword_for_tag(tag)
        if vr in TEXT and keyword and keyword not in NEEDED and tag >> 16 not in (0x0000, 0x0002, 0x0004):
            setattr(dataset, keyword, TEXT[vr])
    inner = Dataset()
    inner.PatientName, inner.CodeMeaning, inner.CodeValue = NAME, NAME, NAME
    dataset.RequestAttributesSequence = [inner]
    dataset.ViewCodeSequence = [inner]
    block = dataset.private_block(0x0099, "MUELLER ANNA", create=True)
    for number, vr in enumerate(("PN", "LO", "UT", "SH")):
        block.add_new(number, vr, NAME)
    dataset.file_meta.SourceApplicationEntityTitle = "KRANKENHAUS"
    dataset.preamble = b"MUELLER ANNA".ljust(128, b" ")
    dataset.save_as(target)


def _spoil(path, place):
    """Every kind of bad file, with names where a reason might quote them."""
    if place == 0:
        path.write_bytes(b"MUELLER^ANNA is no image " * 50)
    elif place == 1:
        path.write_bytes(path.read_bytes()[:-5000])
    elif place == 2:
        path.unlink()
    else:
        dataset = pydicom.dcmread(path)
        keyword, value = (
            ("PhotometricInterpretation", "MUELLER_ANNA"),
            ("PresentationIntentType", "MUELLER_ANNA"),
            ("Modality", "MUELLER_ANNA"),
            ("BitsStored", 77),
        )[place - 3]
        setattr(dataset, keyword, value)
        dataset.save_as(path, enforce_file_format=False)


SPOILT, BAD = 7, 5  # a strange Modality or intent for presentation is read as what it is not


@pytest.fixture
def site(tmp_path, make_config, table_config):
    """A folder whose files, names and table are full of planted texts; some of the files cannot be used."""
    root = tmp_path / "KRANKENHAUS" / "MUELLER_ANNA"
    root.mkdir(parents=True)
    table = pd.read_csv(tmp_path / "list.csv").groupby("patient_id").head(3)
    names = []
    for place, name in enumerate(table["path"]):
        names.append(f"MUELLER_ANNA_{place}.dcm")
        _plant(tmp_path / "files" / name, root / names[-1])
    manifest = table.assign(path=names)
    for column in ("patient_id", "study_id", "series_id", "image_id"):
        manifest[column] = "MUELLER_ANNA_19510317_" + manifest[column].astype(str)
    manifest.to_csv(root / "list.csv", index=False)
    for place in range(SPOILT):
        _spoil(root / names[place], place)
    return root


def _study_file(tmp_path, site):
    (tmp_path / "job").mkdir()
    (tmp_path / "mine").mkdir()
    file = tmp_path / "mine" / "study.yaml"  # names the site, as its author wrote it
    file.write_text(
        "study: identity\n"
        "data:\n"
        f"  prepared: {tmp_path}/job/data/set\n"
        f"  sources: [{{kind: table, name: site, root: '{site}', table: list.csv}}]\n"
        "  image_size: 64\n"
        "  max_quarantined: 1.0\n"
        "  splits: {val: {fraction: 0.34}, test: {fraction: 0.34}}\n"
        "model: {name: test_efficientnet}\n"
    )
    return file


def _run(file, *, ray_folder, home, changes=()):
    names = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    options = [part for change in changes for part in ("--set", change)]
    return subprocess.run(
        [STUDY, "prepare", str(file), *options],
        env=kept | {"RAY_TMPDIR": str(ray_folder), "HOME": str(home)},
        cwd=file.parent.parent / "job",
        capture_output=True,
        timeout=300,
        check=False,
    )


def _leaks(folders):
    """Files with a planted word in their name or content; tables are read as well, for their pages are compressed."""
    found = []
    for path in (path for folder in folders for path in Path(folder).rglob("*") if path.is_file()):
        content = path.read_bytes() + str(path.name).encode()
        if path.suffix == ".parquet":
            content += pd.read_parquet(path).to_csv().encode()
        found += [f"{path.name}: {word}" for word in PLANTED if word.encode() in content.upper()]
    return found


def test_nothing_that_names_a_person_is_written(site, tmp_path):
    """Patients stay unknown to all who see the dataset, unfinished work, the log, the screen, or Ray's own logs."""
    file, home = _study_file(tmp_path, site), tmp_path / "home"
    home.mkdir()
    ray_folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # Ray's sockets need a short path
    try:
        refused = _run(file, ray_folder=ray_folder, home=home, changes=["data.max_quarantined=0.0"])
        assert refused.returncode == 1, refused.stderr.decode()
        assert (tmp_path / "job" / "data" / "set.partial").is_dir()
        places = (tmp_path / "job", ray_folder, home)
        assert _leaks(places) == []
        assert [path for path in ray_folder.rglob("*.log") if path.stat().st_size]
        done = _run(file, ray_folder=ray_folder, home=home)
        assert done.returncode == 0, done.stderr.decode()
        assert _leaks(places) == []
    finally:
        shutil.rmtree(ray_folder, ignore_errors=True)
    # the message of a refusal names the table's place, which is the user's own; nothing else may
    said = (refused.stdout + refused.stderr + done.stdout + done.stderr).decode().replace(str(site), "")
    assert [word for word in PLANTED if word in said.upper()] == []
    quarantine = pd.read_parquet(tmp_path / "job" / "data" / "set" / "quarantine.parquet")
    assert len(quarantine) == quarantine["reason"].nunique() == BAD
    manifest = pd.read_parquet(tmp_path / "job" / "data" / "set" / "manifest.parquet")
    assert manifest["shard"].notna().sum() == len(manifest[manifest["drop_reason"] == ""]) > 0
