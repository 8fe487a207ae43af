"""The work of a preparation: files in blocks through Ray Data, and how far it is."""

import logging
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd
import pyarrow as pa

from study.distributed.cluster import capacity
from study.distributed.preparing_blocks import BLOCK_FIELDS, prepare_block
from study.distributed.preparing_tables import image_bytes
from study.errors import StudyError

BLOCK_FILES: Final = 64
SMALLEST_BLOCK: Final = 8
BLOCK_BYTES: Final = 128 * 2**20  # framed pixels of a block; a task holds about twice its content
_BLOCK: Final = pa.schema([(name, pa.string()) for name in BLOCK_FIELDS])


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareProgress:
    """How far a preparation is.

    Attributes:
        stage: "writing phantom images" or "reading images".
        done: images of this stage that are finished.
        total: images of this stage in all.
        quarantined: of the finished ones, files that cannot be used.
        rate: images per second; 0 before the first.
        eta_seconds: seconds that the rest will take at this rate; ``None`` before the first.
    """

    stage: str
    done: int
    total: int
    quarantined: int = 0
    rate: float = 0.0
    eta_seconds: float | None = None


class Pace:
    """Turns counts into progress: how fast it goes, and what is left of the time."""

    def __init__(self, stage: str, total: int) -> None:
        self.stage = stage
        self.total = total
        self._start = (time.monotonic(), 0)
        self._first: tuple[float, int] | None = None

    def at(self, done: int, *, bad: int = 0) -> PrepareProgress:
        """The progress at this moment; from the second call on, the start of Ray is no longer in the rate."""
        now = time.monotonic()
        since, before = self._first or self._start
        if self._first is None:
            self._first = (now, done)
        rate = (done - before) / max(now - since, 1e-9)
        return PrepareProgress(
            stage=self.stage,
            done=done,
            total=self.total,
            quarantined=bad,
            rate=rate,
            eta_seconds=(self.total - done) / rate if rate > 0 else None,
        )


def read_missing(
    missing: pd.DataFrame,
    places: Mapping[str, Any],
    *,
    progress: Callable[[PrepareProgress], None] | None,
    workers: int | None,
) -> None:
    """Read the files in blocks; closing the iterator, also when ``progress`` raises, ends the execution."""
    done, bad, pace = 0, 0, Pace("reading images", len(missing))
    results = _block_results(missing, places, workers=workers)
    with _only_errors("ray.data"), closing(results) as blocks:
        for files, quarantined, fault, fix in blocks:
            if fault:
                raise StudyError(fault, fix)
            done, bad = done + files, bad + quarantined
            if progress is not None:
                progress(pace.at(done, bad=bad))
    if done != len(missing):
        raise StudyError(f"{done} of {len(missing)} files were read; the rest was lost", "run `study prepare` again")


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
    missing: pd.DataFrame, places: Mapping[str, Any], *, workers: int | None
) -> Generator[tuple[int, int, str, str]]:
    """Of each finished block, as it finishes: number of files, of bad ones, fault, fix."""
    import ray.data
    import ray.exceptions
    from ray.data.read_api import from_blocks

    size = _block_size(len(missing), cores=workers or int(capacity().cpus), image_bytes=image_bytes(places["image"]))
    blocks = [
        pa.Table.from_pandas(missing.iloc[start : start + size], schema=_BLOCK, preserve_index=False)
        for start in range(0, len(missing), size)
    ]
    # from_blocks keeps the blocks as they are; from_arrow starts a task of a whole CPU for each of them
    dataset = from_blocks(blocks)
    dataset.context.enable_progress_bars = False
    dataset.context.execution_options.preserve_order = False
    task: Any = prepare_block
    done = dataset.map_batches(
        task,
        fn_kwargs={"work": dict(places)},
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=1,
        compute=None if workers is None else ray.data.TaskPoolStrategy(size=workers),
    )
    batches: Any = iter(done.iter_batches(batch_size=None, batch_format="pyarrow"))
    try:
        for batch in batches:
            yield from zip(*(batch.column(name).to_pylist() for name in ("files", "bad", "fault", "fix")), strict=True)
    except ray.exceptions.RayError as error:
        raise StudyError(
            f"a task that reads images failed ({type(error).__name__})",
            "look at the log (`--debug`), then prepare again",
        ) from error
    finally:
        if hasattr(batches, "close"):
            batches.close()


def _block_size(files: int, *, cores: int, image_bytes: int) -> int:
    """Files of a block: fewer where only few are to be read, so that all cores have some, or where images are large."""
    fair = max(SMALLEST_BLOCK, -(-files // (2 * max(cores, 1))))
    return max(1, min(BLOCK_FILES, fair, BLOCK_BYTES // image_bytes))
