"""What each task takes for the truth about an image: from the manifest's columns to class, origin and reason."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Final, Literal

import pandas as pd

from study.data.manifest import CLASSES3, usable_rows
from study.errors import InputError

Treatment = Literal["drop", "normal", "benign", "malignant"]
TREATMENTS: Final = ("drop", *CLASSES3)
DROP: Final = "drop"
BIRADS: Final = tuple(f"birads_{grade}" for grade in range(1, 7))
SUB_GRADES: Final = (*BIRADS[:3], "birads_4a", "birads_4b", "birads_4c", *BIRADS[4:])
CLASSES: Final[Mapping[str, tuple[str, ...]]] = {
    "birads3": CLASSES3,
    "birads": BIRADS,
    "acr": tuple(f"acr_{grade}" for grade in range(1, 7)),
    "binary": ("benign", "malignant"),
    "density": ("A", "B", "C", "D"),
    "view": ("CC", "MLO"),
    "classes": (),
}
UNKNOWN: Final[Mapping[str, str]] = {
    "birads3": "no label",
    "birads": "no BI-RADS assessment",
    "acr": "no BI-RADS assessment",
    "binary": "no biopsy result",
    "density": "no density",
    "view": "no view",
    "classes": "no class name",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSettings:
    """What the study file says of labels; tasks by the names of ``CLASSES``.

    ``uncertainty`` goes by origin; ``leave_out``, ``flip`` and ``synthesise`` go by task and concern training images.
    ``keep_unlabelled`` keeps those of them that have no label.
    """

    task: str = "birads3"
    auxiliary: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    birads_0: Treatment = "drop"
    birads_3: Treatment = "drop"
    birads_sub: bool = False
    binary_truth: Literal["biopsy", "acr"] = "biopsy"
    other_views: Literal["drop", "CC"] = "drop"
    uncertainty: Mapping[str, float] = field(default_factory=dict)
    leave_out: Mapping[str, float] = field(default_factory=dict)
    flip: Mapping[str, float] = field(default_factory=dict)
    synthesise: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    keep_unlabelled: bool = False

    @property
    def tasks(self) -> tuple[str, ...]:
        """The task that decides, then the others."""
        return (self.task, *self.auxiliary)

    @property
    def unknown(self) -> str:
        """Why an image has no label when its source states none."""
        is_read = self.task == "binary" and self.binary_truth == "acr"
        return "no biopsy result, class or assessment" if is_read else UNKNOWN[self.task]


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """Of each image: its class by name (NaN without one), where that is from, and why it was dropped on purpose.

    ``origin`` is reader (what the data set states), biopsy or synthetic; ``dropped`` is empty where nothing was.
    """

    name: pd.Series
    origin: pd.Series
    dropped: pd.Series


def class_names(task: str = "birads3", *, classes: Sequence[str] = (), sub_grades: bool = False) -> tuple[str, ...]:
    """Names of a task's classes, in order of grade; ``classes`` are those of the task of that name.

    Raises:
        InputError: an unknown task.
    """
    check_word(task, tuple(CLASSES), place="labels.task")
    if task == "classes":
        return tuple(classes)
    return SUB_GRADES if task == "birads" and sub_grades else CLASSES[task]


def truth_of(task: str, manifest: pd.DataFrame, settings: LabelSettings) -> Truth:
    """The truth of one task about every image, before anything is left out, flipped or synthesised.

    Raises:
        InputError: an unknown task or setting, an assessment outside 0 to 6, or a class that the settings do not name.
    """
    check_word(task, tuple(CLASSES), place="labels.task")
    for key in ("birads_0", "birads_3"):
        check_word(getattr(settings, key), TREATMENTS, place=f"labels.{key}")
    return _RULES[task](manifest, settings)


def check_word(word: str, known: Sequence[str], *, place: str) -> None:
    """Refuse a word that is not known.

    Raises:
        InputError: with the nearest known word.
    """
    if word not in known:
        raise InputError(f"{place} is {word!r}; expected {', '.join(known)}{near(word, known)}", "correct the word")


def near(word: str, known: Sequence[str]) -> str:
    """``; did you mean 'gamma'?`` when one of the words is near, else nothing."""
    found = get_close_matches(str(word), known, n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def _birads3(manifest: pd.DataFrame, settings: LabelSettings) -> Truth:
    """Paper ordinal, section 2.1: 1 normal, 2 benign, 4 to 6 malignant; a class that the source states wins."""
    assessed = _treated(manifest, settings)
    own = manifest["label3"]
    is_proven = own.notna() & (manifest["biopsy"] == own)
    origin = _text(manifest, "reader").mask(is_proven, "biopsy")
    return _without_dropped(manifest, own.fillna(assessed), origin)


def _binary(manifest: pd.DataFrame, settings: LabelSettings) -> Truth:
    """Paper multitask, section 2.3: pathology; with ``binary_truth`` acr also the source's class, then 3.3.5."""
    proven = manifest["biopsy"].where(manifest["biopsy"].isin(CLASSES["binary"]))
    if settings.binary_truth == "biopsy":
        return Truth(name=proven, origin=_text(manifest, "biopsy"), dropped=_text(manifest, ""))
    own = manifest["label3"].replace("normal", "benign")
    assessed = _treated(manifest, settings).replace("normal", "benign")
    origin = _text(manifest, "synthetic").mask(own.notna(), "reader").mask(proven.notna(), "biopsy")
    return _without_dropped(manifest, proven.fillna(own).fillna(assessed), origin)


