"""Pseudo-labels: a teacher of another study labels training images that have no label."""

import json
import threading
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import torch

from study import checkpoint
from study.checkpoint import TrainState
from study.config import StudyConfig, config_yaml
from study.data.labels import LabelSettings, finish_labels
from study.data.pseudo import (
    PSEUDO,
    PSEUDO_FILE,
    pseudo_digest,
    read_pseudo_labels,
    with_pseudo_labels,
    write_pseudo_labels,
)
from study.data.shards import DATASET_FILE, MANIFEST_FILE, open_dataset
from study.data.targets import TargetRules, make_targets
from study.distributed.runs import build_run
from study.distributed.specs import make_spec
from study.distributed.teacher import find_teacher, label_images, teacher_advice, teacher_faults
from study.distributed.tuner import _label_images
from study.doctor.studyfile import check_file
from study.errors import InputError, StudyError
from study.inference import forward_all, row_batches
from study.ledger import Ledger, default_url
from study.optimisation import autocast_for
from study.types import RunOutcome, RunSpec

CPU = torch.device("cpu")


@pytest.fixture
def prepared(tmp_path, make_dataset):
    """The tiny dataset; every fifth image has no label, and those that train are kept."""
    root = make_dataset(tmp_path / "tiny")
    table = pd.read_parquet(root / MANIFEST_FILE)
    lacks = np.arange(len(table)) % 5 == 0
    table["label"] = table["label"].mask(lacks)
    table["birads3"] = table["label"]
    table["birads3_origin"] = np.where(lacks, "left_out", "reader")
    table["birads3_uncertainty"] = np.where(lacks, 1.0, 0.0)
    table["drop_reason"] = np.where(lacks & (table["split"] != "train"), "no label", "")
    table.to_parquet(root / MANIFEST_FILE)
    about = json.loads((root / DATASET_FILE).read_text())
    about["settings"] = {"labels": {"task": "birads3", "keep_unlabelled": True}}
    (root / DATASET_FILE).write_text(json.dumps(about))
    return root


def config_of(prepared, name, **sections):
    data = {
        "prepared": str(prepared),
        "sources": [{"kind": "phantom", "name": "a", "patients": 20}],
        "image_size": 32,
        "labels": {"keep_unlabelled": True},
    }
    raw = {"study": name, "data": data, "model": {"name": "test_efficientnet", "drop_rate": 0.1}}
    return StudyConfig.model_validate(raw | {"train": {"epochs": 1, "batch_size": 8}} | sections)


@pytest.fixture
def teacher(prepared, tmp_path):
    """A study with one trained run, its weights those of the start."""
    config = config_of(prepared, "half", loss={"name": "corn"})
    parts, _ = build_run(config, seed=3)
    directory = tmp_path / "studies" / "half" / "runs" / "0-s3"
    directory.mkdir(parents=True)
    (tmp_path / "studies" / "half" / "study.yaml").write_text(config_yaml(config))
    state = TrainState(
        model=parts.network.state_dict(),
        raw={},
        optimiser={},
        scaler={},
        step=1,
        epoch=1,
        partial={},
        history=[],
        best_epoch=1,
        best_value=0.5,
        identity=parts.identity,
    )
    checkpoint.claim(directory, 1)
    checkpoint.save(directory, state, attempt=1, is_best=True)
    return parts


def student(prepared, **pseudo):
    return config_of(prepared, "student", pseudo={"teacher": "half/0-s3", **pseudo}, sampler={"name": "label"})


def labelled(config, tmp_path):
    """The labels that the teacher writes for a study."""
    found = find_teacher("half/0-s3", storage=tmp_path / "studies")
    spec = make_spec(tmp_path / "studies" / "student", "pseudo", 3, config=config, attempt=1)
    directory = tmp_path / "studies" / "student"
    spec = replace(spec, kind="label", directory=str(directory), teacher=found.to_spec())
    outcome = label_images(spec, device=CPU, rank=0)
    return read_pseudo_labels(directory / PSEUDO_FILE), outcome, directory / PSEUDO_FILE


def test_teacher_labels_what_has_no_label(prepared, teacher, tmp_path):
    """Other images than those without a label are labelled, by other weights, or the confidence is another class's."""
    table, outcome, _ = labelled(student(prepared), tmp_path)
    dataset = open_dataset(prepared)
    rows_n = dataset.unlabelled_rows()
    assert len(rows_n) == 10
    assert (dataset.manifest["split"].iloc[rows_n] == "train").all()
    assert table["image_id"].tolist() == dataset.manifest["image_id"].iloc[rows_n].tolist()
    batches = row_batches(dataset, rows_n, batch_size=32)
    logits = forward_all(teacher.network, batches, device=CPU, autocast=lambda: autocast_for(CPU, "fp32"))
    assert table["label"].tolist() == teacher.criterion.decode(logits).tolist()
    probs = teacher.criterion.probabilities(logits).numpy()
    np.testing.assert_allclose(table["confidence"], probs[np.arange(10), table["label"].astype(int)], rtol=1e-5)
    np.testing.assert_allclose(table["uncertainty"], 1 - table["confidence"])
    assert set(table["origin"]) == {PSEUDO}
    assert dict(outcome.metrics) == {"pseudo/images": 10.0, "pseudo/labelled": 10.0}


