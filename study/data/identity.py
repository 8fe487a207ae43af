"""Identifiers replaced by keyed hashes: the same patient keeps one name in a data set, and nobody can go back."""

import hashlib
import logging
import os
import secrets
from pathlib import Path
from typing import Final

import pandas as pd

from study.data.manifest import ID_COLUMNS
from study.errors import InputError

logger = logging.getLogger(__name__)

KEY_BYTES: Final = 32
HASH_BYTES: Final = 8
OPTIONAL_COLUMNS: Final = ("exam_id",)
# Image ids are unique inside their source only, so the source is part of what is hashed.
PER_SOURCE: Final = ("image_id",)


def hash_ids(manifest: pd.DataFrame, key: bytes) -> pd.DataFrame:
    """Replace all id columns by 16 hexadecimal digits of keyed BLAKE2b (RFC 7693); missing ids stay missing.

    Equal ids in one column give equal hashes, also across sources (a patient in two tables is one patient), except
    for ``image_id``, which counts within its source. Columns do not share hashes. ``path`` is left as it is: it is
    needed to read the file and must not be written into anything that outlives the reading.

    Raises:
        InputError: the key is not 32 bytes, or two ids met in one hash.
    """
    if len(key) != KEY_BYTES:
        raise InputError(f"the identity key has {len(key)} bytes; expected {KEY_BYTES}", "use load_or_make_key")
    hashed = manifest.copy()
    for column in (*ID_COLUMNS, *OPTIONAL_COLUMNS):
        if column not in manifest:
            continue
        texts = manifest[column].astype("str")
        if column in PER_SOURCE:
            texts = manifest["source"].astype("str") + "\0" + texts
        codes = {text: _hash(text, column, key=key) for text in texts.dropna().unique()}
        if len(set(codes.values())) < len(codes):
            raise InputError(f"two values of {column} have one hash", "delete the key file and prepare again")
        hashed[column] = texts.map(codes).astype("str")
    return hashed


def load_or_make_key(path: str | Path) -> bytes:
    """Read the 32-byte key of a data set, or make one (mode 600) where there is none; safe for several processes.

    Raises:
        InputError: the file is not such a key.
    """
    key_path = Path(path)
    if not key_path.exists():
        _make_key(key_path)
    key = key_path.read_bytes()
    if len(key) != KEY_BYTES:
        raise InputError(
            f"{key_path} holds {len(key)} bytes; expected a key of {KEY_BYTES}",
            "put the right key back, or delete it and prepare again: all ids will change",
        )
    if key_path.stat().st_mode & 0o077:
        logger.warning("the identity key can be read by others; run chmod 600 on it")
    return key


def _make_key(key_path: Path) -> None:
    """Write the whole key under another name and link it, so that nobody reads half a key and the first one wins."""
    key_path.parent.mkdir(parents=True, exist_ok=True)
    part = key_path.with_name(f".{key_path.name}-{secrets.token_hex(8)}")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
        try:
            key_path.hardlink_to(part)
        except FileExistsError:
            return
        except OSError:
            part.replace(key_path)  # a file system without hard links
    finally:
        part.unlink(missing_ok=True)


def _hash(text: str, column: str, *, key: bytes) -> str:
    return hashlib.blake2b(text.encode(), digest_size=HASH_BYTES, key=key, person=column.encode()[:16]).hexdigest()