def _graded(manifest: pd.DataFrame, settings: LabelSettings, *, prefix: str) -> Truth:
    """Grades 1 to 6; 0 means incomplete and is no grade. With ``birads_sub`` a plain 4 is none of the classes."""
    _check_grades(manifest)
    grades = manifest["birads"].map(lambda grade: f"{prefix}_{grade:g}", na_action="ignore").astype("str")
    reason = _text(manifest, "").mask(manifest["birads"] == 0, "BI-RADS 0 is dropped")
    if settings.birads_sub and prefix == "birads":
        is_four, sub = manifest["birads"] == 4, manifest["birads_sub"].fillna("")
        grades = grades.mask(is_four, grades + sub)
        reason = reason.mask(is_four & (sub == ""), "BI-RADS 4 without a, b or c is dropped")
    return Truth(name=grades.mask(reason != ""), origin=_text(manifest, "reader"), dropped=reason)


def _birads(manifest: pd.DataFrame, settings: LabelSettings) -> Truth:
    return _graded(manifest, settings, prefix="birads")


def _acr(manifest: pd.DataFrame, settings: LabelSettings) -> Truth:
    """Paper multitask, section 2.3: six grades."""
    return _graded(manifest, settings, prefix="acr")


def _density(manifest: pd.DataFrame, settings: LabelSettings) -> Truth:
    del settings
    return Truth(name=manifest["density"], origin=_text(manifest, "reader"), dropped=_text(manifest, ""))


def _view(manifest: pd.DataFrame, settings: LabelSettings) -> Truth:
    """CC and MLO; paper multitask, section 2.3, counts the few other views as CC."""
    meaning = {"CC": "CC", "MLO": "MLO", "other": settings.other_views}
    return _without_dropped(manifest, manifest["view"].map(meaning), _text(manifest, "reader"), what="another view")


def _classes(manifest: pd.DataFrame, settings: LabelSettings) -> Truth:
    """The source's own classes, all of which the settings must name."""
    found = manifest["class_name"]
    unknown = found.notna() & ~found.isin(settings.classes) & usable_rows(manifest)
    if unknown.any():
        place = int(unknown.to_numpy().argmax())
        source, word = manifest["source"].iloc[place], str(found.iloc[place])[:40]
        row = int((manifest["source"].iloc[: place + 1] == source).sum())
        raise InputError(
            f"source {source!r}, data row {row}: class {word!r}; expected {', '.join(settings.classes) or 'none'}"
            f"{near(word, settings.classes)}",
            "name all classes of the data in labels.classes, in order of grade",
        )
    return Truth(name=found, origin=_text(manifest, "reader"), dropped=_text(manifest, ""))


def _treated(manifest: pd.DataFrame, settings: LabelSettings) -> pd.Series:
    """Class of three by assessment; ``drop`` where an assessment has none, NaN where there is no assessment."""
    _check_grades(manifest)
    meanings = {0: settings.birads_0, 1: "normal", 2: "benign", 3: settings.birads_3} | dict.fromkeys(
        (4, 5, 6), "malignant"
    )
    return manifest["birads"].map({float(grade): meaning for grade, meaning in meanings.items()}).astype("str")


def _check_grades(manifest: pd.DataFrame) -> None:
    unknown = manifest["birads"].dropna()[lambda grades: ~grades.isin(range(7))]
    if len(unknown):
        raise InputError(
            f"{len(unknown)} rows have a BI-RADS assessment such as {unknown.iloc[0]:g}; expected 0 to 6",
            "correct the column birads",
        )


def _without_dropped(manifest: pd.DataFrame, name: pd.Series, origin: pd.Series, *, what: str = "") -> Truth:
    """Names that say ``drop`` become a reason: the assessment, or ``what``."""
    is_dropped = name == DROP
    grades = manifest["birads"].map(lambda grade: f"BI-RADS {grade:g}", na_action="ignore").astype("str")
    reason = (_text(manifest, what) if what else grades) + " is dropped"
    return Truth(name=name.mask(is_dropped), origin=origin, dropped=reason.where(is_dropped, ""))


def _text(manifest: pd.DataFrame, word: str) -> pd.Series:
    return pd.Series(word, index=manifest.index, dtype="str")


_RULES: Final[Mapping[str, Callable[[pd.DataFrame, LabelSettings], Truth]]] = {
    "birads3": _birads3,
    "birads": _birads,
    "acr": _acr,
    "binary": _binary,
    "density": _density,
    "view": _view,
    "classes": _classes,
}
