"""Real images through the command line: film mammograms into a study, DICOM files into a dataset."""

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from study.data.shards import open_dataset, read_manifest

REAL = os.environ.get("STUDY_REAL_DATA", "")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.data,
    pytest.mark.skipif(not REAL, reason="STUDY_REAL_DATA does not name the folder of real files"),
]

MIAS = Path(__file__).parents[2] / "search_spaces" / "mias.yaml"
SAME = ("explicit_le_mono2", "implicit_le_mono1", "jpeg_lossless_70", "j2k_lossless_90", "rle")
BAD = {
    "bad_no_pixeldata.dcm": "PixelData",
    "bad_truncated_j2k.dcm": "decode|truncated|damaged",
    "bad_values_exceed_bitsstored.dcm": "BitsStored|bits",
}
GOOD = (*(f"mg_{name}.dcm" for name in SAME), "MG1_J2KI.dcm", "MG_Explicit_Little.dcm")
STUDY_FILE = """\
study: real
data:
  prepared: prepared
  sources: [{{kind: table, name: clinic, root: {root}, table: {table}}}]
  image_size: 128
  segments: [source]
  splits: {{val: {{fraction: 0.3}}, test: {{fraction: 0.3}}}}
"""


class TestFilms:
    """A study on mini-MIAS, from the study file that comes with the product."""

    @pytest.fixture(scope="class")
    def films(self, cli):
        """What the study printed; its folder is that of `cli`."""
        changes = [f"data.sources.0.root={REAL}/mias", "data.prepared=films", "data.image_size=64"]
        changes += ["search.trials=2", "train.epochs=2", "search.pruner={name: none}", "confirm.seeds=[0]"]
        done = cli("run", str(MIAS), *[word for change in changes for word in ("--set", change)])
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        return done.stderr

    def test_ends_in_the_table(self, films):
        """The study ends in the table of its trials, the confirmation and the next commands."""
        rows = films.partition("\nrank  ")[2].splitlines()[1:3]
        assert [re.split(r"\s{2,}", row.strip())[-1] for row in rows] == ["complete", "complete"]
        assert "Confirmed on the test split: test/auroc_macro" in films
        assert re.search(r"\nNext\n  \S*study best mias --yaml\n", films)

    def test_all_films_are_there(self, films, cli):
        """The dataset holds 214 films of 107 patients in three classes, every one usable."""
        dataset = open_dataset(cli.folder / "films")
        manifest = dataset.manifest
        assert (len(manifest), manifest["patient_id"].nunique()) == (214, 107)
        assert np.bincount(dataset.labels_n).tolist() == [130, 48, 36]
        assert len(pd.read_parquet(cli.folder / "films" / "quarantine.parquet")) == 0

    def test_no_patient_on_two_sides(self, films, cli):
        """Both films of a patient are in one split, ids are hashes, and every split has all classes."""
        manifest = read_manifest(cli.folder / "films")
        assert manifest.groupby("patient_id")["split"].nunique().eq(1).all()
        assert manifest.groupby("patient_id").size().eq(2).all()
        for column in ("patient_id", "image_id"):
            assert manifest[column].str.fullmatch("[0-9a-f]{16}").all()
        assert manifest.groupby("split")["label"].nunique().to_dict() == {"train": 3, "val": 3, "test": 3}

    def test_breast_is_cut_out(self, films, cli):
        """Nearly every film is cropped to its breast, which then fills the picture and lies at its left edge."""
        dataset = open_dataset(cli.folder / "films")
        assert dataset.manifest["is_cropped"].mean() > 0.9
        pixels = dataset.pixels(np.arange(len(dataset)))
        third = dataset.image_hw[1] // 3
        left, right = pixels[:, :, :third].mean(axis=(1, 2)), pixels[:, :, -third:].mean(axis=(1, 2))
        assert (left > right).mean() > 0.9
        height = (dataset.manifest["box_bottom"] - dataset.manifest["box_top"]).to_numpy()
        width = (dataset.manifest["box_right"] - dataset.manifest["box_left"]).to_numpy()
        assert np.median(height * width) < 0.8 * 512 * 512


