"""State files that were cut off or changed: noticed by whoever reads them, and answered with what to do."""

import contextlib
import json
import shutil
import sqlite3
import zlib
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from typer.testing import CliRunner

from study import checkpoint
from study.cli import app
from study.cli.folders import store_config
from study.config import load_config
from study.data.parquet_file import FAULTS, read_table, write_table
from study.data.shards import CHECKSUM, about_checksum, open_dataset
from study.errors import StudyError
from study.ledger import Ledger, default_url
from study.ledger.seal import check_file, seal
from study.types import EpochResult, RunOutcome

METRIC = "val/auroc_macro"
STUDY_FILE = """
study: tiny
data:
  prepared: {root}/prepared
  sources: [{{kind: phantom, name: site_a, patients: 30, seed: 1}}]
train: {{epochs: 2}}
search:
  trials: 3
  algorithm: random
  space:
    optim.lr: {{float: [1.0e-4, 1.0e-2], scale: log}}
"""
VERBS = (["status", "tiny"], ["best", "tiny", "--json"], ["resume", "tiny"], ["run", "{file}"], ["sync", "tiny"])


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A study whose driver has ended: two trials in the ledger, nothing damaged."""
    root = tmp_path_factory.mktemp("template")
    file = root / "tiny.yaml"
    file.write_text(STUDY_FILE.format(root=root))
    config, directory = load_config(file), root / "studies" / "tiny"
    directory.mkdir(parents=True)
    store_config(directory, config)
    with contextlib.closing(Ledger.open(default_url(directory), config=config)) as ledger:
        for number in range(2):
            ledger.next_trial()
            for epoch in (1, 2):
                result = EpochResult(epoch=epoch, metrics={METRIC: 0.5 + epoch / 10}, images=96, seconds=1.0)
                ledger.report(number, result)
            ledger.finish(number, RunOutcome(state="complete", best_epoch=2))
    return root


@pytest.fixture
def study(template, tmp_path, monkeypatch):
    """A copy of the study to be damaged."""
    monkeypatch.delenv("STUDY_LEDGER_URL", raising=False)
    shutil.copytree(template / "studies", tmp_path / "studies")
    directory = tmp_path / "studies" / "tiny"
    return SimpleNamespace(file=template / "tiny.yaml", directory=directory, ledger=directory / "ledger.db")


def call(study, words):
    """A verb; what it raised."""
    words = [word.format(file=study.file) for word in words]
    done = CliRunner().invoke(app, [*words, "--storage", str(study.directory.parent)])
    return done.exception


def flipped(content, place):
    """The bytes with one of them changed."""
    return content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :]


def test_an_untouched_ledger_is_read_by_all(study):
    """A sealed ledger opens, a reader changes no byte of it, and another program's writes are no damage."""
    before = study.ledger.read_bytes()
    check_file(study.ledger)
    assert call(study, ["status", "tiny"]) is None
    assert study.ledger.read_bytes() == before
    seal(study.ledger)
    assert study.ledger.read_bytes() == before
    with contextlib.closing(sqlite3.connect(study.ledger)) as other, other:
        other.execute("create table notes (text)")
    check_file(study.ledger)
    assert call(study, ["status", "tiny"]) is None


