"""`study prepare`: from image files to a prepared dataset, by Ray Data, doing only what is missing.

:func:`plan_preparation` answers in a fraction of a second, without Ray, whether anything is to do. Preparing reads the
missing files in blocks of up to 64, one core each; every finished block stays, so a preparation that was stopped goes
on. ``data.prepared`` is a URI, or a folder that all nodes see under the same path.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from study.config import DataConfig
from study.data.files import shown, why
from study.data.phantom import write_phantom
from study.data.shards import read_about
from study.distributed.cluster import connected
from study.distributed.preparing_blocks import BLOCK_FIELDS
from study.distributed.preparing_dataset import assemble, check_share, quarantine_table, wanted_files
from study.distributed.preparing_manifest import manifest_for, needed_rows, phantom_sources
from study.distributed.preparing_results import known_encoding, known_results
from study.distributed.preparing_run import Pace, PrepareProgress, read_missing
from study.distributed.preparing_store import Layout, check_places, key_of, layout_of, locked, open_staging, recover
from study.distributed.preparing_tables import (
    has_settings,
    image_bytes,
    image_settings,
    keyed_manifest,
    request_digest,
)
from study.errors import InputError

__all__ = ["PreparePlan", "PrepareProgress", "PrepareSummary", "manifest_for", "plan_preparation", "prepare_dataset"]

CONTENT_SHARE: Final = 0.6  # of the frames' bytes; measured on breasts, which fill half of their frame
MEMORY_SHARE: Final = 0.5  # of the smallest node's memory that raw shards may fill as page cache
WITHOUT_KEY: Final = "new and changed files are not looked for; copy the key here from where it was prepared to do so"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparePlan:
    """What a preparation would do.

    Attributes:
        is_complete: the dataset is there and nothing has changed.
        images: labelled images that are wanted.
        missing: of these, files that have to be read.
        reused: of these, files whose result is there already.
        absent: of these, files that do not exist (images of a phantom that are yet to be written, for example).
        warning: what cannot be known here; empty if nothing.
    """

    is_complete: bool
    images: int
    missing: int
    reused: int
    absent: int
    warning: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareSummary:
    """What a preparation did.

    Attributes:
        images: usable images of the dataset.
        quarantined: number of unusable files by reason.
        reused: files that were not read again.
        seconds: wall time.
        counts: usable images by split and class.
    """

    images: int
    quarantined: Mapping[str, int]
    reused: int
    seconds: float
    counts: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """The tables of a preparation: the manifest with file keys, known results, and the files that are to be read."""

    manifest: pd.DataFrame
    known: pd.DataFrame
    missing: pd.DataFrame
    request: str
    encoding: str
    is_complete: bool

    @property
    def wanted(self) -> pd.DataFrame:
        return self.manifest[needed_rows(self.manifest)].drop_duplicates("file_key")

    def plan(self, *, max_share: float) -> PreparePlan:
        wanted = self.wanted
        absent = int((~wanted["file_exists"]).sum())
        bad = len(quarantine_table(self.manifest, self.known)) if self.is_complete else 0
        return PreparePlan(
            is_complete=self.is_complete and bad <= max_share * len(wanted),
            images=len(wanted),
            missing=len(self.missing),
            reused=len(wanted) - len(self.missing) - absent,
            absent=absent,
        )


def plan_preparation(data: DataConfig) -> PreparePlan:
    """Find out what is to do; writes nothing, and neither needs nor starts Ray.

    Without the key of the dataset's names, as on a second machine, a dataset that was made by the same settings is
    taken as it is: made anew it would have other names, and what refers to the old ones (labels of a teacher,
    predictions) would be lost.

    Raises:
        InputError: a source cannot be read, the patients cannot be split, a store does not answer, or the dataset is
            stored in another encoding than ``data.encoding``.
    """
    layout = layout_of(data)
    with _store_faults(layout):
        key = key_of(layout, make=False)
        if key is None:
            wanted = manifest_for(data)
            images = int(needed_rows(wanted).sum())
            if not has_settings(layout.root, data):
                return PreparePlan(is_complete=False, images=images, missing=images, reused=0, absent=0)
            text = f"the key of {shown(layout.root)} is not on this machine, so it is taken as it is: {WITHOUT_KEY}"
            return PreparePlan(is_complete=True, images=images, missing=0, reused=images, absent=0, warning=text)
        return _work(data, layout, key).plan(max_share=data.max_quarantined)


def prepare_dataset(
    data: DataConfig, *, progress: Callable[[PrepareProgress], None] | None = None, workers: int | None = None
) -> PrepareSummary:
    """Prepare what is missing, and put the dataset in its place; joins or starts Ray only for images to be read.

    Args:
        data: the study file's ``data`` section.
        progress: called after each phantom image and each block; what it raises stops the preparation, and the blocks
            that are done stay.
        workers: how many blocks are read at a time; as many as the cluster has cores by default.

    Raises:
        StudyError: more files than ``data.max_quarantined`` cannot be used; the message lists the reasons.
        InputError: a source cannot be read, a split has no usable image, another process prepares this dataset, or the
            place of the dataset cannot be read or written.
    """
    started = time.monotonic()
    layout = layout_of(data)
    with _store_faults(layout):
        key = key_of(layout, make=True) or b""
        with locked(layout):
            check_places(layout)
            recover(layout)
            _write_phantoms(data, progress)
            return _prepare(data, layout, key=key, tell=progress, workers=workers, started=started)


def _prepare(
    data: DataConfig,
    layout: Layout,
    *,
    key: bytes,
    tell: Callable[[PrepareProgress], None] | None,
    workers: int | None,
    started: float,
) -> PrepareSummary:
    work = _work(data, layout, key)
    reused = work.plan(max_share=data.max_quarantined).reused
    if work.is_complete:
        bad = quarantine_table(work.manifest, work.known)
        check_share(bad, wanted_files(work.manifest), max_share=data.max_quarantined)
        return _summary(read_about(layout.root), bad, reused=reused, started=started)
    image, encoding = image_settings(data), work.encoding
    if work.missing.empty:
        open_staging(layout, image, encoding=encoding or "raw")
    else:
        with connected():
            encoding = encoding or _encoding_for(data, files=len(work.wanted))
            open_staging(layout, image, encoding=encoding)
            places = {"shards": layout.shards, "results": layout.results, "image": image, "encoding": encoding}
            read_missing(work.missing, places, progress=tell, workers=workers)
    results = known_results(layout, image)
    about = assemble(
        layout,
        data,
        manifest=work.manifest,
        results=results,
        key=key,
        request=work.request,
        encoding=encoding or "raw",
    )
    return _summary(about, quarantine_table(work.manifest, results), reused=reused, started=started)


@contextmanager
def _store_faults(layout: Layout) -> Iterator[None]:
    """A place that cannot be read or written is the user's to mend; its error may hold names, so it is not passed on.

    Raises:
        InputError: the place and the cause.
    """
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{shown(layout.root)} cannot be read or written ({why(error)})",
            "check data.prepared, its rights and room, or network and credentials",
        ) from None


def _work(data: DataConfig, layout: Layout, key: bytes) -> _Work:
    manifest = keyed_manifest(data, key)
    image = image_settings(data)
    known = known_results(layout, image)
    encoding = _agreed_encoding(data, known_encoding(layout, image))
    request = request_digest(data, manifest, key)
    wanted = manifest[needed_rows(manifest) & manifest["file_exists"]].drop_duplicates("file_key")
    missing = wanted[~wanted["file_key"].isin(known["file_key"])][list(BLOCK_FIELDS)]
    is_complete = missing.empty and _request_of(layout) == request
    return _Work(
        manifest=manifest, known=known, missing=missing, request=request, encoding=encoding, is_complete=is_complete
    )


def _agreed_encoding(data: DataConfig, known: str) -> str:
    """The encoding of shards that are there, or that of the study file; empty if both leave it open.

    Raises:
        InputError: they differ.
    """
    if data.encoding == "auto":
        return known
    if known and known != data.encoding:
        raise InputError(
            f"{shown(data.prepared)} is stored as {known}; data.encoding is {data.encoding}",
            "set data.encoding to auto, or delete the dataset to have it stored anew",
        )
    return data.encoding


def _encoding_for(data: DataConfig, *, files: int) -> str:
    """Raw while the page cache of the smallest node has room for all shards, compressed rows beyond that."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    memories = [node["memory"] + node.get("object_store_memory", 0.0) for node in nodes if "memory" in node]
    expected = files * image_bytes(image_settings(data)) * CONTENT_SHARE
    return "zstd" if memories and expected > MEMORY_SHARE * min(memories) else "raw"


def _request_of(layout: Layout) -> str:
    """The request that the dataset in place answers; empty if there is none that can be read."""
    try:
        return str(read_about(layout.root)["request"])
    except (InputError, KeyError):
        return ""


def _write_phantoms(data: DataConfig, progress: Callable[[PrepareProgress], None] | None) -> None:
    for root, settings in phantom_sources(data):
        pace = Pace("writing phantom images", settings.patients * 4)

        def tell(done: int, pace: Pace = pace) -> None:
            if progress is not None:
                progress(pace.at(done))

        write_phantom(root, settings, progress=tell)


def _summary(about: Mapping[str, Any], quarantine: pd.DataFrame, *, reused: int, started: float) -> PrepareSummary:
    reasons = quarantine["reason"].value_counts()
    return PrepareSummary(
        images=sum(sum(by_class.values()) for by_class in about["counts"].values()),
        quarantined={str(reason): int(count) for reason, count in reasons.items()},
        reused=reused,
        seconds=time.monotonic() - started,
        counts=about["counts"],
    )
