"""Tables that are results: written as a whole, with a checksum of every page that is looked at on reading."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

FAULTS = (OSError, ValueError, KeyError, TypeError, pa.ArrowException)


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table as Parquet; the file is replaced as a whole."""
    partial = path.with_name(f".{path.name}.partial")
    pq.write_table(table, partial, write_page_checksum=True)
    partial.replace(path)


def read_table(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """A table that `write_table` wrote; files of before have no checksums.

    Raises:
        one of ``FAULTS``: the file is missing, cut off, or was changed.
    """
    wanted = None if columns is None else list(columns)
    return pd.read_parquet(path, columns=wanted, engine="pyarrow", page_checksum_verification=True)


def reason(error: BaseException) -> str:
    """What was found of a table that cannot be used, to stand behind its name."""
    if isinstance(error, FileNotFoundError):
        return "cannot be read: the file is missing"
    said = next(iter(str(error).strip().splitlines()), "")
    return f"cannot be read: it is cut off or was changed ({type(error).__name__}: {said[:120]})"
