"""Networks of their own: the folder, what it refuses, its answers, and TorchScript, for every kind of head."""

import io
import json
import subprocess
import sys

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from study.errors import InputError
from study.losses import LOSSES
from study.portable import ModelRecord, PortableModel, Sampling, TaskRecord, load_model, save_model
from study.portable.answers import answers_table
from study.portable.evaluating import check_fits, evaluate_on, learned_rows
from study.portable.folder import Background
from study.portable.model import combined, criterion_of, judge_files
from study.portable.reading import FileReading, seen_in, strange
from study.portable.torchscript import write_torchscript

CLASSES = ("normal", "benign", "malignant")
COUNTS = (40.0, 20.0, 10.0)
PREPARATION = {
    "image_hw": [32, 32],
    "scaling": "ordinal",
    "width_multiple": 64,
    "bits": 8,
    "colour": "grey",
    "lut": "none",
    "crop": "none",
    "margin": 0.02,
    "flip": False,
    "reduced": False,
    "masks": False,
    "version": 2,
}


def task(loss="cross_entropy", name="birads3", classes=CLASSES):
    counts = COUNTS[: len(classes)]
    return TaskRecord(name=name, classes=classes, loss=loss, params={}, class_counts=counts, raw_class_counts=counts)


def record_of(*tasks, **changes):
    fields = {
        "network": "test_efficientnet",
        "drop_rate": 0.2,
        "network_params": {},
        "channels": 1,
        "image_hw": (32, 32),
        "tasks": tasks or (task(),),
        "reconstruction": 0.0,
        "preparation": PREPARATION,
        "precision": "fp32",
        "seed": 3,
    }
    return ModelRecord(**(fields | changes))


def model_of(record, seed=0):
    """A network with random weights."""
    from study.models import make_model

    torch.manual_seed(seed)
    criterion = criterion_of(record)
    network = make_model(
        record.network,
        num_outputs=criterion.num_outputs,
        drop_rate=record.drop_rate,
        image_hw=record.image_hw,
        make_head=criterion.make_head,
        **record.network_params,
    )
    return PortableModel(record, network.state_dict())


@pytest.fixture(scope="module")
def frames():
    return list(np.random.default_rng(1).integers(0, 255, (5, 32, 32), dtype=np.uint8))


@pytest.fixture(scope="module")
def model():
    return model_of(record_of())


def saved(model, folder, **more):
    return save_model(model, folder, Background(training={"model": {"name": "x"}}, metrics={"val/ece": 0.25}), **more)


