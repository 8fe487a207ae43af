"""The sections of a report for which networks run: features and maps, on validation images, without ids."""

import base64
from dataclasses import replace

import pytest
import torch

from study.errors import StudyError
from study.explain.opening import OpenRun
from study.losses import make_criterion
from study.models import make_model
from study.report.page import inside
from study.report.page.inside import inside_sections
from study.report.page.parts import Note, Pictures, Table
from study.report.page.render import html_of


@pytest.fixture
def opened(evidence, monkeypatch):
    """Every run of the example is a small untrained network with a head of CORN."""

    def open_run(directory, config, trial, *, seed, fold, params, fingerprint):
        assert fold == 0
        assert fingerprint == evidence.data.dataset.fingerprint
        torch.manual_seed(0)
        criterion = make_criterion("corn", num_classes=3)
        network = make_model("test_efficientnet", num_outputs=2, make_head=criterion.make_head).eval()
        title = f"{trial}, seed {seed}"
        device = torch.device("cpu")
        return OpenRun(title=title, network=network, criterion=criterion, dataset=evidence.data.dataset, device=device)

    monkeypatch.setattr(inside, "open_run", open_run)


def test_sections(evidence, page, opened, monkeypatch):
    """Features in three colours, two images under two runs, numbers of both, and not an id in the page."""
    monkeypatch.setattr(inside, "SHOWN_IMAGES", 2)
    features, looks = inside_sections(evidence)
    drawn = {
        one.name: one
        for section in (features, looks)
        for b in section.blocks
        if isinstance(b, Pictures)
        for one in b.pictures
    }
    assert list(drawn)[:3] == ["features-class", "features-view", "features-source"]
    assert len(drawn) == 5
    assert all(drawn[f"look-{n}"].png.startswith(b"\xff\xd8") for n in (1, 2))
    (table,) = [block for block in looks.blocks if isinstance(block, Table)]
    assert [row[0].text for row in table.rows] == ["4, seed 0"] * 3 + ["baseline, seed 0"] * 3
    validation = evidence.data.dataset.rows("val")
    assert sum(row[2].value for row in table.rows[:3]) <= len(validation)
    text = html_of(replace(page, sections=(features, looks))) + "".join(
        base64.b64encode(one.png).decode() for one in drawn.values()
    )
    assert [name for name in evidence.data.manifest["image_id"] if str(name) in text] == []


def test_quick(evidence, monkeypatch):
    """A quick report opens no run, and says what is left out and how to get it."""
    monkeypatch.setattr(inside, "open_run", None)
    for section in inside_sections(evidence, quick=True):
        (note,) = section.blocks
        assert isinstance(note, Note)
        assert note.command == "study report example"


def test_no_checkpoint(evidence, monkeypatch):
    """A run that cannot be opened costs two sections, with its reason."""

    def fail(*_args, **_more):
        raise StudyError("run 4-s0 has no checkpoint yet", "wait")

    monkeypatch.setattr(inside, "open_run", fail)
    assert ["run 4-s0 has no checkpoint yet" in section.blocks[0].text for section in inside_sections(evidence)] == [
        True
    ] * 2


def test_no_map(evidence, quick, monkeypatch):
    """A network without maps keeps its features; the other section says why it is empty."""

    def patches(*args, **more):
        criterion = make_criterion("cross_entropy", num_classes=3)
        network = make_model("test_vit", num_outputs=3, image_hw=(32, 32)).eval()
        dataset = evidence.data.dataset
        return OpenRun(title="v", network=network, criterion=criterion, dataset=dataset, device=torch.device("cpu"))

    monkeypatch.setattr(inside, "open_run", patches)
    features, looks = inside_sections(evidence)
    assert isinstance(features.blocks[0], Pictures)
    assert "no convolutional layer after its first" in looks.blocks[0].text
