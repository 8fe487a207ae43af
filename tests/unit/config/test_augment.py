"""Combinations of the augmentation's policy, mode and device."""

import pytest

from study.config.rules import advice, rule_faults
from study.config.view import View

MODES = {"choice": ["fast", "compatible"]}
ON_CPU = MODES | {"when": {"augment.device": "cpu"}}
DEVICES = {"choice": ["cpu", "train"]}


def paths(raw, augment, space=None):
    raw["augment"] = augment
    raw["search"]["space"] |= space or {}
    return [fault.path for fault in rule_faults(View(raw)) if fault.path.startswith("augment")]


@pytest.mark.parametrize(
    ("augment", "space"),
    [
        ({"mode": "compatible", "device": "train"}, {}),
        ({"mode": "compatible"}, {"augment.device": DEVICES}),
        ({"device": "train"}, {"augment.mode": MODES}),
        ({}, {"augment.device": DEVICES, "augment.mode": MODES}),
        (
            {"mode": "compatible"},
            {"augment.device": DEVICES, "augment.mode": ON_CPU},
        ),
    ],
)
def test_albumentations_does_not_run_on_the_training_device(raw, augment, space):
    """A study that cannot do what it says starts, or does something else without a word."""
    assert paths(raw, augment, space) == ["augment.mode"]


@pytest.mark.parametrize(
    ("augment", "space"),
    [
        ({}, {}),
        ({"mode": "compatible"}, {}),
        ({"mode": "fast", "device": "train"}, {}),
        ({}, {"augment.mode": MODES}),
        ({}, {"augment.device": DEVICES, "augment.mode": ON_CPU}),
    ],
)
def test_combinations_that_exist_pass(raw, augment, space):
    """A combination that works is refused."""
    assert paths(raw, augment, space) == []


def test_settings_of_no_policy_are_pointed_out(raw):
    """Somebody waits for an effect of a mode while nothing is augmented."""
    raw["augment"] = {"policy": "none", "mode": "compatible"}
    assert any(text.startswith("augment.mode has no effect") for text in advice(View(raw)))
    raw["augment"] = {"policy": "fundus", "device": "train"}
    assert not any(text.startswith("augment") for text in advice(View(raw)))
