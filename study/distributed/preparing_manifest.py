"""The manifest of a study's sources: tables read, labels, segments and splits given; no pixels, no Ray."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from study.config import DataConfig, PhantomSource, Source
from study.data.files import is_remote, local_path
from study.data.labels import LabelSettings, add_labels, change_training_labels, finish_labels
from study.data.manifest import usable_rows
from study.data.phantom import PhantomSettings, phantom_manifest
from study.data.segments import add_segments
from study.data.shards_cache import cache_folder
from study.data.sources import read_source
from study.data.splits import SplitSettings, split_manifest
from study.data.summary import ManifestSummary, describe_manifest


def phantom_sources(data: DataConfig) -> list[tuple[Path, PhantomSettings]]:
    """Folder and settings of each phantom among the sources."""
    return [phantom_place(data, source) for source in data.sources if source.kind == "phantom"]


def phantom_place(data: DataConfig, source: PhantomSource) -> tuple[Path, PhantomSettings]:
    """Folder and settings of one phantom; without a root of its own it lies beside the prepared dataset."""
    shares = {name: float(share) for name, share in _plain(source.shares).items()}
    grades = [float(share) for share in source.grades] if source.grades else []
    settings = PhantomSettings(
        name=source.name,
        patients=source.patients,
        seed=source.seed,
        vendors=tuple(source.vendors),
        shares={name: share / sum(shares.values()) for name, share in shares.items()},
        rows=source.rows,
        cols=source.cols,
        grades=tuple(share / sum(grades) for share in grades) or None,
        reader_noise=float(source.reader_noise),
        look=source.look,
    )
    # Other settings are other files: a study that asks for more patients does not meet the files of an older one.
    digest = hashlib.blake2b(json.dumps(settings.as_values(), sort_keys=True).encode(), digest_size=4).hexdigest()
    # Phantoms are cheap to make and are made on this machine, also for a dataset in a store.
    above = cache_folder() if is_remote(data.prepared) else local_path(data.prepared).parent
    beside = above / "phantom-dicom" / f"{source.name}-{digest}"
    return Path(source.root).absolute() if source.root else beside, settings


def _plain(record: Any) -> dict[str, Any]:
    return dict(record) if isinstance(record, Mapping) else dict(record.model_dump())


@dataclass(frozen=True, slots=True, kw_only=True)
class Arranged:
    """The manifest of all sources with labels, segments and splits, and what to tell the user of them."""

    manifest: pd.DataFrame
    notes: tuple[str, ...]


def manifest_for(data: DataConfig) -> pd.DataFrame:
    """Read the tables of all sources and give every image its labels, segment and split; no pixels are touched.

    Returns:
        The manifest of all sources in the order of the study file, with original ids and paths: for checks, never for
        a file. Segments by manufacturer or model may still say ``unknown`` where only the image file knows.

    Raises:
        InputError: a source cannot be read, or the patients cannot be split.
    """
    return arranged_for(data).manifest


def arranged_for(data: DataConfig) -> Arranged:
    """Like :func:`manifest_for`, with notes on the split.

    Raises:
        InputError: see :func:`manifest_for`.
    """
    return arranged(data, [read_table(data, source) for source in data.sources])


def summary_for(data: DataConfig) -> ManifestSummary:
    """What the sources of a study file would give, counted from their tables.

    Raises:
        InputError: see :func:`manifest_for`.
    """
    found = arranged_for(data)
    return summary_of(data, found.manifest, notes=found.notes)


def summary_of(data: DataConfig, manifest: pd.DataFrame, *, notes: Sequence[str] = ()) -> ManifestSummary:
    """What a manifest of these settings holds, arranged or prepared; ``notes`` on the split come first."""
    labels = data.labels
    return describe_manifest(
        manifest,
        labels.class_names,
        tasks={task: labels.class_names_of(task) for task in labels.tasks},
        folds=data.splits.folds or 0,
        notes=notes,
    )


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
    """Join the sources' manifests; every image gets labels, segment and split.

    Raises:
        InputError: see :func:`arranged`.
    """
    return arranged(data, tables).manifest


def arranged(data: DataConfig, tables: Sequence[pd.DataFrame]) -> Arranged:
    """Join the sources' manifests: labels as the sources state them, segments, splits, then changes of training labels.

    Raises:
        InputError: a label or official split that is not known, too few patients for the splits, an empty split, or
            a patient that would be on two sides.
    """
    labels = label_settings(data)
    manifest = add_labels(pd.concat(tables, ignore_index=True), labels)
    manifest = add_segments(manifest, list(data.segments))
    result = split_manifest(manifest, split_settings(data))
    manifest = finish_labels(change_training_labels(result.manifest, labels), labels)
    return Arranged(manifest=manifest, notes=result.notes)


def label_settings(data: DataConfig) -> LabelSettings:
    """The study file's ``data.labels`` as the data room knows them."""
    values: dict[str, Any] = data.labels.model_dump()
    given: dict[str, Any] = {key: _given(values.pop(key)) for key in ("uncertainty", "leave_out", "flip", "synthesise")}
    return LabelSettings(**values, **given)


def split_settings(data: DataConfig) -> SplitSettings:
    """The study file's ``data.splits`` as the data room knows them, with the kinds of the sources."""
    splits = data.splits
    return SplitSettings(
        scheme=splits.scheme,
        unit=splits.unit,
        val_fraction=splits.val.fraction,
        test_fraction=splits.test.fraction,
        folds=splits.folds or 1,
        fold=splits.fold or 1,
        held_out=splits.held_out or "",
        by_source=splits.by_source or {},
        seed=splits.seed,
        kinds={source.name: source.kind for source in data.sources},
    )


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def needed_rows(manifest: pd.DataFrame) -> pd.Series:
    """True for rows whose pixels are wanted: not dropped, so with a label of at least one task."""
    return usable_rows(manifest)
