"""Cells of source tables: read as text, understood column by column, refused with file, row, found and expected."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final

import pandas as pd
import pyarrow.lib
import pyarrow.parquet

from study.data.files import is_file, open_file, shown
from study.data.manifest import CLASSES3
from study.errors import InputError

OTHER_VIEWS: Final = ("ML", "LM", "LMO", "XCCL", "XCCM", "SIO", "ISO", "FB", "AT", "CV", "TAN", "OTHER")
DENSITIES: Final[Mapping[str, str]] = {
    key: letter
    for number, letter in zip("1234", "ABCD", strict=True)
    for key in (letter, number, f"{number}.0", f"DENSITY {letter}")
}
SIDES: Final[Mapping[str, str]] = {"L": "L", "LEFT": "L", "R": "R", "RIGHT": "R"}
VIEWS: Final[Mapping[str, str]] = {"CC": "CC", "MLO": "MLO", **dict.fromkeys(OTHER_VIEWS, "other")}
LABELS: Final[Mapping[str, str]] = {
    key: name for number, name in enumerate(CLASSES3) for key in (name.upper(), str(number), f"{number}.0")
}
BIRADS: Final[Mapping[str, str]] = {
    key: text
    for text in ("0", "1", "2", "3", "4", "4A", "4B", "4C", "5", "6")
    for key in (text, f"{text}.0", f"BI-RADS {text}", f"BIRADS {text}")
}
KINDS: Final[Mapping[str, str]] = {"FFDM": "FFDM", "2D": "FFDM", "CVIEW": "cview", "FILM": "film"}
FLAGS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("1", "1.0", "TRUE", "YES"), "1"),
    **dict.fromkeys(("0", "0.0", "FALSE", "NO"), "0"),
}
WORDS: Final[Mapping[str, tuple[Mapping[str, str], str]]] = {
    "laterality": (SIDES, "L, R, left or right"),
    "view": (VIEWS, f"CC, MLO, or one of {', '.join(OTHER_VIEWS)}"),
    "label3": (LABELS, f"{', '.join(CLASSES3)}, or 0, 1, 2"),
    "birads": (BIRADS, "0 to 6, 4a, 4b, 4c, or 'BI-RADS 4'"),
    "biopsy": ({"BENIGN": "benign", "MALIGNANT": "malignant"}, "benign or malignant"),
    "density": (DENSITIES, "A, B, C, D, or 1 to 4"),
    "image_kind": (KINDS, "FFDM, cview or film"),
    "spot_mag": (FLAGS, "1, 0, true, false, yes or no"),
    "implant": (FLAGS, "1, 0, true, false, yes or no"),
}
AMOUNTS: Final = ("age", "rows", "cols", "bits_stored", "n_findings", "file_bytes")
CORRECT_CELL: Final = "correct the cell, or empty it if nobody knows the value"
MOST_NAMED: Final = 40  # columns that a message names
LONGEST_NAME: Final = 40
HEADER_BYTES: Final = 65_536  # of a CSV table, more than the longest header line of the published ones


def read_text_table(place: str | Path) -> pd.DataFrame:
    """Read a CSV (comma or semicolon) or Parquet file, every cell as stripped text and the empty text for missing.

    Raises:
        InputError: no such file, not such a table, no rows, or ids stored as fractions.
    """
    name = shown(place)
    if not is_file(place):
        raise InputError(f"no table at {name}", "check the root and the table name of this source")
    read = _parquet if name.lower().endswith((".parquet", ".pq")) else _csv
    with open_file(place) as file:
        frame = read(file, name)
    if frame.empty:
        raise InputError(f"{name} has no rows", "give a table with one row per image")
    frame.columns = pd.Index([str(column).strip() for column in frame.columns])
    if not frame.columns.is_unique:
        raise InputError(f"{name}: a column name occurs twice", "keep one of them")
    return pd.DataFrame({column: frame[column].str.strip() for column in frame.columns})


def parts_of(place: str | Path) -> tuple[str, ...]:
    """Folders and file name of a local path or URI, without a URI's query."""
    return PurePosixPath(shown(place)).parts


def need_columns(frame: pd.DataFrame, columns: Iterable[str], *, table: str | Path) -> None:
    """Refuse a table that lacks columns.

    Raises:
        InputError: with the missing and the found columns.
    """
    columns = tuple(columns)
    missing = [column for column in columns if column not in frame]
    if missing:
        raise InputError(
            f"{shown(table)}: column {', '.join(missing)} is missing; found {columns_found(frame, columns)}",
            "give the whole table, with its column names unchanged",
        )