class TestFolder:
    def test_round_trip(self, model, frames, tmp_path):
        """What is loaded answers bit by bit as what was saved; NaN metrics are null."""
        again = load_model(saved(model, tmp_path / "out"))
        assert again.record == model.record
        before, after = model.predict_frames(frames), again.predict_frames(frames)
        np.testing.assert_array_equal(before.probs_nk, after.probs_nk)
        np.testing.assert_array_equal(before.decoded_n, after.decoded_n)
        assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == {"val/ece": 0.25}
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    @pytest.mark.long
    def test_needs_neither_ray_nor_mlflow(self, model, tmp_path):
        """The three lines of the card, in a process of its own."""
        saved(model, tmp_path / "out")
        cv2.imwrite(str(tmp_path / "a.png"), np.arange(1600, dtype=np.uint8).reshape(40, 40))
        code = (
            "import sys\nfrom study.portable import load_model\nmodel = load_model('out')\n"
            "readings, answers = model.predict_files(['a.png'])\n"
            "assert answers.probs_nk.shape == (1, 3), readings\n"
            "print([name for name in ('ray', 'mlflow', 'optuna') if name in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.stdout, done.stderr) == ("[]\n", "")

    @pytest.mark.parametrize(
        ("file", "change", "message"),
        [
            ("model.safetensors", lambda b: b[:-1] + bytes([b[-1] ^ 1]), "SHA-256 differs"),
            ("model.safetensors", lambda b: b[: len(b) // 2], "SHA-256 differs"),
            ("model.json", lambda b: b[: len(b) // 2], "is damaged"),
            ("model.json", lambda b: b.replace(b'"format": 1', b'"format": 9'), "has format 9; expected 1"),
            ("model.json", lambda b: b.replace(b'"seed"', b'"sead"'), "is damaged"),
            ("model.json", lambda b: b.replace(b"cross_entropy", b"cross_entropi"), "unknown loss"),
            ("model.json", lambda b: b.replace(b'"malignant"', b'"malignant", "more"'), "does not fit model.json"),
            ("model.json", lambda _: b"[]", "is damaged"),
            ("model.safetensors", None, "model.safetensors is missing"),
        ],
    )
    def test_a_damaged_folder_is_told(self, model, tmp_path, file, change, message):
        """Each names the file and what to do."""
        path = saved(model, tmp_path / "out") / file
        content = path.read_bytes()
        path.unlink() if change is None else path.write_bytes(change(content))
        with pytest.raises(InputError, match=message) as caught:
            load_model(tmp_path / "out")
        assert caught.value.fix

    def test_nothing_is_overwritten(self, model, tmp_path):
        """A folder that is there stays as it is."""
        (tmp_path / "out").mkdir()
        with pytest.raises(InputError, match="exists"):
            saved(model, tmp_path / "out")
        assert not list((tmp_path / "out").iterdir())


HEADS = ("cross_entropy", "coral", "corn", "ldam")  # one of each family; the long tests try all losses


@pytest.mark.parametrize(
    "loss", [loss if loss in HEADS else pytest.param(loss, marks=pytest.mark.long) for loss in sorted(LOSSES)]
)
def test_every_head_as_torchscript(loss, frames):
    """The traced network gives the probabilities of the network, for every loss."""
    model = model_of(record_of(task(loss)))
    script = torch.jit.load(io.BytesIO(write_torchscript(model)))
    pixels = torch.from_numpy(np.stack(frames)[:, None]).float() / 255
    found = script(pixels).double().numpy()
    np.testing.assert_allclose(found, model.predict_frames(frames).probs_nk, atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


class TestSeveralTasks:
    def test_answers_of_all_tasks(self, frames):
        """An hourglass with two tasks and a reconstruction; its table has the columns of both."""
        tasks = (task("corn"), task("cross_entropy", name="density", classes=("a", "b")))
        network = {"network": "hourglass", "network_params": {"fusion": True, "reconstruct": True}}
        model = model_of(record_of(*tasks, reconstruction=0.5, image_hw=(64, 64), **network))
        large = [cv2.resize(frame, (64, 64)) for frame in frames[:2]]
        answers = model.predict_frames(large)
        assert answers.probs_nk.shape == (2, 3)
        assert answers.others["density"].probs_nk.shape == (2, 2)
        table = answers_table(
            [FileReading(file=f, frame=x) for f, x in zip("ab", large, strict=True)], answers, model.record
        )
        assert {"class", "probability_normal", "density_class", "density_probability_b", "density_entropy"} <= set(
            table
        )
        assert write_torchscript(model)


class TestAnswers:
    @pytest.fixture
    def pictures(self, tmp_path):
        """Three PNG files."""
        names = [str(tmp_path / f"{i}.png") for i in range(3)]
        for i, name in enumerate(names):
            cv2.imwrite(name, np.roll(np.arange(1600, dtype=np.uint8), 90 * i).reshape(40, 40))
        return names

    def test_dropout_depends_on_the_picture_alone(self, model, frames):
        """Another order or other neighbours change nothing; the passes differ."""
        whole = model.predict_frames(frames, sampling=Sampling(samples=4))
        turned = model.predict_frames(frames[::-1], sampling=Sampling(samples=4))
        np.testing.assert_array_equal(whole.probs_nk, turned.probs_nk[::-1])
        assert (whole.spread_n > 0).all()
        plain = model.predict_frames(frames)
        assert plain.spread_n is None
        assert not np.array_equal(plain.probs_nk, whole.probs_nk)

    def test_ensemble_by_hand(self, model, pictures, monkeypatch):
        """Mean and standard deviation of two networks; how many files are read at once does not show."""
        other = model_of(record_of(), seed=5)
        _, first = model.predict_files(pictures)
        _, second = other.predict_files(pictures)
        monkeypatch.setattr("study.portable.model.FILES_AT_ONCE", 2)
        readings, found = judge_files([model, other], pictures)
        np.testing.assert_allclose(found.probs_nk, (first.probs_nk + second.probs_nk) / 2, atol=1e-6)
        k = found.decoded_n[0]
        expected = abs(first.probs_nk[0, k] - second.probs_nk[0, k]) / np.sqrt(2)
        assert found.spread_n[0] == pytest.approx(expected, abs=1e-6)
        assert [reading.file for reading in readings] == pictures
        assert all(reading.frame is None for reading in readings)

    def test_a_lot_without_a_picture(self, model, pictures, monkeypatch):
        """Files that cannot be read fill one reading, before or after others."""
        monkeypatch.setattr("study.portable.model.FILES_AT_ONCE", 1)
        names = ["none.png", pictures[0], "gone.png", pictures[1]]
        readings, answers = judge_files([model], names, sampling=Sampling(samples=2))
        table = answers_table(readings, answers, model.record)
        assert table["class"].isna().tolist() == [True, False, True, False]
        assert table["spread"].isna().tolist() == [True, False, True, False]
        readings, answers = judge_files([model, model], names[:1])
        assert answers_table(readings, answers, model.record)["class"].isna().tolist() == [True]

    def test_a_picture_that_does_not_fit_the_frame_has_its_reason(self, pictures):
        """Widths that follow the picture may be larger than any in training."""
        wide = dict(PREPARATION) | {"scaling": "multitask", "image_hw": [32, 256], "width_multiple": 32}
        model = model_of(record_of(preparation=wide, image_hw=(32, 16)))
        readings, answers = model.predict_files(pictures[:1])
        assert readings[0].reason.endswith("the network's frame is 32 x 16 px")
        assert len(answers.decoded_n) == 0

    def test_entropy_by_hand(self):
        """Even probabilities are 1, a certain one is 0, and a half to a half of three is log 2 over log 3."""
        found = combined(np.tile([[1 / 3] * 3, [1, 0, 0], [0.5, 0.5, 0]], (2, 1, 1)).astype(float)).entropy_n
        np.testing.assert_allclose(found, [1, 0, np.log(2) / np.log(3)], atol=1e-9)

    def test_files_that_cannot_be_read_keep_their_row(self, model, frames, tmp_path):
        """Reason and answer stand in the row of their file; no file at all gives an empty table."""
        cv2.imwrite(str(tmp_path / "good.png"), np.arange(1600, dtype=np.uint8).reshape(40, 40))
        (tmp_path / "bad.png").write_bytes(b"no picture")
        names = [str(tmp_path / name) for name in ("bad.png", "good.png", "none.png")]
        readings, answers = model.predict_files(names)
        table = answers_table(readings, answers, model.record)
        assert table["file"].tolist() == names
        assert [bool(reason) for reason in table["reason"]] == [True, False, True]
        assert table["class"].isna().tolist() == [True, False, True]
        assert answers_table([], model.predict_frames([]), model.record).empty


def test_what_is_strange():
    """Another vendor, view, size or bits is told with what training had; what is missing is not."""
    rows = pd.DataFrame(
        {
            "manufacturer": ["Alpha", "Alpha", "Beta"],
            "view": ["CC", "MLO", None],
            "image_kind": [None] * 3,
            "rows": [100.0, 200.0, 150.0],
            "cols": [80.0] * 3,
            "bits_stored": [12.0] * 3,
            "is_cropped": [1.0] * 3,
        }
    )
    record = record_of(seen=seen_in(rows))
    assert record.seen["manufacturer"] == {"Alpha": 2, "Beta": 1}
    same = {"manufacturer": "Beta", "view": "CC", "rows": 215, "cols": 80, "bits_stored": 12, "is_cropped": True}
    assert strange(same, record) == []
    other = {"manufacturer": "Gamma", "view": "ML", "rows": 230, "cols": 60, "bits_stored": 14, "is_cropped": False}
    found = strange(other, record)
    assert len(found) == 6
    assert "vendor Gamma was not in training (Alpha, Beta)" in found
    assert "height in px 230 is outside of training (100 to 200)" in found
    assert strange({"is_cropped": True}, record) == []
    assert strange({"is_cropped": True}, record_of(preparation=PREPARATION | {"masks": True}))


class TestEvaluation:
    @pytest.fixture
    def dataset(self, tiny_dataset):
        """A dataset with what the other fixture leaves out."""
        tiny_dataset.about["settings"]["image"] = PREPARATION
        count = len(tiny_dataset)
        for name in ("box_left", "box_top", "box_right", "box_bottom"):
            tiny_dataset.manifest[name] = 0.0
        tiny_dataset.manifest["pixel_crc32"] = pd.array(np.arange(count), dtype="Int64")
        return tiny_dataset

    def test_patients_of_the_training_are_left_out(self, model, dataset):
        """On its own dataset only the test split is left; pictures are known even where names are not."""
        rows = dataset.manifest
        names = rows["patient_id"].to_numpy(dtype=str)
        is_learned_n = learned_rows(dataset, rows, names)
        learned = set(names[rows["split"].isin(["train", "val"])])
        np.testing.assert_array_equal(is_learned_n, np.isin(names, list(learned)))
        unknown = np.full(len(rows), "", dtype=str)
        np.testing.assert_array_equal(learned_rows(dataset, rows, unknown), rows["split"].isin(["train", "val"]))
        found = evaluate_on([model], dataset, is_learned_n=is_learned_n)
        assert (found.images, found.left_out) == ((~is_learned_n).sum(), is_learned_n.sum())
        assert not set(found.table["patient_id"]) & learned
        assert found.low <= found.metrics["auroc_macro"] <= found.high

    def test_equals_the_pixels_by_hand(self, model, dataset):
        """The table's probabilities are those of the stored pictures."""
        found = evaluate_on([model], dataset, is_learned_n=np.zeros(len(dataset), dtype=bool))
        frames = list(dataset.pixels(np.arange(len(dataset))))
        columns = [f"probability_{name}" for name in CLASSES]
        np.testing.assert_allclose(found.table[columns], model.predict_frames(frames).probs_nk, atol=1e-6)

    def test_all_patients_known(self, model, dataset):
        """Nothing is left to be judged."""
        with pytest.raises(InputError, match="none of the 96 labelled images"):
            evaluate_on([model], dataset, is_learned_n=np.ones(len(dataset), dtype=bool))

    def test_another_preparation_or_class_is_refused(self, model, dataset):
        """Every difference is listed."""
        dataset.about["settings"]["image"] = PREPARATION | {"bits": 16, "crop": "breast"}
        dataset.classes = ("normal", "benign")
        with pytest.raises(InputError, match=r"(?s)bits: 16, in training 8.*crop.*classes: normal, benign"):
            check_fits(model, dataset)
