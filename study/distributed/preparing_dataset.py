"""From results of single files to a prepared dataset that appears whole or not at all."""

import fcntl
import hashlib
import json
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from study.config import DataConfig
from study.data.labels import class_names
from study.data.shards import DATASET_FILE, FORMAT, MANIFEST_FILE, QUARANTINE_FILE, SHARD_FOLDER
from study.distributed.preparing_manifest import needed_rows
from study.distributed.preparing_results import IMAGE_FILE, RESULT_FOLDER, SHARD_COLUMNS, is_staging_for
from study.distributed.preparing_tables import (
    MISSING_FILE,
    Layout,
    cleaned_manifest,
    public_settings,
)
from study.errors import InputError, StudyError

SPLITS = ("train", "val", "test")


@contextmanager
def locked(layout: Layout) -> Iterator[None]:
    """Be the only one who prepares this dataset; the key file carries the lock.

    Raises:
        InputError: another process prepares it at this moment.
    """
    with layout.key_path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"{layout.root} is being prepared by another process", "wait for it, or prepare to another folder"
            ) from error
        yield


def check_folders(layout: Layout) -> None:
    """Make sure that nothing but a dataset is ever replaced.

    Raises:
        InputError: ``data.prepared``, or the folder in which it is made, holds something else.
    """
    for folder, marks in ((layout.root, (DATASET_FILE,)), (layout.staging, (DATASET_FILE, IMAGE_FILE))):
        is_ours = not folder.exists() or any((folder / mark).is_file() for mark in marks)
        if not is_ours and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(
                f"{folder} holds something that is no prepared dataset", "give data.prepared another folder"
            )


def recover(layout: Layout) -> None:
    """Finish, or take back, an exchange of datasets that was interrupted between its two steps."""
    name = re.compile(rf"\.{re.escape(layout.root.name)}\.replaced-[0-9a-f]{{32}}")
    olds = sorted(path for path in layout.root.parent.iterdir() if name.fullmatch(path.name))
    if not layout.root.exists():
        if (layout.staging / DATASET_FILE).is_file():
            layout.staging.rename(layout.root)
        elif olds:
            olds.pop().rename(layout.root)
    for old in olds:
        shutil.rmtree(old)


def open_staging(layout: Layout, image: Mapping[str, Any]) -> None:
    """Make the staging folder, or keep what an interrupted preparation with the same image settings left in it."""
    if layout.staging.exists() and not is_staging_for(layout.staging, image):
        shutil.rmtree(layout.staging)
    for folder in (SHARD_FOLDER, RESULT_FOLDER):
        (layout.staging / folder).mkdir(parents=True, exist_ok=True)
    (layout.staging / IMAGE_FILE).write_text(json.dumps(dict(image)), encoding="utf-8")


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
    layout: Layout, data: DataConfig, *, manifest: pd.DataFrame, results: pd.DataFrame, key: bytes, request: str
) -> dict[str, Any]:
    """Write the tables, bring the reused shards along, and put the dataset in its place.

    Returns:
        The content of ``dataset.json``.

    Raises:
        StudyError: more files than ``data.max_quarantined`` cannot be used.
        InputError: a split has no usable image.
    """
    quarantine = quarantine_table(manifest, results)
    check_share(quarantine, manifest.loc[needed_rows(manifest), "file_key"].nunique(), max_share=data.max_quarantined)
    missing = manifest["file_key"].isin(quarantine.loc[quarantine["reason"] == MISSING_FILE, "file_key"])
    gone = pd.DataFrame({"file_key": manifest.loc[missing, "file_key"].unique(), "reason": MISSING_FILE})
    clean = cleaned_manifest(manifest, pd.concat([gone, results], ignore_index=True), data=data, key=key)
    classes = class_names(data.labels.task)
    counts = count_images(clean, classes)
    _check_splits(counts)
    shards = _collect_shards(layout, results[results["shard"].isin(clean["shard"].dropna())])
    about = {
        "format": FORMAT,
        "classes": list(classes),
        "image_size": data.image_size,
        "settings": public_settings(data),
        "counts": counts,
        "fingerprint": fingerprint_of(clean, data),
        "request": request,
        "shards": shards,
    }
    clean.to_parquet(layout.staging / MANIFEST_FILE, index=False)
    quarantine.to_parquet(layout.staging / QUARANTINE_FILE, index=False)
    _tidy(layout.staging, set(shards))
    _write_text(layout.staging / DATASET_FILE, json.dumps(about, indent=1))
    _put_in_place(layout)
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
    columns = usable[["source", "segment", "label", "split", "pixel_crc32"]].astype("str")
    rows = pd.util.hash_pandas_object(columns, index=False).to_numpy()
    settings = json.dumps(public_settings(data), sort_keys=True)
    return hashlib.blake2b(settings.encode() + rows.tobytes(), digest_size=16).hexdigest()


def _collect_shards(layout: Layout, used: pd.DataFrame) -> dict[str, list[int]]:
    """Bring all shards that are used into the staging folder; rows, size and checksum of each by name."""
    found = {}
    for line in used.drop_duplicates("shard").to_dict("records"):
        name = str(line["shard"])
        _bring(Path(line["folder"]) / name, layout.staging / SHARD_FOLDER / name)
        found[name] = [int(line[column]) for column in SHARD_COLUMNS]
    return found


def _bring(source: Path, target: Path) -> None:
    """A second name for a shard, or a copy where the file system has no such thing."""
    if target.exists():
        return
    try:
        target.hardlink_to(source)
    except OSError:
        temporary = target.with_name(f".{uuid.uuid4().hex}.tmp")
        shutil.copyfile(source, temporary)
        temporary.replace(target)


def _tidy(staging: Path, shards: set[str]) -> None:
    """Remove what belongs to the work and not to the dataset."""
    for path in (staging / SHARD_FOLDER).iterdir():
        if path.name not in shards:
            path.unlink()


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _put_in_place(layout: Layout) -> None:
    """Exchange the datasets; whoever has the old one mapped keeps it until it is closed."""
    shutil.rmtree(layout.staging / RESULT_FOLDER)
    (layout.staging / IMAGE_FILE).unlink(missing_ok=True)
    old = layout.root.with_name(f".{layout.root.name}.replaced-{uuid.uuid4().hex}")
    if layout.root.exists():
        layout.root.rename(old)
    layout.staging.rename(layout.root)
    shutil.rmtree(old, ignore_errors=True)
