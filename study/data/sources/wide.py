"""Wide published tables: a few columns of many rows, read fast and as text; codes understood word by word."""

import csv
import gzip
import io
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
from pandas.api.typing import SeriesGroupBy

from study.data.files import open_file, shown
from study.errors import InputError

HEADER_BYTES: Final = 1 << 16  # the widest published header has about 150 names
EXACT_INTEGERS: Final = 2**53  # above it a number that went through a float may have become its neighbour
FRACTION: Final = r"\d+\.\d*|\d+(?:\.\d*)?[eE][+-]?\d+"


def read_wide_table(place: str | Path, *, needed: Collection[str], optional: Collection[str] = ()) -> pd.DataFrame:
    """Some columns of a comma-separated table, plain or gzipped; stripped text, the empty text for missing.

    Arrow parses with all cores and keeps only the wanted columns: half a million rows of 150 columns take seconds and
    a few hundred MB. Cells may hold line breaks.

    Args:
        place: a local path or a URI; a name that ends in ``.gz`` is unpacked on the way.
        needed: columns that must be there.
        optional: columns to read where they are there.

    Raises:
        InputError: a needed column is missing, there are no rows, or the file is no such table.
    """
    names = _header(place)
    missing = [column for column in needed if column not in names]
    if missing:
        raise InputError(
            f"{shown(place)}: column {', '.join(missing)} is missing; found {len(names)} others",
            "give the published table unchanged",
        )
    wanted = [*needed, *(column for column in optional if column in names)]
    table = _parse(place, wanted)
    if table.num_rows == 0:
        raise InputError(f"{shown(place)} has no rows", "fetch the table again")
    columns = {name: pa.compute.utf8_trim_whitespace(table[name]) for name in wanted}
    return pd.DataFrame({name: column.to_pandas() for name, column in columns.items()}, dtype="str")


def words_of(cells: pd.Series, words: Mapping[str, str | None], *, allowed: str, table: str | Path) -> pd.Series:
    """The meaning of each cell of a column of codes; a word that means nothing, and the empty cell, become NaN.

    Raises:
        InputError: a cell that is none of the words, with its column and data row (the first is row 1).
    """
    meanings: dict[str, str | None] = {"": None, **words}
    for text in cells.unique():
        if text not in meanings:
            row = 1 + int((cells == text).to_numpy().argmax())
            raise InputError(
                f"{shown(table)}: column {cells.name}, data row {row}: {text[:40]!r}; expected {allowed}",
                "correct the cell, or fetch the published table again",
            )
    return cells.map(meanings).astype("str")


def id_texts(cells: pd.Series, *, table: str | Path) -> pd.Series:
    """Ids as they were issued: a fraction part that some program added to whole numbers is taken off.

    Raises:
        InputError: a number beyond 2**53, or in powers of ten, that was stored as a fraction: digits are lost.
    """
    fractions = cells.str.fullmatch(FRACTION).fillna(False)
    if not fractions.any():
        return cells
    whole = cells[fractions].str.replace(r"\.0*$", "", regex=True)
    lost = ~whole.str.fullmatch(r"\d+") | (pd.to_numeric(whole, errors="coerce") >= EXACT_INTEGERS)
    if lost.any():
        row = 1 + int(lost.index[int(lost.to_numpy().argmax())])
        raise InputError(
            f"{shown(table)}: column {cells.name}, data row {row}: an id stored as a fraction has lost digits",
            "use the published table, or store ids as text",
        )
    return cells.mask(fractions, whole.reindex(cells.index))


def agreed(groups: "SeriesGroupBy[Any, Any]") -> pd.Series:
    """The value that all filled rows of a group share; missing where they differ or none is filled."""
    first, last = groups.min(), groups.max()
    return first.mask(first != last)


def _header(place: str | Path) -> list[str]:
    with _opened(place) as file:
        text = file.read(HEADER_BYTES).decode("utf-8-sig", errors="replace")
    return next(csv.reader(io.StringIO(text)), [])


def _parse(place: str | Path, wanted: list[str]) -> pa.Table:
    convert = pa.csv.ConvertOptions(
        include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string()), strings_can_be_null=False
    )
    parse = pa.csv.ParseOptions(newlines_in_values=True)
    with _opened(place) as file:
        return pa.csv.read_csv(file, parse_options=parse, convert_options=convert)


@contextmanager
def _opened(place: str | Path) -> Iterator[BinaryIO]:
    """The table's bytes, unpacked; whatever fails on the way is told without the row that Arrow would quote."""
    try:
        with open_file(place) as file:
            is_packed = str(place).partition("?")[0].lower().endswith(".gz")
            yield cast("BinaryIO", gzip.GzipFile(fileobj=file)) if is_packed else file
    except (pa.ArrowException, OSError, EOFError, zlib.error, csv.Error):
        raise InputError(f"{shown(place)} is not a whole CSV table in UTF-8", "fetch the table again") from None
