"""A checksum inside an SQLite file, so that a ledger that rotted is told from one that was written to.

SQLite notices a damaged page only where its own structure breaks; a changed number in a row looks like any other. So
a driver that ends seals the file: the CRC-32 of all of it stands in the header's ``user_version``, and in its
``application_id`` the file's change counter of that moment (https://sqlite.org/fileformat2.html, section 1.3). Whoever
writes later moves the counter and so breaks the seal, which is no damage. A file without a valid seal, as after a kill,
has its structure checked.
"""

import logging
import sqlite3
import struct
import time
import zlib
from contextlib import closing
from pathlib import Path
from typing import Final

from study.errors import StudyError

logger = logging.getLogger(__name__)

MAGIC: Final = b"SQLite format 3\x00"
HEADER: Final = 100
# Change counter, user_version, application_id, version-valid-for with its writer: what sealing itself changes.
FREE: Final = ((24, 28), (60, 64), (68, 72), (92, 100))
UNSEAL: Final = "PRAGMA application_id = 0"  # before writes that need not move the change counter
TRIES: Final = 3
PAUSE_S: Final = 0.1


def seal(path: Path) -> None:
    """Seal a file that nobody writes; one that is sealed already keeps every byte."""
    if not path.is_file() or _has_log(path) or _is_sealed(path.read_bytes()):
        return
    try:
        with closing(sqlite3.connect(path, timeout=1.0, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")  # from here on nobody else writes
            content = path.read_bytes()
            counter = _number(content, 24)
            connection.execute(f"PRAGMA application_id = {_signed(counter + 1)}")
            connection.execute(f"PRAGMA user_version = {_signed(_checksum(content))}")
            connection.execute("COMMIT")
    except sqlite3.Error as error:  # somebody has the file: unsealed, as after a kill
        logger.debug("%s stays unsealed: %s", path, error)


def check_file(path: Path) -> None:
    """Look whether a ledger's file is what its last driver left.

    Raises:
        StudyError: it is no SQLite file, is cut off, was changed, or its structure is broken.
    """
    found = _damage(path)
    for _ in range(TRIES - 1):
        if not found:
            return
        time.sleep(PAUSE_S)  # somebody may have been writing the very moment
        found = _damage(path)
    if not found:
        return
    raise StudyError(
        f"the ledger {path} is damaged: {found}",
        "put back a copy of that file; without one, `sqlite3 FILE .recover` writes out what can still be read",
    )


def _damage(path: Path) -> str:
    content = path.read_bytes()
    if not content:
        return ""  # just made
    if not content.startswith(MAGIC):
        return "it does not begin like an SQLite database"
    if _is_sealed(content) and not _has_log(path):
        return (
            ""
            if _signed(_checksum(content)) == _signed(_number(content, 60))
            else (f"its {len(content)} bytes do not agree with their checksum")
        )
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=60.0)) as connection:
            lines = [str(line) for (line,) in connection.execute("PRAGMA quick_check(1)")]
    except sqlite3.DatabaseError as error:
        return str(error) if "malformed" in str(error) or "not a database" in str(error) else ""
    return "" if lines == ["ok"] else lines[0].replace("\n", " ")


def _has_log(path: Path) -> bool:
    """Whether what is written lies beside the file, in part."""
    return any(path.with_name(path.name + ending).exists() for ending in ("-wal", "-journal"))


def _is_sealed(content: bytes) -> bool:
    return len(content) >= HEADER and _number(content, 24) == _number(content, 68) != 0


def _checksum(content: bytes) -> int:
    first = bytearray(content[:HEADER])
    for start, end in FREE:
        first[start:end] = bytes(end - start)
    return zlib.crc32(memoryview(content)[HEADER:], zlib.crc32(first))


def _number(content: bytes, offset: int) -> int:
    return int(struct.unpack_from(">I", content, offset)[0])


def _signed(number: int) -> int:
    """A number modulo 2^32 as a pragma takes it, -2^31 to 2^31 - 1."""
    return (number + 2**31) % 2**32 - 2**31
