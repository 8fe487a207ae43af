"""Losses in the study file: records, searches, the rule against double correction, and the table in the docs."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from study.config.load import check_study_file
from study.config.loss_rules import BETA_CLASSES
from study.config.losses import LossConfig
from study.config.paths import find
from study.config.rules import View, advice, rule_faults
from study.config.searching import loss_variants, space_faults
from study.distributed.objective import TaskLoss, _class_counts
from study.errors import InputError
from study.losses import LOSS_PARAMS, LOSSES, make_criterion
from study.losses.label_tables import BETA_SHAPES
from study.space import check_space

DOCS_FOLDER = Path(__file__).parents[3] / "docs"
DOCS = (DOCS_FOLDER / "losses.md").read_text(encoding="utf-8")
RECORDS = find("loss", {}).variants
WEIGHTS = {"class_weights", "class_weight_source", "class_weight_beta"}
GROUPS = {
    "weights": WEIGHTS,
    "rows": WEIGHTS | {"normaliser"},
    "placed": WEIGHTS | {"class_weight_on"},
    "columns": WEIGHTS | {"normaliser", "class_weight_on"},
    "columns, sum": WEIGHTS | {"normaliser", "class_weight_on"},
}


def table():
    """Rows of the table of all losses by name: its cells."""
    rows = [line.strip("| ").split("|") for line in DOCS.splitlines() if line.startswith("| `")]
    return {row[0].strip(" `"): [cell.strip() for cell in row] for row in rows if len(row) == 9}


def as_value(text):
    """A default as the table spells it."""
    words = {"preset": None, "null": None, "true": True, "false": False}
    return words[text] if text in words else yaml.safe_load(text)


def section(**loss):
    return TypeAdapter(LossConfig).validate_python(loss)


def defaults(name):
    return {key: field.default for key, field in RECORDS[name].model_fields.items() if key != "name"}


def test_table_names_every_loss():
    """A loss that a study file may name is missing from the docs, or the docs promise one that does not exist."""
    assert list(table()) == list(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_table_names_every_parameter(name):
    """The docs hide a parameter, give it another default, or offer one that the study file refuses."""
    _, _, _, own, group, *_ = table()[name]
    entries = [entry.strip() for entry in own.split("·") if entry.strip()]
    described = {re.match(r"`(\w+)`", entry)[1]: entry for entry in entries}
    shared = GROUPS.get(group.split(", but")[0]) or set(re.findall(r"`(\w+)`", group))
    assert set(described) | shared == set(LOSS_PARAMS[name]) == set(loss_variants()[name])
    for param, entry in described.items():
        told = re.search(r"; ([-\w.]+)( \([^)]*\))?$", entry)[1]
        if name == "asl" and param == "detach":
            continue  # its default follows from the link
        assert as_value(told) == defaults(name)[param], param
    normaliser = defaults(name).get("normaliser")
    if normaliser is not None:
        assert normaliser == LOSSES[name].normalisers[0]
        assert group in GROUPS or group.endswith(f"; {normaliser}")


@pytest.mark.parametrize("name", LOSSES)
def test_table_tells_head_ranks_and_line(name):
    """The docs tell another head or kind of loss than the code has, or a line that the study file refuses."""
    *_, head, link, ranks, line = table()[name]
    criterion = make_criterion(name, num_classes=3, class_counts=[3, 2, 1])
    assert head.startswith(criterion.head)
    assert ("K-1" in head.split(", biases")[0]) == (criterion.num_outputs == 2)
    assert (ranks == "batch") == criterion.is_batch_level
    assert ("sigmoid" in link) or ("softmax" in link)
    program, verb, file, option, override = shlex.split(line.strip("`"))
    assert (program, verb, option) == ("study", "run", "--set")
    partial, faults = check_study_file(DOCS_FOLDER.parent / file, [override])
    assert faults == []
    assert partial.loss.name == name
    loss = yaml.safe_load(override.removeprefix("loss="))
    params = section(**loss).model_dump(mode="json", exclude={"name"})
    make_criterion(loss["name"], num_classes=3, class_counts=[3, 2, 1], **params)
    assert loss["name"] == name


@pytest.mark.parametrize("name", LOSSES)
def test_record_and_loss_agree_on_ranges(name):
    """The study file lets a value pass that stops the run at its start, or refuses one that the loss takes."""
    tried = (-20.0, -1.0, -0.5, 0.0, 0.005, 0.05, 0.25, 0.5, 0.9, 1.0, 1.5, 5.0, 11.0)
    for param, default in defaults(name).items():
        is_number = param in ("gamma_neg", "gamma_pos", "clip", "alpha", "beta") or isinstance(default, float)
        for value in tried if is_number and not isinstance(default, bool) else ():
            extra = {"drw": True} if name == "ldam" else {}
            extra |= {"class_weights": "effective_number"} if param == "class_weight_beta" else {}
            outcomes = []
            for build in (section, lambda **params: make_criterion(num_classes=3, class_counts=[3, 2, 1], **params)):
                try:
                    build(name=name, **{param: value}, **extra)
                    outcomes.append(True)
                except (ValidationError, InputError):
                    outcomes.append(False)
            assert outcomes[0] == outcomes[1], (param, value)


def test_conditional_parameters_in_a_search():
    """A parameter of one loss cannot be searched beside other losses, or a value outside its range passes."""
    space, faults = check_space(
        {
            "loss.name": {"choice": ["alpa", "cdw_ce", "ldam", "wk"]},
            "loss.preset": {"choice": ["v1", "v2"], "when": {"loss.name": "alpa"}},
            "loss.alpha": {"float": [0.5, 2.0], "when": {"loss.name": ["alpa", "cdw_ce"]}},
            "loss.margin": {"choice": [0.0, 0.05], "when": {"loss.name": "cdw_ce"}},
            "loss.drw": {"choice": [True, False], "when": {"loss.name": "ldam"}},
            "loss.penalty": {"choice": ["linear", "quadratic"], "when": {"loss.name": "wk"}},
        }
    )
    assert not faults
    view = View({"loss": {"name": "wk"}, "sampler": {"name": "none"}})
    assert space_faults(space, view) == []
    space, _ = check_space({"loss.name": {"choice": ["alpa", "cdw_ce"]}, "loss.alpha": {"float": [0.5, 20.0]}})
    assert [fault.path for fault in space_faults(space, view)] == ["search.space.loss.alpha.float.1"]


@pytest.mark.parametrize(
    ("task", "loss", "words"),
    [
        ("binary", {"name": "soft_label_beta"}, "'soft_label_beta': its shapes are not published for 2 classes"),
        ("birads3", {"name": "soft_f1", "positive": 3}, "3: expected a class from 0 to 2"),
        ("birads3", {"name": "coral", "importance_weights": [1.0]}, "1 numbers; expected 2"),
        ("birads3", {"name": "soft_label_beta"}, ""),
        ("birads3", {"name": "soft_f1", "positive": 2}, ""),
        ("birads", {"name": "coral", "importance_weights": [1.0] * 5}, ""),
    ],
)
def test_losses_that_depend_on_the_number_of_classes(task, loss, words):
    """A loss that cannot be built for the task's classes is found out by the first worker, after the preparation."""
    view = View({"data": {"labels": {"task": task}}, "loss": loss, "sampler": {"name": "none"}})
    found = [fault.message for fault in rule_faults(view) if fault.path.startswith("loss")]
    assert len(found) == bool(words)
    assert all(text.startswith(words) for text in found)
    assert (min(BETA_SHAPES), max(BETA_SHAPES)) == BETA_CLASSES


