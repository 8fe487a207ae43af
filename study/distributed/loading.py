"""What a loading task of Ray Data does: read the images of one block of the plan, and augment them."""

import os
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from study.data.augment import Augment, make_augment, tune_malloc
from study.data.files import is_remote, local_path, shown
from study.data.shards import DATASET_FILE, PreparedDataset, open_dataset
from study.errors import InputError, StudyError

Columns = dict[str, npt.NDArray[Any]]

# Two tasks share a core: Ray Data looks for finished tasks ten times a second (and no sooner while one still runs), and
# a core whose only task has ended would have nothing to do until then. A block takes 0.2 to 0.4 s.
TASK_CPUS: Final = 0.5

# Of a timed block, the same in each row: seconds of reading and decoding, of augmenting, when its task began and ended
# (Unix time of the task's machine), and the task's process.
TIMES: Final = ("read_s", "augment_s", "began_s", "ended_s", "pid")


UNSEEN: Final = "a node of the cluster does not see "


class DatasetUnseen(StudyError):
    """A loading task is on a node that does not see the dataset, which the worker itself has open: no fault of its run.

    Attributes:
        preempted: the run is tried again, as after the loss of a node.
    """

    preempted: Final = True


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """Where the pixels lie and what happens to them.

    ``fingerprint`` is the dataset's: a task that has an older one open under the same root opens it anew.
    ``task_cpus`` is what Ray reserves for one loading task; see ``TASK_CPUS``. ``timed`` adds to each block what it
    took: the columns of ``TIMES``.
    """

    root: str
    fingerprint: str
    policy: str
    seed: int
    mode: str = "fast"
    task_cpus: float = TASK_CPUS
    timed: bool = False


def load_rows(block: Columns, settings: StreamSettings, blank: npt.NDArray[Any]) -> Columns:
    """Columns ``image``, ``row``, ``id`` (hash of the image's id) and ``fault`` of one block, in its order.

    A fault travels as data, beside pictures of the type and shape of ``blank`` [0, ...], for Ray Data wraps exceptions
    until neither type nor text is left.
    """
    rows, watch = block["row"], _Watch()
    try:
        images_nhw, ids_n = _augmented(rows, block["draw"], settings, watch=watch)
        fault = ""
    except StudyError as error:
        images_nhw, fault = np.zeros((len(rows), *blank.shape[1:]), blank.dtype), str(error)
        ids_n = np.zeros(len(rows), np.uint64)
    made: Columns = {"image": images_nhw, "row": rows, "id": ids_n, "fault": np.full(len(rows), fault)}
    return made | watch.columns(len(rows)) if settings.timed else made


class _Watch:
    """What one block takes; two looks at a clock for each image, about 0.1 us of more than 100."""

    def __init__(self) -> None:
        self.read_s = self.augment_s = 0.0
        self._began_s = time.time()

    def columns(self, rows: int) -> Columns:
        """The columns of ``TIMES``."""
        found = (self.read_s, self.augment_s, self._began_s, time.time(), float(os.getpid()))
        return {name: np.full(rows, value) for name, value in zip(TIMES, found, strict=True)}


def _augmented(
    rows: npt.NDArray[np.int64], draws: npt.NDArray[np.int64], settings: StreamSettings, *, watch: _Watch
) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint64]]:
    dataset, augment = _loaded(settings)
    one = dataset.pixels(rows[:1])
    images_nhw = np.empty((len(rows), *one.shape[1:]), one.dtype)
    is_plain = settings.policy == "none"
    # One at a time: an image that was just read is augmented while it is in the processor's cache.
    for i in range(len(rows)):
        began = time.perf_counter()
        dataset.pixels(rows[i : i + 1], out=images_nhw[i : i + 1] if is_plain else one)
        read = time.perf_counter()
        watch.read_s += read - began
        if not is_plain:
            augment.block(one, seed=settings.seed, draws_n=draws[i : i + 1], out=images_nhw[i : i + 1])
            watch.augment_s += time.perf_counter() - read
    return images_nhw, dataset.id_hashes_n[rows]


@lru_cache(maxsize=4)
def _loaded(settings: StreamSettings) -> tuple[PreparedDataset, Augment]:
    """The dataset and the policy, kept open in the task's process."""
    tune_malloc()
    if not is_remote(settings.root) and not (local_path(settings.root) / DATASET_FILE).is_file():
        raise DatasetUnseen(f"{UNSEEN}{settings.root}", "take it out of the cluster, or mount the folder there")
    dataset = open_dataset(settings.root)
    if dataset.fingerprint != settings.fingerprint:
        raise InputError(
            f"{shown(settings.root)} was prepared again while it was in use", "resume the study with its own data"
        )
    return dataset, make_augment(
        settings.policy,
        image_hw=dataset.image_hw,
        channels=dataset.channels,
        bits=dataset.bits,
        mode=settings.mode,
    )
