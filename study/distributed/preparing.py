"""`study prepare`: from image files to a prepared dataset, by Ray Data, doing only what is missing.

:func:`plan_preparation` answers in a fraction of a second, without Ray, whether anything is to do. Preparing reads the
missing files in blocks of up to 64, one core each; every finished block stays, so a preparation that was stopped goes
on. The folder of ``data.prepared`` must be seen by all nodes under the same path.
"""

import logging
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd
import pyarrow as pa

from study.config import DataConfig
from study.data.phantom import write_phantom
from study.data.shards import read_about
from study.distributed.cluster import capacity, connected
from study.distributed.preparing_blocks import BLOCK_FILES, prepare_block
from study.distributed.preparing_dataset import assemble, check_folders, locked, open_staging, quarantine_table, recover
from study.distributed.preparing_manifest import manifest_for, needed_rows, phantom_sources
from study.distributed.preparing_results import known_results
from study.distributed.preparing_tables import (
    Layout,
    image_settings,
    key_of,
    keyed_manifest,
    layout_of,
    request_digest,
)
from study.errors import InputError, StudyError

__all__ = ["PreparePlan", "PrepareProgress", "PrepareSummary", "manifest_for", "plan_preparation", "prepare_dataset"]


SMALLEST_BLOCK: Final = 8
_BLOCK: Final = pa.schema([("file_key", pa.string()), ("path", pa.string()), ("laterality", pa.string())])


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareProgress:
    """How far a preparation is: ``stage`` is "writing phantom images" or "reading images"; counts are images."""

    stage: str
    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparePlan:
    """What a preparation would do.

    Attributes:
        is_complete: the dataset is there and nothing has changed.
        images: labelled images that are wanted.
        missing: of these, files that have to be read.
        reused: of these, files whose result is there already.
        absent: of these, files that do not exist (images of a phantom that are yet to be written, for example).
    """

    is_complete: bool
    images: int
    missing: int
    reused: int
    absent: int


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
    is_complete: bool

    @property
    def wanted(self) -> pd.DataFrame:
        return self.manifest[needed_rows(self.manifest)].drop_duplicates("file_key")

    def plan(self) -> PreparePlan:
        wanted = self.wanted
        absent = int((~wanted["file_exists"]).sum())
        return PreparePlan(
            is_complete=self.is_complete,
            images=len(wanted),
            missing=len(self.missing),
            reused=len(wanted) - len(self.missing) - absent,
            absent=absent,
        )