def view_of(*, sampler="label", space=None, strict=False, **loss):
    tree = {"loss": {"name": "cross_entropy", **loss}, "sampler": {"name": sampler}, "strict": strict}
    return View(tree | ({"search": {"space": space, "trials": 4}} if space else {}))


@pytest.mark.parametrize(
    ("view", "words"),
    [
        (view_of(class_weights="balanced", class_weight_source="raw"), "favoured twice"),
        (view_of(class_weights="balanced", class_weight_source="sampled"), "hardly differ"),
        (view_of(name="cb", class_weight_source="raw"), "loss.name cb together with sampler.name label"),
        (view_of(name="ldam", drw=True, class_weight_source="raw"), "loss.drw true together"),
        (view_of(sampler="class_stratified", class_weights="sqrt_inv"), "class_stratified"),
        (view_of(space={"loss.class_weights": {"choice": ["none", "balanced"]}}), "loss.class_weights balanced"),
    ],
)
def test_double_correction(view, words):
    """Class weights beside a balancing sampler pass in silence, or ``strict: true`` does not stop them."""
    assert [text for text in advice(view) if words in text]
    assert not rule_faults(view)
    strict = view.replaced({"strict": True})
    assert [fault for fault in rule_faults(strict) if words.split(" together")[0].split(" ")[-1] in fault.message]
    assert not advice(strict)


@pytest.mark.parametrize(
    "view",
    [
        view_of(),
        view_of(sampler="none", class_weights="balanced"),
        view_of(sampler="source", class_weights="balanced"),
        view_of(name="ldam", drw=False),
        view_of(
            space={
                "sampler.name": {"choice": ["none", "label"]},
                "loss.class_weights": {"choice": ["none", "balanced"], "when": {"sampler.name": "none"}},
            }
        ),
    ],
)
def test_no_double_correction(view):
    """A study is warned of a double correction that it cannot make."""
    assert not advice(view)
    assert not rule_faults(view.replaced({"strict": True}))


def criterion_of(params, counts):
    """The loss of a run's deciding task."""
    own = {key: value for key, value in params.items() if key != "name"}
    loss = TaskLoss(
        task="birads3",
        classes=("a", "b", "c"),
        loss=params["name"],
        params=own,
        class_counts=counts[0],
        raw_class_counts=counts[1],
        weight=1.0,
    )
    return loss.criterion()


def test_counts_of_a_run():
    """The loss sees counts of all epochs instead of one, or raw counts where those of the sampler were meant."""
    labels_n = np.array([0] * 60 + [1] * 30 + [2] * 10 + [-1] * 5)
    repeats_n = np.array([1.0] * 60 + [2.0] * 30 + [6.0] * 10 + [0.0] * 5) * 20  # every class is drawn 1200 times
    counts = _class_counts(labels_n, repeats_n, num_classes=3)
    params = section(name="ldam", drw=True, drw_beta=0.99).model_dump(mode="json")
    criterion = criterion_of(params, counts)
    rarity = np.array([60, 30, 10]) ** -0.25
    assert criterion.margin_k.tolist() == pytest.approx((0.5 * rarity / rarity.max()).tolist())
    assert criterion.deferred_weight_k.tolist() == pytest.approx([1.0, 1.0, 1.0])
    raw = section(name="cb", beta=0.99, class_weight_source="raw").model_dump(mode="json")
    expected = (1 - 0.99) / (1 - 0.99 ** np.array([60, 30, 10]))
    assert criterion_of(raw, counts).class_weight_k.tolist() == pytest.approx((3 * expected / expected.sum()).tolist())