class TestDicomFiles:
    """`study prepare` on real DICOM files that a table lists."""

    @pytest.fixture(scope="class")
    def prepared(self, cli):
        """What the two calls printed: one with the default share of bad files, one that allows more."""
        names = [*GOOD, *BAD]
        labels = [("normal", "benign", "malignant")[place % 3] for place in range(len(names))]
        patients = [f"Doe^{place}" for place in range(len(names))]
        table = pd.DataFrame({"path": names, "patient_id": patients, "laterality": "L", "view": "CC", "label": labels})
        path = cli.folder / "list.csv"
        table.to_csv(path, index=False)
        (cli.folder / "real.yaml").write_text(STUDY_FILE.format(root=f"{REAL}/dicom", table=path))
        refused = cli("prepare", "real.yaml")
        return refused, cli("prepare", "real.yaml", "--set", "data.max_quarantined=0.5")

    def test_too_many_bad_files(self, prepared):
        """More bad files than allowed end with 1, the share, and every reason with its number of files."""
        refused, _ = prepared
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "error: 3 of 10 images (30%) cannot be used; data.max_quarantined allows 20%\n" in refused.stderr
        reasons = re.findall(r"^ +1  clinic: (.+)$", refused.stderr, flags=re.MULTILINE)
        assert len(reasons) == 3
        for words in BAD.values():
            assert sum(bool(re.search(words, reason)) for reason in reasons) == 1
        assert "Traceback" not in refused.stderr

    def test_ends_well_with_a_count(self, prepared, cli):
        """With a larger share allowed it ends with 0, says how many are in quarantine, and each has its reason."""
        _, done = prepared
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        assert "3 files are in quarantine" in done.stderr
        assert len(re.findall(r"^clinic +1  quarantine: ", done.stderr, flags=re.MULTILINE)) == len(BAD)
        counts = re.findall(r"^clinic +(?:train|val|test) +\d+ +(\d+) ", done.stderr, flags=re.MULTILINE)
        assert sum(map(int, counts)) == len(GOOD)
        quarantine = pd.read_parquet(cli.folder / "prepared" / "quarantine.parquet")
        assert len(quarantine) == 3
        assert quarantine["reason"].nunique() == 3
        assert quarantine["file_key"].nunique() == 3
        manifest = read_manifest(cli.folder / "prepared")  # in the order of the table
        for place, words in enumerate(BAD.values(), start=len(GOOD)):
            reason = manifest.loc[place, "drop_reason"]
            assert re.search(words, reason)
            assert reason.removeprefix("quarantine: ") in set(quarantine["reason"])

    def test_encodings_agree(self, prepared, cli):
        """Five encodings of one breast are one picture; the other files are other pictures."""
        dataset = open_dataset(cli.folder / "prepared")
        assert len(dataset) == len(GOOD)
        pixels = dataset.pixels(np.arange(len(GOOD)))
        for place, name in enumerate(GOOD[: len(SAME)]):
            assert np.array_equal(pixels[place], pixels[0]), name
        assert pixels[0].std() > 20
        assert not any(np.array_equal(pixels[place], pixels[0]) for place in range(len(SAME), len(GOOD)))

    def test_again(self, prepared, cli):
        """Preparing again reads nothing, and shows the same counts and reasons."""
        done = cli("prepare", "real.yaml", "--set", "data.max_quarantined=0.5", timeout=60)
        assert (done.returncode, done.stdout) == (0, "")
        _, told = prepared
        assert done.stderr.startswith("nothing to do, prepared is complete\n\nsource  split")
        assert done.stderr[done.stderr.index("source") :] == told.stderr[told.stderr.index("source  split") :]

    def test_no_identity(self, prepared, cli):
        """Neither what is printed nor what is written names a patient or a file."""
        printed = "".join(done.stderr for done in prepared)
        texts = {"printed": printed}
        for path in sorted((cli.folder / "prepared").rglob("*")):
            if path.is_file():
                texts[path.name] = path.read_bytes().decode("latin-1")
                if path.suffix == ".parquet":
                    texts[path.name] += pd.read_parquet(path).to_csv()
        assert len(texts) >= 5
        names = "|".join(re.escape(name.removesuffix(".dcm")) for name in (*GOOD, *BAD))
        assert [name for name, text in texts.items() if re.search(rf"Doe\^|{names}|{re.escape(REAL)}", text)] == []
