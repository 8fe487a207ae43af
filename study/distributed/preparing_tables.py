"""What has to be prepared and what is there already: tables and file dates only, no pixels, no Ray."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from study.config import DataConfig
from study.data.files import file_state
from study.data.identity import hash_ids, load_or_make_key
from study.data.labels import add_segments
from study.data.manifest import MANIFEST_COLUMNS
from study.data.prepare import PrepareSettings
from study.distributed.preparing_manifest import manifest_for, needed_rows

PIXEL_VERSION: Final = 1  # goes up when the same file and settings give other pixels
MISSING_FILE: Final = "the file is missing"
HEADER_TEXT: Final = ("laterality", "view", "manufacturer", "model", "photometric", "transfer_syntax", "image_kind")
HEADER_NUMBERS: Final = ("rows", "cols", "bits_stored")
HEADER_COLUMNS: Final = (*HEADER_TEXT, *HEADER_NUMBERS)
PLACE_COLUMNS: Final = ("shard", "shard_row", "pixel_crc32")
BOX_COLUMNS: Final = (
    *("box_left", "box_top", "box_right", "box_bottom", "scale_x", "scale_y", "pad_left", "pad_top"),
    *("flipped", "is_cropped"),
)
RESULT_COLUMNS: Final = ("file_key", *PLACE_COLUMNS, *HEADER_COLUMNS, *BOX_COLUMNS, "stage", "reason")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where a prepared dataset lies: the final folder, the one it is made in, and the key of its ids beside them."""

    root: Path
    staging: Path
    key_path: Path


def layout_of(data: DataConfig) -> Layout:
    """Folders of ``data.prepared``; the key stays outside of the dataset, so that it is not copied along."""
    root = Path(data.prepared).absolute()
    return Layout(root=root, staging=Path(f"{root}.partial"), key_path=Path(f"{root}.key"))


def image_settings(data: DataConfig) -> dict[str, Any]:
    """All that the pixels of a file depend on besides the file."""
    made = prepare_settings({"image_size": data.image_size, "crop": data.crop, "flip": data.flip})
    return {
        "image_size": made.image_size,
        "crop": made.crop,
        "margin": made.margin,
        "flip": made.flip,
        "version": PIXEL_VERSION,
    }


def prepare_settings(image: Mapping[str, Any]) -> PrepareSettings:
    """The settings of the image function from their plain values."""
    options = {name: image[name] for name in ("image_size", "crop", "margin", "flip") if name in image}
    return PrepareSettings(**options)


def keyed_manifest(data: DataConfig, key: bytes) -> pd.DataFrame:
    """The manifest with column ``file_key``: a keyed hash of path, size and time of change (and side) of each file.

    Raises:
        InputError: as :func:`manifest_for`.
    """
    manifest = manifest_for(data)
    keys, exists = [], []
    for path, side in zip(manifest["path"], manifest["laterality"].fillna(""), strict=True):
        size, changed = file_state(str(path))
        text = f"{path}\0{size}\0{changed}\0{side}".encode()
        keys.append(hashlib.blake2b(text, key=key, digest_size=16).hexdigest())
        exists.append(size >= 0)
    return manifest.assign(file_key=keys, file_exists=exists)


def request_digest(data: DataConfig, manifest: pd.DataFrame, key: bytes) -> str:
    """Keyed hash of all that decides what the dataset will hold; an equal one means that nothing has changed."""
    columns = sorted(set(manifest.columns) - {"path", "file_exists"})
    rows = pd.util.hash_pandas_object(manifest[columns].astype("str"), index=False).to_numpy()
    settings = json.dumps(public_settings(data), sort_keys=True)
    return hashlib.blake2b(settings.encode() + rows.tobytes(), key=key, digest_size=16).hexdigest()


def public_settings(data: DataConfig) -> dict[str, Any]:
    """The settings that are written into the dataset: nothing that names a file or a folder."""
    labels, splits = data.labels, data.splits
    return {
        "image": image_settings(data),
        "sources": [{"kind": source.kind, "name": source.name} for source in data.sources],
        "labels": {"task": labels.task, "birads_0": labels.birads_0, "birads_3": labels.birads_3},
        "segments": list(data.segments),
        "splits": {"val": splits.val.fraction, "test": splits.test.fraction, "seed": splits.seed},
    }


def cleaned_manifest(manifest: pd.DataFrame, results: pd.DataFrame, *, data: DataConfig, key: bytes) -> pd.DataFrame:
    """The manifest as it is written: hashed ids, no path, places of the pixels, facts of the headers.

    Facts that a source's table does not give are taken from the image file's header (device, view, size); a segment
    made of them is named again.
    """
    by_file = results.drop_duplicates("file_key").set_index("file_key").reindex(manifest["file_key"])
    by_file.index = manifest.index
    filled = manifest.copy()
    for column in HEADER_TEXT:
        filled[column] = filled[column].fillna(by_file[column].astype("str").mask(by_file[column] == ""))
    for column in HEADER_NUMBERS:
        filled[column] = filled[column].fillna(by_file[column].astype("float64"))
    filled = hash_ids(add_segments(filled, list(data.segments)), key)
    wanted = [name for name in MANIFEST_COLUMNS if name != "path"]
    task = data.labels.task
    extra = [name for name in ("segment", "label", task, f"{task}_uncertainty", "split") if name in filled]
    clean = filled[[*wanted, *extra, "file_key"]].copy()
    is_good = needed_rows(manifest) & (by_file["shard"].fillna("") != "")
    clean["shard"] = by_file["shard"].where(is_good).astype("str")
    for column in ("shard_row", "pixel_crc32"):
        clean[column] = by_file[column].where(is_good).astype("Int64")
    for column in BOX_COLUMNS:
        clean[column] = by_file[column].where(is_good).astype("float64")
    reason = by_file["reason"].where(needed_rows(manifest), "").fillna("")
    clean["drop_reason"] = clean["drop_reason"].mask(reason != "", "quarantine: " + reason)
    return clean.reset_index(drop=True)


def key_of(layout: Layout, *, make: bool) -> bytes | None:
    """The key of the hashes; ``None`` if there is none yet and none may be made.

    Raises:
        StudyError: the key file cannot be read or written.
    """
    if not make and not layout.key_path.is_file():
        return None
    layout.key_path.parent.mkdir(parents=True, exist_ok=True)
    return load_or_make_key(layout.key_path)
