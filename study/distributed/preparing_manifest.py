"""The manifest of a study's sources: tables read, labels, segments and splits given; no pixels, no Ray."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from study.config import DataConfig, PhantomSource, Source
from study.data.labels import add_segments, apply_labels
from study.data.manifest import usable_rows
from study.data.phantom import PhantomSettings, phantom_manifest
from study.data.sources import read_source
from study.data.splits import check_no_leak, split_patients


def phantom_sources(data: DataConfig) -> list[tuple[Path, PhantomSettings]]:
    """Folder and settings of each phantom among the sources."""
    return [phantom_place(data, source) for source in data.sources if source.kind == "phantom"]


def phantom_place(data: DataConfig, source: PhantomSource) -> tuple[Path, PhantomSettings]:
    """Folder and settings of one phantom; without a root of its own it lies beside the prepared dataset."""
    shares = {name: float(share) for name, share in _plain(source.shares).items()}
    settings = PhantomSettings(
        name=source.name,
        patients=source.patients,
        seed=source.seed,
        vendors=tuple(source.vendors),
        shares={name: share / sum(shares.values()) for name, share in shares.items()},
    )
    # Other settings are other files: a study that asks for more patients does not meet the files of an older one.
    digest = hashlib.blake2b(json.dumps(asdict(settings), sort_keys=True).encode(), digest_size=4).hexdigest()
    beside = Path(data.prepared).absolute().parent / "phantom-dicom" / f"{source.name}-{digest}"
    return Path(source.root).absolute() if source.root else beside, settings


def _plain(record: Any) -> dict[str, Any]:
    return dict(record) if isinstance(record, Mapping) else dict(record.model_dump())


def manifest_for(data: DataConfig) -> pd.DataFrame:
    """Read the tables of all sources and give every image its label, segment and split; no pixels are touched.

    Returns:
        The manifest of all sources in the order of the study file, with original ids and paths: for checks, never for
        a file. Segments by manufacturer or model may still say ``unknown`` where only the image file knows.

    Raises:
        InputError: a source cannot be read, or the patients cannot be split.
    """
    return arrange(data, [read_table(data, source) for source in data.sources])


def read_table(data: DataConfig, source: Source) -> pd.DataFrame:
    """The manifest of one source; a phantom need not have been written.

    Raises:
        InputError: the source cannot be read.
    """
    if source.kind == "phantom":
        root, settings = phantom_place(data, source)
        return phantom_manifest(settings, root)
    options = {key: value for key, value in dict(source).items() if key not in ("kind", "name", "root")}
    return read_source(source.kind, source.root, name=source.name, **options)


def arrange(data: DataConfig, tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Join the sources' manifests; every image gets label, segment and split.

    Raises:
        InputError: there are too few patients for the splits, or a patient would be on two sides.
    """
    labels = data.labels
    manifest = pd.concat(tables, ignore_index=True)
    manifest = apply_labels(manifest, task=labels.task, birads_0=labels.birads_0, birads_3=labels.birads_3)
    manifest = add_segments(manifest, list(data.segments))
    manifest = split_patients(
        manifest,
        val_fraction=data.splits.val.fraction,
        test_fraction=data.splits.test.fraction,
        seed=data.splits.seed,
    )
    check_no_leak(manifest)
    return manifest


def needed_rows(manifest: pd.DataFrame) -> pd.Series:
    """True for rows whose pixels are wanted: labelled and not dropped."""
    return usable_rows(manifest) & manifest["label"].notna()
