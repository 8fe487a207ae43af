"""What augmentation makes of a dataset's own pictures: a contact sheet per policy."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from study.data.augment import POLICIES, contact_sheet
from study.data.shards import PreparedDataset, open_dataset

MOST_ROWS: Final = 8


def write_previews(root: str, folder: Path, *, seed: int = 0, mode: str = "fast") -> list[Path]:
    """Write ``<policy>.png`` for every policy into ``folder``; each row is an image as prepared, then its draws.

    Args:
        root: folder or URI of a prepared dataset.
        folder: is made where it is missing.
        seed: of the draws.
        mode: of the augmentation, ``fast`` or ``compatible``.

    Returns:
        The files, in the order of the policies.

    Raises:
        InputError: no such dataset, or a damaged one.
    """
    dataset = open_dataset(root)
    images = list(dataset.pixels(example_rows(dataset)))
    folder.mkdir(parents=True, exist_ok=True)
    return [_write(folder / f"{policy}.png", contact_sheet(policy, images, seed, mode=mode)) for policy in POLICIES]


def example_rows(dataset: PreparedDataset) -> npt.NDArray[np.int64]:
    """Training images of all sources and classes in turn, at most eight: one of each, then the next of each."""
    rows = dataset.manifest.iloc[dataset.rows("train")]
    groups = rows.groupby(["source", "label"], sort=True)
    turns = groups.cumcount().sort_values(kind="stable")
    return turns.index[:MOST_ROWS].to_numpy(dtype=np.int64)


def _write(path: Path, pixels: npt.NDArray[Any]) -> Path:
    from PIL import Image

    partial = path.with_suffix(".partial")
    Image.fromarray(pixels).save(partial, format="PNG")
    partial.replace(path)
    return path
