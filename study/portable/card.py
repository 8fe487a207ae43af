"""The model card of an exported folder: what the network is, what it was trained on, how well it did, how to use it."""

import math
from collections.abc import Mapping
from typing import Any, Final

from study.portable.record import ModelRecord

KEPT: Final = ("images", "patients", "dataset", "study_version")
SHOWN: Final = ("auroc_macro", "f1_macro", "balanced_accuracy", "qwk", "grade_mae", "mcc", "ece")


def card_text(record: ModelRecord, metrics: Mapping[str, float]) -> str:
    """Markdown with a heading for each question that a reader has; nothing in it names a patient, a file or a place."""
    origin = record.origin
    lines = [
        f"# {origin.get('study', 'model')}, run {origin.get('run', '')}",
        "",
        f"{record.network} on {_size(record)}, classes {', '.join(record.classes)} (task {record.tasks[0].name}).",
        "",
        "## Use",
        "",
        "```python",
        "from study.portable import load_model",
        'model = load_model("this folder")',
        'readings, answers = model.predict_files(["image.dcm"])',
        "```",
        "",
        "`answers.probs_nk` are the probabilities of the classes, `answers.decoded_n` the classes. A reading has its",
        "reason where a file could not be read, and warnings where it is unlike all that the network was trained on.",
        "Pictures are prepared by `model.json` as they were for training; scale nothing beforehand.",
        "",
        "## Training",
        "",
        *_training(record, origin),
        "",
        "## Results",
        "",
        *_results(metrics),
        "",
        "## Seen in training",
        "",
        *_seen(record.seen),
        "",
        "## Limits",
        "",
        "The network has seen only what stands above. It is the outcome of research and no medical device; what it",
        "says of a patient has to be judged by a physician. Results on data of another hospital are unknown until",
        "they are measured there (`study evaluate`).",
        "",
    ]
    return "\n".join(lines)


def _size(record: ModelRecord) -> str:
    height, width = record.image_hw
    return f"{height} x {width} px, {'grey' if record.channels == 1 else 'colour'}"


def _training(record: ModelRecord, origin: Mapping[str, Any]) -> list[str]:
    tasks = "; ".join(f"{task.name} by {task.loss}" for task in record.tasks)
    lines = [f"- losses: {tasks}", f"- seed {record.seed}, best epoch {origin.get('best_epoch', 'unknown')}"]
    lines += [
        f"- {name}: {origin[name]}" for name in ("images", "patients", "dataset", "study_version") if name in origin
    ]
    return [*lines, "- all settings: `training.yaml`"]


def _results(metrics: Mapping[str, float]) -> list[str]:
    found = {split: [name for name in SHOWN if f"{split}/{name}" in metrics] for split in ("val", "test")}
    splits = [split for split, names in found.items() if names]
    if not splits:
        return ["None were kept with the run."]
    head = f"| metric | {' | '.join(splits)} |"
    lines = [head, "|" + "---|" * (1 + len(splits))]
    for name in SHOWN:
        values = [metrics.get(f"{split}/{name}", math.nan) for split in splits]
        if any(f"{split}/{name}" in metrics for split in splits):
            lines.append(f"| {name} | {' | '.join('' if math.isnan(v) else f'{v:.3f}' for v in values)} |")
    return [
        *lines,
        "",
        "All of them: `metrics.json`. The validation split chose the epoch, so its values are flattering.",
    ]


def _seen(seen: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, value in seen.items():
        if isinstance(value, Mapping) and value:
            lines.append(f"- {name}: {', '.join(f'{key} ({count})' for key, count in value.items())}")
        elif isinstance(value, list) and value and name != "is_cropped":
            lines.append(f"- {name}: {value[0]:g} to {value[1]:g}")
    return lines or ["Nothing is known."]
