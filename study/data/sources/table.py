"""Any data set that is described by a table with the manifest's column names."""

from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Final

import pandas as pd

from study.data.files import is_file, is_remote, join, shown
from study.data.manifest import ID_COLUMNS, MANIFEST_COLUMNS, finish_manifest
from study.data.sources.boxes import lesion_text, parse_lesions
from study.data.sources.cells import CORRECT_CELL, LONGEST_NAME, columns_found, read_text_table, understand
from study.errors import InputError

ALIASES: Final = {"label": "label3"}
MOST_FAULTS: Final = 10
GIVEN_BY_READER: Final = ("source", "raw_view", "raw_birads", "birads_sub")
FRACTION: Final = r"\d+\.0*|\d+(?:\.\d+)?[eE]\+\d+"  # as spreadsheets and pandas write whole numbers
TRUTH: Final = ("label", "label3", "birads", "biopsy", "density", "class_name")
ALLOWED: Final = tuple(column for column in (*MANIFEST_COLUMNS, *ALIASES) if column not in GIVEN_BY_READER)


def read_table(root: str | Path, *, name: str = "table", table: str) -> pd.DataFrame:
    """Read a CSV or Parquet table of images; ``table`` lies below the root, or where its path or URI leads from here.

    Needed columns: ``path`` (relative to the root, absolute, or a URI), ``patient_id``, and at least one of `TRUTH`.
    ``image_id`` is the file's stem where the column is missing. Other columns of the manifest may be there; any other
    column is refused, so that a misspelt one is not silently ignored.

    Raises:
        InputError: a missing or unknown column, an unknown value with its data row, or an image id that occurs twice.
    """
    table_path = _find_table(root, table)
    frame = read_text_table(table_path)
    _check_columns(frame, table_path)
    names = {meaning: alias for alias, meaning in ALIASES.items() if alias in frame}
    frame = frame.rename(columns=ALIASES)
    for column in ID_COLUMNS:
        if column in frame:
            _check_whole(frame[column], table_path)
    _check_filled(frame, "path", table_path)
    _check_filled(frame, "patient_id", table_path)
    known = understand(frame, table=table_path, names=names)
    if "image_id" not in known:
        known["image_id"] = [PurePosixPath(path).stem for path in known["path"]]
    _check_unique(known["image_id"], table_path)
    if "lesions" in known:
        known["lesions"] = _lesions(known["lesions"], table_path)
    known["path"] = [_image_place(root, path) for path in known["path"]]
    return finish_manifest(known, source=name)


def _find_table(root: str | Path, table: str) -> str:
    """Images often lie where nobody may write, so the table may stand elsewhere."""
    if is_remote(table):
        return table
    inside = join(root, table)
    return inside if is_file(inside) or not is_file(table) else table


def _image_place(root: str | Path, path: str) -> str:
    stands_alone = is_remote(path) or (is_remote(root) and PurePosixPath(path).is_absolute())
    return path if stands_alone else join(root, path)


def _check_columns(frame: pd.DataFrame, table: str) -> None:
    """Refuse a table whose columns cannot all be understood, with everything that is wrong with them."""
    unknown = [str(column) for column in frame.columns if column not in ALLOWED]
    if len(unknown) == len(frame.columns):  # a table without a header has a patient there: nothing of it is repeated
        found = columns_found(frame, ALLOWED)
        raise InputError(f"{shown(table)}: found {found}", f"write a header line; use names of: {', '.join(ALLOWED)}")
    faults = [_unknown(column) for column in unknown[:MOST_FAULTS]]
    faults += [f"{len(unknown) - MOST_FAULTS} more unknown columns"] if len(unknown) > MOST_FAULTS else []
    if {"label", "label3"} <= set(frame.columns):
        faults.append("columns label and label3 mean the same; keep one of them")
    faults += [f"column {column!r} is missing" for column in ("path", "patient_id") if column not in frame]
    if not set(TRUTH) & set(frame.columns):
        faults.append(f"no label: expected one of the columns {', '.join(TRUTH)}")
    if faults:
        found = f"found {columns_found(frame, ALLOWED)}"
        raise InputError(f"{shown(table)}: {'; '.join(faults)}; {found}", f"use names of: {', '.join(ALLOWED)}")


def _unknown(column: str) -> str:
    near = get_close_matches(column.lower(), ALLOWED, n=1, cutoff=0.5)
    return f"unknown column {column[:LONGEST_NAME]!r}" + (f", did you mean {near[0]!r}?" if near else "")


def _lesions(cells: pd.Series, table: str) -> list[str | None]:
    texts: list[str | None] = []
    for row, cell in enumerate(cells, start=1):
        boxes = parse_lesions(cell) if cell else []
        if boxes is None:
            raise InputError(
                f"{shown(table)}: column lesions, data row {row}: {cell[:40]!r}; expected "
                "[[left, top, right, bottom], ...]",
                CORRECT_CELL,
            )
        texts.append(lesion_text(boxes))
    return texts


def _check_filled(frame: pd.DataFrame, column: str, table: str) -> None:
    empty = (frame[column] == "").to_numpy()
    if empty.any():
        row = 1 + int(empty.argmax())
        raise InputError(
            f"{shown(table)}: column {column}, data row {row}: empty; expected a value in every row",
            "fill the cell, or remove the row",
        )


def _check_whole(ids: pd.Series, table: str) -> None:
    """A number that went through a fraction has lost its last digits, or is `17.0` here and `17` in another table."""
    is_fraction = ids.str.fullmatch(FRACTION).to_numpy(dtype=bool)
    if is_fraction.any():
        row = 1 + int(is_fraction.argmax())
        raise InputError(
            f"{shown(table)}: column {ids.name}, data row {row}: an id stored as a fraction, such as 17.0 or 1.7E+15; "
            "expected the id as it was issued",
            "store ids as text",
        )


def _check_unique(image_ids: pd.Series, table: str) -> None:
    repeated = image_ids.duplicated().to_numpy()
    if repeated.any():
        second = int(repeated.argmax())
        first = int((image_ids == image_ids[second]).to_numpy().argmax())
        reason = f"{shown(table)}: data rows {first + 1} and {second + 1} have the same image_id"
        raise InputError(reason, "give every image an image_id of its own")