def test_threshold_and_doubt(prepared, teacher, tmp_path):
    """Labels of little confidence are kept, or certain weights are doubted although the file says not to."""
    table, _, _ = labelled(student(prepared), tmp_path)
    middle = float(table["confidence"].median())
    sure, outcome, _ = labelled(student(prepared, threshold=middle, doubt=False), tmp_path)
    assert sure["label"].notna().tolist() == (table["confidence"] >= middle).tolist()
    assert (sure["uncertainty"] == 0).all()
    assert outcome.metrics["pseudo/labelled"] == sure["label"].notna().sum() < 10


def test_run_is_trained_on_them(prepared, teacher, tmp_path):
    """A run does not see the teacher's labels, counts them as certain, validates on them, or has the same identity."""
    config = student(prepared)
    table, _, path = labelled(config, tmp_path)
    parts, plan = build_run(config, seed=0, pseudo=path)
    plain = open_dataset(prepared)
    rows_n = plain.unlabelled_rows()
    by_id = table.set_index("image_id").loc[plain.manifest["image_id"].iloc[rows_n]]
    labels_n, weights_n = parts.targets.of(rows_n)
    assert labels_n.tolist() == by_id["label"].tolist()
    np.testing.assert_allclose(weights_n, by_id["confidence"], rtol=1e-5)
    assert set(rows_n) < set(parts.dataset.rows("train"))
    for split in ("val", "test"):
        assert parts.dataset.rows(split).tolist() == plain.rows(split).tolist()
    assert (parts.dataset.manifest["birads3_origin"].iloc[rows_n] == PSEUDO).all()
    drawn = parts.dataset.rows("train")[np.unique(plan.indices())]
    assert set(rows_n) & set(drawn)
    others = build_run(config, seed=0)[0]
    assert others.identity != parts.identity
    write_pseudo_labels(table.assign(uncertainty=0.5), path)
    assert build_run(config, seed=0, pseudo=path)[0].identity != parts.identity


def test_other_doubts_keep_their_place(prepared, teacher, tmp_path):
    """The doubt of readers is given to the teacher's labels, or the other way round."""
    table, _, _ = labelled(student(prepared), tmp_path)
    dataset = with_pseudo_labels(open_dataset(prepared), table)
    rows_n = open_dataset(prepared).unlabelled_rows()
    targets = make_targets(dataset, ["birads3"], TargetRules(uncertainty={"reader": 0.25, "flipped": 0.75}))
    _, weights_n = targets.of(rows_n)
    np.testing.assert_allclose(weights_n, table["confidence"], rtol=1e-5)
    known = np.setdiff1d(dataset.rows("train"), rows_n)
    assert set(targets.of(known)[1].tolist()) == {0.75}


def test_wrong_labels(prepared, teacher, tmp_path):
    """A damaged or foreign file of labels is trained on."""
    table, _, path = labelled(student(prepared), tmp_path)
    dataset = open_dataset(prepared)
    for wrong in (table.assign(label=3), pd.concat([table, table])):
        with pytest.raises(StudyError, match="twice, or a class"):
            with_pseudo_labels(dataset, wrong)
    others = table.assign(image_id=[f"f{number:015x}" for number in range(len(table))])
    with pytest.raises(StudyError, match="name none of the images"):
        with_pseudo_labels(open_dataset(prepared), others)
    assert pseudo_digest(table) == pseudo_digest(table.iloc[::-1])
    assert pseudo_digest(table) != pseudo_digest(table.assign(uncertainty=0.1))
    path.write_bytes(b"PAR1")
    with pytest.raises(StudyError, match="cannot be read"):
        read_pseudo_labels(path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("zebra/0-s3", "there is no study"),
        ("half/1-s3", "no checkpoint"),
        ("half/0-s3", ""),
    ],
)
def test_finding_the_teacher(prepared, teacher, tmp_path, name, words):
    """A teacher that is not there is found out by a worker, after the search has begun."""
    config = student(prepared)
    faults = teacher_faults(config.pseudo.model_copy(update={"teacher": name}), config, storage=tmp_path / "studies")
    assert [words in fault.message for fault in faults] == ([True] if words else [])
    path = tmp_path / "studies" / "half" / "runs" / "0-s3"
    assert find_teacher(str(path), storage=tmp_path).directory == path
    if words:
        with pytest.raises(InputError):
            find_teacher(name, storage=tmp_path / "studies")


def test_doctor_looks_for_the_teacher(prepared, teacher, tmp_path):
    """`study doctor` finds nothing wrong with a file whose teacher does not exist."""
    file = tmp_path / "student.yaml"
    file.write_text(config_yaml(student(prepared)))
    for name, count in (("studies", 0), ("elsewhere", 1)):
        findings = check_file(file, is_cluster_up=False, storage=tmp_path / name)
        assert sum("pseudo.teacher" in finding.text for finding in findings) == count