def columns_found(frame: pd.DataFrame, known: Iterable[str]) -> str:
    """The columns of a table for a message, the first of many; only their number where none of them is known.

    Such a table may have no header, and its first line is a patient's then.
    """
    names = [str(column) for column in frame.columns]
    if not set(names) & set(known):
        return f"{len(names)} others, none of which is known: is there a header line?"
    listed = ", ".join(name[:LONGEST_NAME] for name in names[:MOST_NAMED])
    return listed + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")


def take(frame: pd.DataFrame, columns: Mapping[str, str], *, table: str | Path) -> pd.DataFrame:
    """Some columns of a published table under the manifest's names, understood; the others are left out.

    Args:
        frame: the table as `read_text_table` gives it.
        columns: the table's name of each needed column, and the manifest's.
        table: where it was read, for messages.

    Raises:
        InputError: a column that is missing, or a cell that is none of the allowed values.
    """
    need_columns(frame, columns, table=table)
    known = frame[list(columns)].rename(columns=dict(columns))
    return understand(known, table=table, names={new: old for old, new in columns.items()})


def understand(frame: pd.DataFrame, *, table: str | Path, names: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Bring the cells of known columns to the manifest's words and numbers; ``birads`` also gives ``birads_sub``.

    The text as found stays in ``raw_view`` and ``raw_birads``.

    Args:
        frame: text cells, empty for missing, under the manifest's column names.
        table: where they were read, for messages.
        names: what the table calls a column, where its name differs.

    Raises:
        InputError: a cell that is none of the allowed values, with its column and data row (the first is row 1).
    """
    known = frame.copy()
    called = {column: f"{shown(table)}: column {(names or {}).get(column, column)}" for column in frame.columns}
    for column, (words, allowed) in WORDS.items():
        if column in frame:
            known[column] = _map_cells(frame[column], words.get, allowed=allowed, called=called[column])
    for column in AMOUNTS:
        if column in frame:
            amounts = _map_cells(frame[column], _amount, allowed="a number from 0", called=called[column])
            known[column] = pd.to_numeric(amounts)
    for column in ("view", "birads"):
        if column in frame:
            known[f"raw_{column}"] = frame[column]
    if "birads" in frame:
        known["birads_sub"] = known["birads"].str[1:].str.lower()
        known["birads"] = pd.to_numeric(known["birads"].str[:1])
    for column in ("spot_mag", "implant"):
        if column in frame:
            known[column] = pd.to_numeric(known[column])
    return known


def _map_cells(cells: pd.Series, meaning: Callable[[str], str | None], *, allowed: str, called: str) -> pd.Series:
    """Replace each distinct text by its meaning; missing stays missing (NaN)."""
    meanings: dict[str, str | None] = {"": None}
    for text in cells.unique():
        if text == "":
            continue
        meanings[text] = meaning(" ".join(text.upper().split()))
        if meanings[text] is None:
            row = 1 + int((cells == text).to_numpy().argmax())
            raise InputError(f"{called}, data row {row}: {text[:40]!r}; expected {allowed}", CORRECT_CELL)
    return cells.map(meanings).astype("str")


def _amount(text: str) -> str | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return text if 0 <= value < float("inf") else None


def _csv(file: BinaryIO, name: str) -> pd.DataFrame:
    header = file.read(HEADER_BYTES).partition(b"\n")[0]
    file.seek(0)
    separator = ";" if header.count(b";") > header.count(b",") else ","
    try:
        frame = pd.read_csv(
            file, sep=separator, dtype="str", keep_default_na=False, na_filter=False, encoding="utf-8-sig"
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        kind = "is empty" if isinstance(error, pd.errors.EmptyDataError) else "is not a UTF-8 CSV table"
        raise InputError(f"{name} {kind}", "save it as CSV (UTF-8) with a header line, or as Parquet") from None
    if not isinstance(frame.index, pd.RangeIndex):  # pandas takes the first cells for row names then
        raise InputError(f"{name}: rows have more cells than the header", "quote cells that hold a separator")
    return frame


def _parquet(file: BinaryIO, name: str) -> pd.DataFrame:
    """Cells as text; a fraction in an id column means that long ids have lost digits already."""
    try:
        found = pyarrow.parquet.read_table(file).replace_schema_metadata(None)  # pandas would trust its notes
    except (pyarrow.lib.ArrowException, OSError):
        raise InputError(f"{name} is not a Parquet table", "write it again") from None
    if len(set(found.column_names)) < len(found.column_names):
        raise InputError(f"{name}: a column name occurs twice", "keep one of them")
    frame = found.to_pandas(integer_object_nulls=True)
    for column in frame.columns:
        if str(column).endswith("_id") and pd.api.types.is_float_dtype(frame[column]):
            raise InputError(f"{name}: column {column} holds fractions; expected text", "store ids as text")
    return pd.DataFrame({column: frame[column].astype("str").fillna("") for column in frame.columns})
