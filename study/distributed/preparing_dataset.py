"""From results of single files to a prepared dataset that appears whole or not at all."""

import hashlib
import io
import json
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from study.config import DataConfig
from study.data.files import copy, join, local_path, write_bytes
from study.data.labels import task_columns
from study.data.shards import CHECKSUM, DATASET_FILE, FORMAT, MANIFEST_FILE, QUARANTINE_FILE, about_checksum
from study.distributed.preparing_manifest import needed_rows
from study.distributed.preparing_store import Layout, clear_work, put_in_place, remove_unlisted
from study.distributed.preparing_tables import (
    MISSING_FILE,
    SHARD_COLUMNS,
    channels_of,
    cleaned_manifest,
    image_settings,
    public_settings,
)
from study.errors import InputError, StudyError

SPLITS = ("train", "val", "test")


def quarantine_table(manifest: pd.DataFrame, results: pd.DataFrame) -> pd.DataFrame:
    """Files that were wanted and cannot be used: file_key, source, stage, reason."""
    wanted = manifest[needed_rows(manifest)].drop_duplicates("file_key")[["file_key", "source", "file_exists"]]
    both = wanted.merge(results[["file_key", "stage", "reason"]].drop_duplicates("file_key"), on="file_key", how="left")
    gone = ~both["file_exists"].astype(bool)
    both["stage"] = both["stage"].mask(gone, "read")
    both["reason"] = both["reason"].mask(gone, MISSING_FILE)
    bad = both[both["reason"].fillna("") != ""]
    return bad[["file_key", "source", "stage", "reason"]].astype("str").reset_index(drop=True)


def check_share(quarantine: pd.DataFrame, wanted: int, *, max_share: float) -> None:
    """Stop when too many files cannot be used.

    Raises:
        StudyError: with the share and a table of the reasons.
    """
    share = len(quarantine) / max(wanted, 1)
    if share <= max_share:
        return
    counts = Counter(zip(quarantine["source"], quarantine["reason"], strict=True))
    lines = [f"  {count:>6}  {source}: {reason}" for (source, reason), count in counts.most_common()]
    found = f"{len(quarantine)} of {wanted} images ({share:.0%}) cannot be used"
    raise StudyError(
        "\n".join([f"{found}; data.max_quarantined allows {max_share:.0%}", *lines]),
        "repair or leave out these files, or raise data.max_quarantined",
    )


def assemble(
    layout: Layout,
    data: DataConfig,
    *,
    manifest: pd.DataFrame,
    results: pd.DataFrame,
    key: bytes,
    request: str,
    encoding: str,
) -> dict[str, Any]:
    """Write the tables, bring the reused shards along, and put the dataset in its place.

    Returns:
        The content of ``dataset.json``.

    Raises:
        StudyError: more files than ``data.max_quarantined`` cannot be used.
        InputError: a split has no usable image.
        OSError: the place cannot be written.
    """
    quarantine = quarantine_table(manifest, results)
    check_share(quarantine, wanted_files(manifest), max_share=data.max_quarantined)
    missing = manifest["file_key"].isin(quarantine.loc[quarantine["reason"] == MISSING_FILE, "file_key"])
    gone = pd.DataFrame({"file_key": manifest.loc[missing, "file_key"].unique(), "reason": MISSING_FILE})
    clean = cleaned_manifest(manifest, pd.concat([gone, results], ignore_index=True), data=data, key=key)
    classes = data.labels.class_names
    counts = count_images(clean, classes)
    _check_splits(counts)
    image = image_settings(data)
    about = {
        "format": FORMAT,
        "classes": list(classes),
        "image_hw": _frame_hw(clean),
        "channels": channels_of(image),
        "bits": image["bits"],
        "encoding": encoding,
        "settings": public_settings(data),
        "counts": counts,
        "fingerprint": fingerprint_of(clean, data),
        "request": request,
        "shards": _collect_shards(layout, results[results["shard"].isin(clean["shard"].dropna())]),
    }
    tables = {MANIFEST_FILE: clean, QUARANTINE_FILE: quarantine}
    return _publish(layout, about, tables)


