"""Data in words: sources, exclusions, labels, splits, preprocessing, augmentation."""

from typing import Final

import pandas as pd

from study.config import StudyConfig
from study.data.augment_spec import PIXEL_DROPOUT_RATE, SPECS, Spec
from study.data.manifest import usable_rows
from study.data.summary import SPLITS
from study.failures import public_text
from study.models.inputs import GREY_MEAN, GREY_SD
from study.report.page.evidence import Evidence
from study.report.words import and_list

OPEN: Final = "[to be filled in by the authors: {}]"
SPLIT_NAMES: Final = {"train": "training", "val": "validation", "test": "test"}
SCHEMES: Final = {
    "fractions": "at random, by shares",
    "official": "by the official split of the data",
    "ordinal": "by the protocol of the ordinal-loss paper (validation and test from one source each)",
    "by_source": "by source",
    "folds": "in folds",
    "leave_one_source_out": "with one source held out for test",
}
SCALINGS: Final = {
    "ordinal": (
        "scaled with their aspect ratio kept, windowed from the background to the 99.9th percentile of the breast and "
        "padded symmetrically with black to"
    ),
    "multitask": (
        "scaled by height with their aspect ratio kept, windowed from the background to the brightest pixel and padded "
        "in width with black to at most"
    ),
    "periodic": (
        "scaled with their aspect ratio kept, windowed within the breast and padded with a constant per image to"
    ),
}


def data_paragraphs(evidence: Evidence) -> dict[str, str]:
    """Data, labels and splits, preprocessing and augmentation, by their headings."""
    return {
        "Data": _data(evidence),
        "Labels and splits": _labels(evidence),
        "Preprocessing": _preprocessing(evidence.config),
        "Augmentation": _augmentation(evidence.config),
    }


def _images(number: int) -> str:
    return f"{number:,} {'image' if number == 1 else 'images'}"


def _patients(number: int) -> str:
    return f"{number:,} {'patient' if number == 1 else 'patients'}"


def _data(evidence: Evidence) -> str:
    manifest, config = evidence.data.manifest, evidence.config
    kinds = and_list([f"{source.name} (read as {source.kind})" for source in config.data.sources])
    if manifest is None:
        return f"Images came from {kinds}. {OPEN.format('numbers of images and patients; ' + evidence.data.fault)}."
    used = manifest[usable_rows(manifest)]
    parts = and_list([_of_source(str(source), rows) for source, rows in used.groupby("source", sort=False)])
    text = (
        f"Images came from {kinds}. {_images(len(used))} of {_patients(used['patient_id'].nunique())} were used: "
        f"{parts}. "
        f"{_exclusions(manifest)}"
    )
    if any(source.kind == "phantom" for source in config.data.sources):
        text += " Phantom sources are synthetic: made-up breasts, no patients."
    return f"{text} {OPEN.format('period and place of acquisition, ethics approval, consent')}."


def _of_source(name: str, rows: pd.DataFrame) -> str:
    return f"{name} with {_images(len(rows))} of {_patients(rows['patient_id'].nunique())}"


def _exclusions(manifest: pd.DataFrame) -> str:
    dropped = manifest.loc[~usable_rows(manifest), "drop_reason"]
    if dropped.empty:
        return "No image was excluded."
    reasons = [f"{images:,} for {reason!r}" for reason, images in dropped.map(public_text).value_counts().items()]
    return f"Of {len(manifest):,} images in the sources {len(dropped):,} were excluded: {and_list(reasons)}."


def _labels(evidence: Evidence) -> str:
    config, data = evidence.config, evidence.data
    labels, splits = config.data.labels, config.data.splits
    names = list(data.dataset.classes) if data.dataset else list(labels.class_names)
    text = f"The task {labels.task} has {len(names)} classes: {and_list(names)}. "
    if labels.task.startswith("birads"):
        text += f"BI-RADS 0 was {_treated(labels.birads_0)}, BI-RADS 3 was {_treated(labels.birads_3)}. "
    if labels.auxiliary:
        text += f"Auxiliary tasks: {and_list(list(labels.auxiliary))}. "
    seed = f", seed {splits.seed}" if splits.scheme in ("fractions", "folds") else ""
    text += f"Data were split {SCHEMES[splits.scheme]} and by {splits.unit}{seed}"
    if data.manifest is None:
        return f"{text}. No patient is on two sides of a split."
    used = data.manifest[usable_rows(data.manifest)]
    parts = and_list([_of_split(used, split, names) for split in SPLITS])
    return f"{text}: {parts}. No patient is on two sides of a split."


