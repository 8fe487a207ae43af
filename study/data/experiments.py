"""Label experiments: leave out, synthesise or flip labels, chosen by hashes so that no order of rows matters.

The functions change three columns of a table in place: a task's class index, ``<task>_origin`` and nothing else.
"""

import hashlib
import math
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from study.data.tasks import BIRADS, CLASSES, SUB_GRADES, check_word
from study.errors import InputError

# Paper multitask, section 3.3.5: grades 1 and 2 are benign, 4 and 5 malignant, 3 is ignored; 6 is proven by biopsy.
_BY_GRADE: Final = {
    "1": "benign",
    "2": "benign",
    **dict.fromkeys(("4", "4a", "4b", "4c", "5", "6"), "malignant"),
}
SYNTHESIS: Final[Mapping[str, Mapping[str, Mapping[str, str]]]] = {
    "binary": {
        "acr": {name: _BY_GRADE[name[4:]] for name in CLASSES["acr"] if name[4:] in _BY_GRADE},
        "birads": {name: _BY_GRADE[name[7:]] for name in (*BIRADS, *SUB_GRADES) if name[7:] in _BY_GRADE},
        "birads3": {"normal": "benign", "benign": "benign", "malignant": "malignant"},
    },
}


def leave_out(table: pd.DataFrame, task: str, *, column: str, among: pd.Series, fraction: float, seed: int) -> pd.Index:
    """Remove a share of a task's labels among some rows; a larger share removes the same and more. Returns the rows.

    Raises:
        InputError: the share is outside 0 to 1.
    """
    chosen = _chosen(table, among & table[column].notna(), fraction=fraction, purpose=f"leave_out {task}", seed=seed)
    table.loc[chosen, column] = pd.NA
    table.loc[chosen, f"{task}_origin"] = "left_out"
    return chosen


def made_from(task: str, other: str, names: pd.Series) -> pd.Series:
    """Class index (Int64) of a task as it follows from another task's class by name; <NA> where nothing follows.

    Raises:
        InputError: the task cannot be made from the other.
    """
    check_word(task, tuple(SYNTHESIS), place="a task of labels.synthesise")
    check_word(other, tuple(SYNTHESIS[task]), place=f"labels.synthesise.{task}")
    indices = {name: CLASSES[task].index(meaning) for name, meaning in SYNTHESIS[task][other].items()}
    return names.map(indices).astype("Int64")


def synthesise(table: pd.DataFrame, task: str, *, column: str, among: pd.Series, made: pd.Series) -> pd.Index:
    """Give images without a label of a task the one of ``made``, where there is one; returns the rows."""
    chosen = table.index[among & table[column].isna() & made.notna()]
    table.loc[chosen, column] = made[chosen]
    table.loc[chosen, f"{task}_origin"] = "synthetic"
    return chosen


def flip(
    table: pd.DataFrame,
    task: str,
    *,
    column: str,
    among: pd.Series,
    fraction: float,
    num_classes: int,
    seed: int,
) -> pd.Index:
    """Turn a share of a task's labels into another class, each other class as likely; returns the rows.

    Raises:
        InputError: the share is outside 0 to 1.
    """
    chosen = _chosen(table, among & table[column].notna(), fraction=fraction, purpose=f"flip {task}", seed=seed)
    drawn = np.array([int(text, 16) for text in _hashes(table.loc[chosen], f"flip {task} to", seed=seed)], dtype=object)
    steps = 1 + (drawn % max(num_classes - 1, 1)).astype(np.int64)
    table.loc[chosen, column] = (table.loc[chosen, column].to_numpy(dtype=np.int64) + steps) % num_classes
    table.loc[chosen, f"{task}_origin"] = "flipped"
    return chosen


def _chosen(table: pd.DataFrame, among: pd.Series, *, fraction: float, purpose: str, seed: int) -> pd.Index:
    """The share of the rows whose hashes come first, rounded to the nearest number of rows."""
    if not 0 <= fraction <= 1:
        raise InputError(
            f"labels.{purpose.replace(' ', '.')} is {fraction:g}; expected a share from 0 to 1", "correct the share"
        )
    rows = table[among]
    count = math.floor(fraction * len(rows) + 0.5)
    if count == 0:
        return rows.index[:0]
    order = np.argsort(_hashes(rows, purpose, seed=seed), kind="stable")
    return rows.index[order[:count]]


def _hashes(rows: pd.DataFrame, purpose: str, *, seed: int) -> npt.NDArray[np.object_]:
    """Hexadecimal digits for each image of a table, the same wherever the image stands."""
    texts = zip(rows["source"].astype("str"), rows["image_id"].astype("str"), strict=True)
    digits = [
        hashlib.blake2b(f"{seed}\0{purpose}\0{source}\0{image}".encode(), digest_size=16).hexdigest()
        for source, image in texts
    ]
    return np.array(digits, dtype=object)
