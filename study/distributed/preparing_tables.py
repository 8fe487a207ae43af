"""What has to be prepared: the manifest with a key for each file, and the settings; no pixels, no Ray."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

import pandas as pd

from study.config import DataConfig
from study.data.files import file_states, join, list_files, shown, whole_file, why
from study.data.identity import hash_ids
from study.data.labels import task_columns
from study.data.manifest import MANIFEST_COLUMNS
from study.data.prepare import PrepareSettings
from study.data.segments import add_segments
from study.data.shards import read_about
from study.distributed.preparing_manifest import manifest_for, needed_rows
from study.errors import InputError

PIXEL_VERSION: Final = 2  # goes up when the same file and settings give other pixels
MISSING_FILE: Final = "the file is missing"
MISSING_MASK: Final = "the mask is missing"
HEADER_TEXT: Final = ("laterality", "view", "manufacturer", "model", "photometric", "transfer_syntax", "image_kind")
HEADER_NUMBERS: Final = ("rows", "cols", "bits_stored")
HEADER_COLUMNS: Final = (*HEADER_TEXT, *HEADER_NUMBERS)
PLACE_COLUMNS: Final = ("shard", "shard_row", "pixel_crc32")
BOX_COLUMNS: Final = (
    *("box_left", "box_top", "box_right", "box_bottom", "scale_x", "scale_y", "pad_left", "pad_top"),
    *("flipped", "is_cropped", "frame_height", "frame_width"),
)
RESULT_COLUMNS: Final = ("file_key", *PLACE_COLUMNS, *HEADER_COLUMNS, *BOX_COLUMNS, "stage", "reason")
SHARD_COLUMNS: Final = ("shard_rows", "size_bytes", "crc32")
_SETTINGS: Final = (
    *("image_hw", "scaling", "width_multiple", "bits", "colour", "lut", "crop", "margin", "flip", "reduced"),
)


def image_settings(data: DataConfig) -> dict[str, Any]:
    """All that the pixels of a file depend on besides the file and its mask, as plain values."""
    made = PrepareSettings(
        image_hw=data.image_hw,
        scaling=data.scaling,
        width_multiple=data.width_multiple,
        bits=data.bits,
        colour=data.colour,
        lut=data.lut,
        crop=data.crop,
        flip=data.flip,
        reduced=data.reduced,
    )
    plain = {name: getattr(made, name) for name in _SETTINGS}
    return plain | {"image_hw": list(made.image_hw), "masks": data.masks is not None, "version": PIXEL_VERSION}


def prepare_settings(image: Mapping[str, Any]) -> PrepareSettings:
    """The settings of the image function from their plain values."""
    options = {name: image[name] for name in _SETTINGS}
    height, width = image["image_hw"]
    return PrepareSettings(**options | {"image_hw": (int(height), int(width))})


def channels_of(image: Mapping[str, Any]) -> int:
    """Channels of a stored image: 3 in colour, else 1."""
    return 3 if image["colour"] == "rgb" else 1


def image_bytes(image: Mapping[str, Any]) -> int:
    """Bytes of one framed image."""
    height, width = image["image_hw"]
    return int(height) * int(width) * channels_of(image) * int(image["bits"]) // 8


def keyed_manifest(data: DataConfig, key: bytes) -> pd.DataFrame:
    """The manifest with columns file_key, file_exists and mask.

    ``file_key`` is a keyed hash of path, size and time of change, and of the side that the table names; with masks also
    of the mask's place, size and time. ``mask`` is where the image's mask lies, empty where there is none.

    Raises:
        InputError: as :func:`manifest_for`, or a store does not answer.
    """
    manifest = manifest_for(data)
    paths = [whole_file(str(path)) for path in manifest["path"]]
    masks = _mask_places(data, manifest)
    try:
        states, mask_states = file_states(paths), file_states([mask for mask in masks if mask])
    except OSError as error:
        raise InputError(
            f"the dates of image files cannot be read ({why(error)})", "check network and credentials"
        ) from None
    of_mask = dict(zip((mask for mask in masks if mask), mask_states, strict=True))
    keys = []
    lines = zip(manifest["path"], states, manifest["laterality"].fillna(""), masks, strict=True)
    for path, (size, changed), side, mask in lines:
        text = f"{path}\0{size}\0{changed}\0{side}"
        if data.masks is not None:
            text += f"\0{mask}\0{of_mask.get(mask)}"
        keys.append(hashlib.blake2b(text.encode(), key=key, digest_size=16).hexdigest())
    return manifest.assign(file_key=keys, file_exists=[size >= 0 for size, _ in states], mask=masks)


def _mask_places(data: DataConfig, manifest: pd.DataFrame) -> list[str]:
    """Of each image the place of its mask, ``<masks>/<source>/<image_id>.png`` or ``<masks>/<image_id>.png``."""
    root = data.masks
    if root is None:
        return [""] * len(manifest)
    try:
        there = set(list_files(root, suffixes=(".png",)))
    except InputError as error:
        raise InputError(f"data.masks: no folder at {shown(root)}", "check data.masks") from error
    places = []
    for source, image_id in zip(manifest["source"], manifest["image_id"], strict=True):
        options = (join(root, str(source), f"{image_id}.png"), join(root, f"{image_id}.png"))
        places.append(next((place for place in options if place in there), ""))
    return places


def request_digest(data: DataConfig, manifest: pd.DataFrame, key: bytes) -> str:
    """Keyed hash of all that decides what the dataset will hold; an equal one means that nothing has changed.

    How doubtful labels are is applied when a batch is made, and its change prepares nothing anew; but a flipped label
    may keep the doubt that it had here.
    """
    left_out = {"path", "file_exists", "mask"}
    labels = data.labels.model_dump(mode="json")
    if not any(data.labels.flip.model_dump().values()):
        del labels["uncertainty"]
        left_out |= {f"{task}_uncertainty" for task in data.labels.tasks}
    columns = sorted(set(manifest.columns) - left_out)
    rows = pd.util.hash_pandas_object(manifest[columns].astype("str"), index=False).to_numpy()
    settings = json.dumps(public_settings(data) | {"labels": labels}, sort_keys=True)
    return hashlib.blake2b(settings.encode() + rows.tobytes(), key=key, digest_size=16).hexdigest()


def public_settings(data: DataConfig) -> dict[str, Any]:
    """The settings that are written into the dataset: nothing that names a file or a folder."""
    return {
        "image": image_settings(data),
        "sources": [{"kind": source.kind, "name": source.name} for source in data.sources],
        "labels": data.labels.model_dump(mode="json"),
        "segments": list(data.segments),
        "splits": data.splits.model_dump(mode="json"),
    }


def has_settings(root: str, data: DataConfig) -> bool:
    """Whether a dataset lies there that was made by the settings of a study file, as far as they decide its content."""
    try:
        found = read_about(root).get("settings", {})
    except InputError:
        return False
    wanted = json.loads(json.dumps(public_settings(data)))
    if not any(data.labels.flip.model_dump().values()):
        found, wanted = (
            part | {"labels": {name: value for name, value in part.get("labels", {}).items() if name != "uncertainty"}}
            for part in (found, wanted)
        )
    return bool(found == wanted)


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
    extra = ("segment", "label", *task_columns(data.labels.tasks), "split")
    clean = filled[[*wanted, *(name for name in extra if name in filled), "file_key"]].copy()
    is_good = needed_rows(manifest) & (by_file["shard"].fillna("") != "")
    clean["shard"] = by_file["shard"].where(is_good).astype("str")
    for column in ("shard_row", "pixel_crc32"):
        clean[column] = by_file[column].where(is_good).astype("Int64")
    for column in BOX_COLUMNS:
        clean[column] = by_file[column].where(is_good).astype("float64")
    reason = by_file["reason"].where(needed_rows(manifest), "").fillna("")
    clean["drop_reason"] = clean["drop_reason"].mask(reason != "", "quarantine: " + reason)
    return clean.reset_index(drop=True)
