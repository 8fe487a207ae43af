"""A small valid study as plain data and as a file."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

RAW = {
    "study": "small",
    "data": {
        "prepared": "data/small",
        "sources": [
            {"kind": "phantom", "name": "site_a", "patients": 30},
            {"kind": "mias", "name": "films", "root": "data/mias"},
        ],
    },
    "loss": {"name": "focal", "gamma": 1.5, "class_weights": "balanced"},
    "sampler": {"name": "none"},
    "train": {"epochs": 8, "batch_size": 32},
    "search": {
        "metric": "val/auroc_macro",
        "trials": 4,
        "pruner": {"name": "successive_halving", "min_epochs": 2},
        "space": {
            "loss.name": {"choice": ["cross_entropy", "emd", "corn", "focal"]},
            "loss.gamma": {"float": [0.5, 5.0], "when": {"loss.name": "focal"}},
            "optim.lr": {"float": [1e-4, 1e-2], "scale": "log"},
        },
    },
    "confirm": {"top": 2, "seeds": [0, 1]},
}


@pytest.fixture
def raw() -> dict[str, Any]:
    return copy.deepcopy(RAW)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Mapping[str, Any] | str], Path]:
    def write_file(content: Mapping[str, Any] | str) -> Path:
        path = tmp_path / "study.yaml"
        text = content if isinstance(content, str) else yaml.safe_dump(dict(content), sort_keys=False)
        path.write_text(text, encoding="utf-8")
        return path

    return write_file
