"""The methods in words: every number is the study's, nothing is made up, and what is not known is left open."""

import re
from dataclasses import replace

import pytest

from study.config import StudyConfig
from study.report.methods.checklist import checklist
from study.report.methods.write import latex, markdown, methods_of, plain, write_methods
from study.report.page.evidence import Data

HEADINGS = [
    "Data", "Labels and splits", "Preprocessing", "Augmentation", "Network and training", "Search", "Confirmation",
    "Statistics", "Software and reproducibility",
]  # fmt: skip


def changed(evidence, **sections):
    """The example with other settings, checked again as a study file is."""
    raw = evidence.config.model_dump(mode="json")
    for path, value in sections.items():
        *parents, last = path.split("__")
        place = raw
        for key in parents:
            place = place[key]
        place[last] = value
    return replace(evidence, config=StudyConfig.model_validate(raw))


def test_numbers_of_the_study(evidence):
    """Counts, seeds, budgets and results in the text are those of the example."""
    told = methods_of(evidence)
    assert list(told) == HEADINGS
    assert "96 images of 48 patients were used: site_a with 48 images" in told["Data"]
    assert "5 were excluded: 4 for 'BI-RADS 3' and 1 for 'cannot read <path>'." in told["Data"]
    manifest = evidence.data.dataset.manifest
    sizes = manifest["split"].value_counts()
    assert f"training {sizes['train']} images of" in told["Labels and splits"]
    assert f"test {sizes['test']} images of" in told["Labels and splits"]
    assert "Of 6 trials planned 6 were begun (3 complete, 2 pruned, 1 failed), in 3 min 00 s" in told["Search"]
    assert "loss.gamma (float 0.5 to 5, only when loss.name = focal)" in told["Search"]
    assert "with seeds 0, 1 and 2" in told["Confirmation"]
    assert "Readings of the test split: 1" in told["Confirmation"]
    assert "0.080 macro AUROC (95 % CI 0.057 to 0.103)" in told["Statistics"]
    assert evidence.ledgered.fingerprint in told["Software and reproducibility"]


@pytest.mark.parametrize(
    ("path", "value", "where", "words"),
    [
        ("train__batch_size", 48, "Network and training", "48 images a batch"),
        ("train__epochs", 33, "Network and training", "at most 33 epochs"),
        ("optim__lr", 0.00271, "Network and training", "learning rate 0.00271"),
        ("optim__weight_decay", 0.031, "Network and training", "weight decay 0.031"),
        ("model__drop_rate", 0.35, "Network and training", "dropout 0.35"),
        ("sampler__name", "periodic", "Network and training", "took turns in a fixed pattern"),
        ("search__algorithm", "cmaes", "Search", "by CMA-ES"),
        ("seed", 77, "Search", "(seed 77)"),
        ("data__image_size", 768, "Preprocessing", "768 x 768"),
        ("data__bits", 16, "Preprocessing", "16-bit"),
        ("data__lut", "voi", "Preprocessing", "the VOI look-up table was applied"),
        ("data__crop", "none", "Preprocessing", "not cropped"),
        ("data__labels__birads_3", "benign", "Labels and splits", "BI-RADS 3 was taken as benign"),
        ("search__folds", 4, "Search", "the mean of 4 folds"),
        ("search__seeds", [3, 5], "Search", "the mean over seeds 3 and 5"),
        ("confirm__ensemble", True, "Confirmation", "as an ensemble"),
        ("data__labels__auxiliary", ["density"], "Network and training", "density (cross_entropy, weight 1)"),
        ("augment__policy", "none", "Augmentation", "not augmented"),
        ("augment__policy", "multitask", "Augmentation", "zoom 0.8 to 1.2"),
        ("augment__policy", "fundus", "Augmentation", "sigmoid contrast, gain 5 to 10"),
    ],
)
def test_settings(evidence, path, value, where, words):
    """A setting of the study file changes the sentence about it."""
    assert words not in methods_of(evidence)[where]
    assert words in methods_of(changed(evidence, **{path: value}))[where]


def test_nothing_is_made_up(evidence):
    """No sentence holds a hole, and what the study cannot know is left to the authors in brackets."""
    for found in (
        evidence,
        replace(evidence, data=Data(fault="it is gone"), result=replace(evidence.result, confirmed=())),
    ):
        text = " ".join(" ".join(methods_of(found).values()).split())
        assert not re.search(r"\bNone\b|\bnan\b|[{}]|\(\)|  +\w|\.\.", text.replace("...", ""))
        assert "[to be filled in by the authors: period and place" in text or "it is gone]" in text
    assert "No configuration was confirmed" in methods_of(found)["Confirmation"]
    assert methods_of(found)["Statistics"] == "No test was made."


def test_checklist(evidence):
    """Items are the study's, the authors' or missing; without data and confirmation some are, with the command."""
    whole = checklist(evidence)
    assert {item.who for item in whole} == {"study", "authors"}
    bare = replace(evidence, data=Data(fault="gone"), result=replace(evidence.result, confirmed=()))
    missing = [item for item in checklist(bare) if item.who == "missing"]
    assert len(missing) == 10
    assert any("study confirm example" in item.where for item in missing)
    assert len(checklist(bare)) == len(whole) >= 30


def test_files(evidence, tmp_path):
    """Four files; LaTeX and Markdown take nothing in the text for a command; no id is in them."""
    written = write_methods(evidence, tmp_path / "new" / "report")
    assert [path.name for path in written] == ["methods.md", "methods.tex", "methods.txt", "checklist.md"]
    text = "".join(path.read_text() for path in written)
    assert [name for name in evidence.data.manifest["image_id"] if str(name) in text] == []
    told = {"A_b": "50 % of a_b & <c>"}
    assert "\\paragraph{A\\_b} 50 \\% of a\\_b \\& \\textless{}c\\textgreater{}" in latex(told)
    assert "50 % of a\\_b & \\<c>" in markdown(told)
    assert all(len(line) <= 100 for line in plain(methods_of(evidence)).splitlines())