def test_unlike_teachers(prepared, teacher, tmp_path):
    """A teacher of other classes or pictures labels images, or one of other splits does so without a warning."""
    config, storage = student(prepared), tmp_path / "studies"
    assert teacher_advice(config.pseudo, config, storage=storage) == []
    raw = config.model_dump(mode="json")
    for change, words in (
        ({"labels": {"task": "density", "keep_unlabelled": True}}, "it knows the classes normal"),
        ({"crop": "none", "bits": 16}, "other pictures (data.bits 8, data.crop breast)"),
    ):
        unlike = StudyConfig.model_validate({**raw, "data": {**raw["data"], **change}})
        (fault,) = teacher_faults(unlike.pseudo, unlike, storage=storage)
        assert words in fault.message
    other = StudyConfig.model_validate({**raw, "data": {**raw["data"], "splits": {"seed": 1}}})
    assert teacher_faults(other.pseudo, other, storage=storage) == []
    assert "may have taught it" in teacher_advice(other.pseudo, other, storage=storage)[0]


def test_only_training_images_are_kept_without_a_label():
    """An image of val or test without a label is kept, or a study without any label starts."""
    manifest = pd.DataFrame(
        {
            "patient_id": ["p", "q", "r", "s"],
            "split": ["train", "train", "val", "test"],
            "birads3": pd.array([0, pd.NA, pd.NA, pd.NA], dtype="Int64"),
            "birads3_origin": ["reader", "left_out", "missing", "missing"],
            "drop_reason": "",
        }
    )
    kept = finish_labels(manifest, LabelSettings(keep_unlabelled=True))
    assert kept["drop_reason"].tolist() == ["", "", "no label", "no label"]
    assert kept["split"].tolist() == ["train", "train", "", ""]
    assert finish_labels(manifest, LabelSettings())["drop_reason"].iloc[1] == "the label was left out"
    with pytest.raises(InputError, match="every label"):
        finish_labels(manifest.iloc[1:], LabelSettings(keep_unlabelled=True))


class Board:
    """A search as far as the stage of labelling sees it, over a real ledger; runs are executed here and now."""

    def __init__(self, config, study_dir, ledger):
        self.config, self.study_dir, self.ledger, self.fingerprint = config, study_dir, ledger, ""
        self.stop, self.told = threading.Event(), []

    def observe(self, event):
        self.told.append(event.text)


@pytest.fixture
def stage(prepared, teacher, tmp_path, monkeypatch):
    """The stage of labelling as a function, and the board that it works on."""
    config = student(prepared)
    study_dir = tmp_path / "studies" / "student"
    study_dir.mkdir(parents=True)
    ledger = Ledger.open(default_url(study_dir), config=config)
    board = Board(config, study_dir, ledger)

    def run_here(pool, specs, *, on_event, **_):
        for spec in specs:
            on_event(spec, "end", label_images(RunSpec(**json.loads(json.dumps(asdict(spec)))), device=CPU, rank=0))

    monkeypatch.setattr("study.distributed.tuner.run_directly", run_here)
    yield lambda: _label_images(board, None), board
    ledger.close()


def test_stage_labels_once(stage):
    """The teacher labels again on every resume, or nobody learns what it did."""
    label, board = stage
    label()
    kept = board.ledger.stage("pseudo labels")
    assert (kept["teacher"], kept["seed"], kept["images"], kept["labelled"]) == ("half/0-s3", 3, 10, 10)
    assert kept["digest"] == pseudo_digest(read_pseudo_labels(board.study_dir / PSEUDO_FILE))
    assert "the teacher labelled 10 of 10 training images that had no label" in board.told
    written = (board.study_dir / PSEUDO_FILE).stat().st_mtime_ns
    label()
    assert (board.study_dir / PSEUDO_FILE).stat().st_mtime_ns == written


def test_stage_holds_to_its_labels(stage):
    """A study goes on with other labels than those it began with; or a lost file, which can be made again, ends it."""
    label, board = stage
    label()
    path = board.study_dir / PSEUDO_FILE
    table = read_pseudo_labels(path)
    path.unlink()
    label()
    assert pseudo_digest(read_pseudo_labels(path)) == pseudo_digest(table)
    write_pseudo_labels(table.assign(uncertainty=0.5), path)
    with pytest.raises(StudyError, match="not those that it began with"):
        label()


def test_stage_tells_of_a_failure(stage, monkeypatch):
    """A teacher that fails leaves a study that trains without its labels."""
    label, _ = stage
    monkeypatch.setattr(
        "study.distributed.tuner.run_directly",
        lambda pool, specs, *, on_event, **_: on_event(specs[0], "end", RunOutcome(state="failed", reason="no memory")),
    )
    with pytest.raises(StudyError, match="no memory"):
        label()