def wanted_files(manifest: pd.DataFrame) -> int:
    """Number of files whose pixels are wanted."""
    return int(manifest.loc[needed_rows(manifest), "file_key"].nunique())


def _frame_hw(clean: pd.DataFrame) -> list[int]:
    """The frame in which all images have room: theirs, but for widths that follow the content."""
    return [int(clean[column].max()) for column in ("frame_height", "frame_width")]


def _publish(layout: Layout, about: dict[str, Any], tables: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """Write tables and then ``dataset.json``, which makes them count; remove what no longer does."""
    folder = layout.root if layout.is_remote else layout.staging
    written: dict[str, list[Any]] = {}
    for name, table in tables.items():
        sink = io.BytesIO()
        table.to_parquet(sink, index=False)
        content = sink.getvalue()
        stem, _, ending = name.partition(".")
        digest = hashlib.blake2b(content, digest_size=8).hexdigest()
        unique = f"{stem}.{digest}.{ending}" if layout.is_remote else name
        write_bytes(join(folder, unique), content)
        written[name] = [unique, len(content), zlib.crc32(content)]
    about = about | {"tables": written}
    if not layout.is_remote:
        remove_unlisted(layout, keep=set(about["shards"]))
    kept = json.loads(json.dumps(about))
    text = json.dumps(kept | {CHECKSUM: about_checksum(kept)}, indent=1)
    write_bytes(join(folder, DATASET_FILE), text.encode())
    if layout.is_remote:
        remove_unlisted(layout, keep={*about["shards"], *(unique for unique, *_ in written.values())})
        clear_work(layout)
    else:
        put_in_place(layout)
    return about


def count_images(clean: pd.DataFrame, classes: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """Usable images per split and class."""
    usable = clean[clean["shard"].notna()]
    return {
        split: {
            name: int(((usable["split"] == split) & (usable["label"] == label)).sum())
            for label, name in enumerate(classes)
        }
        for split in SPLITS
    }


def _check_splits(counts: Mapping[str, Mapping[str, int]]) -> None:
    empty = [split for split, by_class in counts.items() if sum(by_class.values()) == 0]
    if empty:
        raise InputError(
            f"no usable image for {' and '.join(empty)}; expected at least one in each of {', '.join(SPLITS)}",
            "add patients, or change data.splits",
        )


def fingerprint_of(clean: pd.DataFrame, data: DataConfig) -> str:
    """Hash over the settings and over what training sees of each usable image: place, class, segment, split, pixels."""
    usable = clean[clean["shard"].notna()]
    names = ["source", "segment", "label", "split", "pixel_crc32", *task_columns(data.labels.tasks)]
    columns = usable[names].astype("str")
    rows = pd.util.hash_pandas_object(columns, index=False).to_numpy()
    settings = json.dumps(public_settings(data), sort_keys=True)
    return hashlib.blake2b(settings.encode() + rows.tobytes(), digest_size=16).hexdigest()


def _collect_shards(layout: Layout, used: pd.DataFrame) -> dict[str, list[int]]:
    """Bring all shards that are used to where new ones lie; rows, size and checksum of each by name."""
    found = {}
    for line in used.drop_duplicates("shard").to_dict("records"):
        name = str(line["shard"])
        source, target = join(str(line["folder"]), name), join(layout.shards, name)
        if source != target:
            _bring(local_path(source), local_path(target))
        found[name] = [int(line[column]) for column in SHARD_COLUMNS]
    return found


def _bring(source: Path, target: Path) -> None:
    """A second name for a local shard, or a copy where the file system has no such thing."""
    if target.exists():
        return
    try:
        target.hardlink_to(source)
    except OSError:
        copy(source, target)
