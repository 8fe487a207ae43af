"""From source truth to class index: which assessment means which class, and which rows have none."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final, Literal

import numpy as np
import pandas as pd

from study.data.manifest import CLASSES3
from study.errors import InputError

Policy = Literal["drop", "normal", "benign", "malignant"]
POLICIES: Final = ("drop", *CLASSES3)
UNSAFE: Final = re.compile(r"[^A-Za-z0-9_-]")
NOT_EXCLUDED: Final = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelPolicy:
    """Meaning of each BI-RADS assessment for one task; ``drop`` where it has none.

    ``classes`` are in order of grade; ``meanings`` maps 0 to 6 to a class or to ``drop``.
    """

    classes: tuple[str, ...]
    meanings: Mapping[int, str]


TASKS: Final[Mapping[str, LabelPolicy]] = {
    "birads3": LabelPolicy(
        classes=CLASSES3,
        meanings={0: "drop", 1: "normal", 2: "benign", 3: "drop", 4: "malignant", 5: "malignant", 6: "malignant"},
    ),
}


def class_names(task: str = "birads3") -> tuple[str, ...]:
    """Names of a task's classes, in order of grade.

    Raises:
        InputError: an unknown task.
    """
    return _policy(task).classes


def apply_labels(
    manifest: pd.DataFrame, *, task: str = "birads3", birads_0: Policy = "drop", birads_3: Policy = "drop"
) -> pd.DataFrame:
    """Add ``label`` (Int64 class index, <NA> where dropped) and a ``drop_reason`` for each row without one.

    A row's own class (``label3``: pathology, or a reader's word) wins over its assessment. BI-RADS 0 (incomplete) and 3
    (probably benign) follow the two policies; all others the task's table. A reason the source gave stays.

    Raises:
        InputError: an unknown task or policy, or an assessment outside 0 .. 6.
    """
    table = _policy(task)
    for key, value in (("birads_0", birads_0), ("birads_3", birads_3)):
        if value not in POLICIES:
            raise InputError(f"labels.{key} is {value!r}; expected {', '.join(POLICIES)}{_near(value, POLICIES)}")
    meanings = {**table.meanings, 0: birads_0, 3: birads_3}
    unknown = manifest["birads"].dropna()[lambda grades: ~grades.isin(list(meanings))]
    if len(unknown):
        raise InputError(f"{len(unknown)} rows have a BI-RADS assessment outside 0 to 6, such as {unknown.iloc[0]:g}")
    assessed = manifest["birads"].map({float(grade): meaning for grade, meaning in meanings.items()}).astype("str")
    meaning = manifest["label3"].fillna(assessed)
    reason = manifest["drop_reason"].fillna(NOT_EXCLUDED).astype("str")
    grade_text = manifest["birads"].map(lambda grade: f"BI-RADS {grade:g} is dropped", na_action="ignore").astype("str")
    reason = reason.mask((reason == NOT_EXCLUDED) & meaning.isna(), "no label")
    reason = reason.mask((reason == NOT_EXCLUDED) & (meaning == "drop"), grade_text)
    indices = {name: index for index, name in enumerate(table.classes)}
    label = meaning.map(indices).astype("Int64").mask(reason != NOT_EXCLUDED)
    return manifest.assign(label=label, drop_reason=reason)


def add_segments(manifest: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Add ``segment``: the values of the columns joined by a dot, safe for a metric's name.

    Every character but letters, digits, ``_`` and ``-`` becomes ``_``; a missing value becomes ``unknown``; without
    columns there is one segment, ``all``.

    Raises:
        InputError: a column that the manifest does not have.
    """
    for column in columns:
        if column not in manifest:
            known = [str(name) for name in manifest.columns]
            raise InputError(f"segments name a column {column!r} that is not there{_near(column, known)}")
    if not columns:
        return manifest.assign(segment=pd.Series("all", index=manifest.index, dtype="str"))
    parts = [[_safe(value) for value in manifest[column]] for column in columns]
    joined = [".".join(values) for values in zip(*parts, strict=True)]
    return manifest.assign(segment=pd.Series(np.asarray(joined, dtype=object), index=manifest.index).astype("str"))


def _safe(value: object) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return "unknown"
    text = f"{value:g}" if isinstance(value, float) else str(value).strip()
    return UNSAFE.sub("_", text) or "unknown"


def _policy(task: str) -> LabelPolicy:
    if task not in TASKS:
        raise InputError(f"labels.task is {task!r}; expected {', '.join(TASKS)}{_near(task, list(TASKS))}")
    return TASKS[task]


def _near(word: str, known: Sequence[str]) -> str:
    near = get_close_matches(str(word), known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