def plan_preparation(data: DataConfig) -> PreparePlan:
    """Find out what is to do; writes nothing, and neither needs nor starts Ray.

    Raises:
        InputError: a source cannot be read, or the patients cannot be split.
    """
    layout = layout_of(data)
    key = key_of(layout, make=False)
    if key is None:
        wanted = manifest_for(data)
        images = int(needed_rows(wanted).sum())
        return PreparePlan(is_complete=False, images=images, missing=images, reused=0, absent=0)
    return _work(data, layout, key).plan()


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
        InputError: a source cannot be read, a split has no usable image, or another process prepares this dataset.
    """
    started = time.monotonic()
    layout = layout_of(data)
    key = key_of(layout, make=True) or b""
    with locked(layout):
        check_folders(layout)
        recover(layout)
        _write_phantoms(data, progress)
        work = _work(data, layout, key)
        plan = work.plan()
        if plan.is_complete:
            bad = quarantine_table(work.manifest, work.known)
            return _summary(read_about(layout.root), bad, reused=plan.reused, started=started)
        image = image_settings(data)
        open_staging(layout, image)
        if plan.missing:
            with connected():
                _read_missing(work.missing, layout, image=image, progress=progress, workers=workers)
        results = known_results(layout, image)
        about = assemble(layout, data, manifest=work.manifest, results=results, key=key, request=work.request)
        return _summary(about, quarantine_table(work.manifest, results), reused=plan.reused, started=started)


def _work(data: DataConfig, layout: Layout, key: bytes) -> _Work:
    manifest = keyed_manifest(data, key)
    known = known_results(layout, image_settings(data))
    request = request_digest(data, manifest, key)
    wanted = manifest[needed_rows(manifest) & manifest["file_exists"]].drop_duplicates("file_key")
    missing = wanted[~wanted["file_key"].isin(known["file_key"])][["file_key", "path", "laterality"]]
    is_complete = missing.empty and _request_of(layout) == request
    return _Work(manifest=manifest, known=known, missing=missing, request=request, is_complete=is_complete)


def _request_of(layout: Layout) -> str:
    """The request that the dataset in place answers; empty if there is none that can be read."""
    try:
        return str(read_about(layout.root)["request"])
    except (InputError, KeyError):
        return ""


def _write_phantoms(data: DataConfig, progress: Callable[[PrepareProgress], None] | None) -> None:
    for root, settings in phantom_sources(data):
        total = settings.patients * 4

        def tell(done: int, total: int = total) -> None:
            if progress is not None:
                progress(PrepareProgress(stage="writing phantom images", done=done, total=total))

        write_phantom(root, settings, progress=tell)


def _read_missing(
    missing: pd.DataFrame,
    layout: Layout,
    *,
    image: Mapping[str, Any],
    progress: Callable[[PrepareProgress], None] | None,
    workers: int | None,
) -> None:
    """Read the files in blocks; closing the iterator, also when ``progress`` raises, ends the execution."""
    done, total = 0, len(missing)
    results = _block_results(missing, layout, image=image, workers=workers)
    with _only_errors("ray.data"), closing(results) as blocks:
        for files, fault, fix in blocks:
            if fault:
                raise StudyError(fault, fix)
            done += files
            if progress is not None:
                progress(PrepareProgress(stage="reading images", done=done, total=total))
    if done != total:
        raise StudyError(f"{done} of {total} files were read; the rest was lost", "run `study prepare` again")


@contextmanager
def _only_errors(name: str) -> Iterator[None]:
    """Mute a logger's notes and warnings, such as that progress bars are disabled."""
    import ray.data  # noqa: F401 - sets the level of its logger when it is imported

    log = logging.getLogger(name)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _block_results(
    missing: pd.DataFrame, layout: Layout, *, image: Mapping[str, Any], workers: int | None
) -> Generator[tuple[int, str, str]]:
    """Of each finished block, as it finishes: number of files, fault, fix."""
    import ray.data
    import ray.exceptions

    size = _block_size(len(missing), cores=workers or int(capacity().cpus))
    blocks = [
        pa.Table.from_pandas(missing.iloc[start : start + size], schema=_BLOCK, preserve_index=False)
        for start in range(0, len(missing), size)
    ]
    dataset = ray.data.from_arrow(blocks)
    dataset.context.enable_progress_bars = False
    dataset.context.execution_options.preserve_order = False
    task: Any = prepare_block
    done = dataset.map_batches(
        task,
        fn_kwargs={"staging": str(layout.staging), "image": dict(image)},
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=1,
        compute=None if workers is None else ray.data.TaskPoolStrategy(size=workers),
    )
    batches: Any = iter(done.iter_batches(batch_size=None, batch_format="pyarrow"))
    try:
        for batch in batches:
            yield from zip(*(batch.column(name).to_pylist() for name in ("files", "fault", "fix")), strict=True)
    except ray.exceptions.RayError as error:
        raise StudyError(
            f"a task that reads images failed ({type(error).__name__})",
            "look at the log (`--debug`), then prepare again",
        ) from error
    finally:
        if hasattr(batches, "close"):
            batches.close()


def _block_size(files: int, *, cores: int) -> int:
    """Files of a block: fewer where only few are to be read, so that all cores have some."""
    return min(BLOCK_FILES, max(SMALLEST_BLOCK, -(-files // (2 * max(cores, 1)))))


def _summary(about: Mapping[str, Any], quarantine: pd.DataFrame, *, reused: int, started: float) -> PrepareSummary:
    reasons = quarantine["reason"].value_counts()
    return PrepareSummary(
        images=sum(sum(by_class.values()) for by_class in about["counts"].values()),
        quarantined={str(reason): int(count) for reason, count in reasons.items()},
        reused=reused,
        seconds=time.monotonic() - started,
        counts=about["counts"],
    )