@pytest.mark.parametrize("words", VERBS, ids=lambda words: words[0])
def test_a_damaged_ledger_stops_every_verb(study, words):
    """A ledger that lost its end, or one byte of which changed, is named with what was found and what to do."""
    whole = study.ledger.read_bytes()
    value = whole.index(b'"val/auroc_macro": 0.7')
    damaged = [whole[: len(whole) // 2], flipped(whole, value + 20)]
    for content in damaged:
        study.ledger.write_bytes(content)
        error = call(study, words)
        assert isinstance(error, StudyError)
        assert f"the ledger {study.ledger.resolve()} is damaged: " in error.message
        assert error.fix.startswith("put back a copy of that file")
    assert study.ledger.read_bytes() == damaged[-1]


def test_every_kind_of_cut_and_change_of_a_ledger_is_noticed(study, monkeypatch):
    """Cuts at a dozen places and a changed byte at two hundred, none of which is among those that a seal leaves out."""
    whole = study.ledger.read_bytes()
    rng = np.random.default_rng(1)
    cuts = [whole[:size] for size in (1, 50, 99, 100, 4095, 4096, 4097, len(whole) - 4096, len(whole) - 1)]
    places = [*rng.integers(100, len(whole), 200), 16, 17, 18, 28, 31, 44, 56]
    monkeypatch.setattr("study.ledger.seal.PAUSE_S", 0.0)
    for content in [*cuts, *(flipped(whole, place) for place in places)]:
        study.ledger.write_bytes(content)
        with pytest.raises(StudyError, match="is damaged"):
            check_file(study.ledger)


def test_after_a_kill_the_structure_is_checked(study):
    """A ledger that no driver sealed is read; cut off, it is refused."""
    with contextlib.closing(sqlite3.connect(study.ledger)) as other, other:
        other.execute("create table notes (text)")
    whole = study.ledger.read_bytes()
    check_file(study.ledger)
    study.ledger.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StudyError, match="is damaged"):
        check_file(study.ledger)


@pytest.mark.parametrize("words", VERBS, ids=lambda words: words[0])
def test_a_ledger_that_is_gone_is_no_new_study(study, words):
    """A study whose journal knows of trials does not begin again because its ledger is missing, empty or elsewhere."""
    journal = study.directory / "journal.jsonl"
    journal.write_text('{"sequence": 1, "kind": "start", "trial": "0", "seed": 0, "time_ms": 1, "payload": {}}\n')
    study.ledger.write_bytes(b"")
    for _ in range(2):
        error = call(study, words)
        assert isinstance(error, StudyError)
        assert "has trials in its journal, but" in error.message
        assert "STUDY_LEDGER_URL" in error.fix
        study.ledger.unlink(missing_ok=True)


def tried(function):
    """What a function returned, or the error that it raised."""
    try:
        return function()
    except StudyError as error:
        return error


def state_of(step):
    network = torch.nn.Linear(2, 2)
    optimiser = torch.optim.AdamW(network.parameters())
    return checkpoint.TrainState(
        model=network.state_dict(),
        optimiser=optimiser.state_dict(),
        step=step,
        epoch=1,
        history=[EpochResult(epoch=1, metrics={METRIC: 0.5}, images=8, seconds=1.0)],
        identity="x",
    )


def test_every_changed_byte_of_a_checkpoint_is_noticed(tmp_path):
    """Pointer, state, tensors, fence: a changed byte or a cut is an error that names a file, or changes nothing."""
    checkpoint.claim(tmp_path, 7)
    step = checkpoint.save(tmp_path, state_of(3), attempt=7, is_best=True)
    whole = checkpoint.load_last(tmp_path)
    rng = np.random.default_rng(2)
    for path in (step.parent / "latest.json", step / "state.json", step / "model.safetensors"):
        content, errors = path.read_bytes(), 0
        places = range(len(content)) if len(content) < 200 else rng.integers(0, len(content), 25)
        cuts = [content[:0], content[:-1], content[: len(content) // 2]]
        for damaged in [*(flipped(content, place) for place in places), *cuts]:
            path.write_bytes(damaged)
            found = tried(lambda: checkpoint.load_last(tmp_path))
            if isinstance(found, StudyError):
                errors += 1
                assert "the checkpoint file" in found.message  # a changed checksum is told of the file that it is of
                assert "restore it from a copy, or delete" in found.fix
            else:
                assert (found.step, found.history, found.identity) == (whole.step, whole.history, whole.identity)
        assert errors > 20
        path.write_bytes(content)
    fence = step.parent / "attempt.json"
    content = fence.read_bytes()
    for place in range(len(content)):
        fence.write_bytes(flipped(content, place))
        error = tried(lambda: checkpoint.claim(tmp_path, 7))
        assert error is None or "attempt.json cannot be used" in error.message
    fence.write_bytes(content)
    checkpoint.claim(tmp_path, 8)


def read_all(root):
    """The pixels of a dataset's training images."""
    dataset = open_dataset(root)
    return dataset.pixels(dataset.rows("train"))


def test_a_damaged_dataset_is_named(tmp_path, make_dataset):
    """Description, manifest and shards: what was cut off or changed is an error with the file and what to do."""
    root = make_dataset(tmp_path / "data")
    about = json.loads((root / "dataset.json").read_text())
    manifest = (root / "manifest.parquet").read_bytes()
    about["tables"] = {"manifest.parquet": ["manifest.parquet", len(manifest), zlib.crc32(manifest)]}
    (root / "dataset.json").write_text(json.dumps(about | {CHECKSUM: about_checksum(about)}))
    assert len(open_dataset(root)) == 96
    rng = np.random.default_rng(3)
    for name in ("dataset.json", "manifest.parquet", "shards/a.arrow"):
        path = root / name
        content = path.read_bytes()
        cuts = [content[:size] for size in (0, 1, len(content) // 2, len(content) - 1)]
        for damaged in [*cuts, *(flipped(content, place) for place in rng.integers(0, len(content), 12))]:
            path.write_bytes(damaged)
            found = tried(lambda: read_all(root))
            if isinstance(found, StudyError):
                assert path.name in found.message
                assert found.fix
            else:
                assert json.loads(damaged) == json.loads(content)
        path.write_bytes(content)


def test_every_changed_page_of_a_result_table_is_noticed(tmp_path):
    """A predictions file with a changed byte cannot be read, or reads as it was written."""
    path = tmp_path / "predictions_val.parquet"
    table = pd.DataFrame({"image_id": [f"{i:04x}" for i in range(500)], "probability_x": np.linspace(0, 1, 500)})
    write_table(pa.Table.from_pandas(table), path)
    content = path.read_bytes()
    noticed = 0
    for place in np.random.default_rng(4).integers(0, len(content), 120):
        path.write_bytes(flipped(content, place))
        try:
            assert read_table(path)[["image_id", "probability_x"]].equals(table)
        except FAULTS:
            noticed += 1
    assert noticed > 80
    path.write_bytes(content[:-20])
    with pytest.raises(FAULTS):
        read_table(path)