def _treated(how: str) -> str:
    return "left out" if how == "drop" else f"taken as {how}"


def _of_split(used: pd.DataFrame, split: str, names: list[str]) -> str:
    rows = used[used["split"] == split]
    by_class = ", ".join(f"{int((rows['label'] == label).sum()):,} {name}" for label, name in enumerate(names))
    return f"{SPLIT_NAMES[split]} {_images(len(rows))} of {_patients(rows['patient_id'].nunique())} ({by_class})"


def _preprocessing(config: StudyConfig) -> str:
    data = config.data
    height, width = data.image_hw
    crop = "cropped to the breast with a margin" if data.crop == "breast" else "not cropped"
    flip = ", mirrored so that all breasts point the same way" if data.flip else ""
    lut = "the VOI look-up table was applied" if data.lut == "voi" else "no VOI look-up table was applied"
    colours = "grey" if data.colour == "grey" else "colour"
    text = (
        f"MONOCHROME1 images were inverted and {lut}. Images were {crop}{flip}, {SCALINGS[data.scaling]} {height} "
        f"x {width} "
        f"pixels, and stored in {data.bits}-bit {colours}. "
    )
    if data.colour == "grey":
        return f"{text}Intensities from 0 to 1 were standardised with mean {GREY_MEAN} and SD {GREY_SD}."
    return f"{text}Intensities from 0 to 1 were standardised with the means and SDs of ImageNet."


def _augmentation(config: StudyConfig) -> str:
    spec = SPECS.get(config.augment.policy)
    steps = _steps(spec) if spec is not None else []
    if not steps:
        return "Training images were not augmented."
    return f"Training images were augmented by: {'; '.join(steps)} (policy {config.augment.policy!r})."


def _steps(spec: Spec) -> list[str]:
    """Every step that can happen, with its probability and range."""
    steps = [f"turns by multiples of 90 degrees (p {spec.turn:g})"] if spec.turn else []
    steps += [f"horizontal flips (p {spec.flip_x:g})"] if spec.flip_x else []
    steps += [f"vertical flips (p {spec.flip_y:g})"] if spec.flip_y else []
    for move in (spec.move, getattr(spec, "zoom", None)):
        if move is not None and move.p:
            shift = f"shifts up to {move.shift:.2%} of each side, " if move.shift else ""
            zoom = f"zoom {move.zoom[0]:g} to {move.zoom[1]:g}, " if move.zoom != (1.0, 1.0) else ""
            turn = f"rotation up to {move.rotate:g} degrees, " if move.rotate else ""
            steps.append(f"affine changes ({shift}{zoom}{turn}p {move.p:g})")
    ranges = {"lens": "optical distortion", "grid": "grid distortion", "clahe": "CLAHE, clip limit", "gamma": "gamma"}
    ranges["gain"] = "sigmoid contrast, gain"
    for name, words in ranges.items():
        found = getattr(spec, name, None)
        if found is not None and found.p:
            steps.append(f"{words} {found.low:g} to {found.high:g} (p {found.p:g})")
    steps += _levels(spec)
    steps += [f"{PIXEL_DROPOUT_RATE:.0%} of the pixels dropped (p {spec.dropout:g})"] if spec.dropout else []
    steps += [f"grid holes, ratio {spec.holes_ratio:g} (p {spec.holes:g})"] if spec.holes else []
    return steps


def _levels(spec: Spec) -> list[str]:
    steps = []
    if spec.contrast is not None and spec.contrast.p:
        part = spec.contrast
        steps.append(f"brightness ±{part.brightness:g} and contrast ±{part.contrast:g} (p {part.p:g})")
    if spec.sharpening is not None and spec.sharpening.p:
        low, high = spec.sharpening.alpha
        steps.append(f"sharpening, strength {low:g} to {high:g} (p {spec.sharpening.p:g})")
    return steps
