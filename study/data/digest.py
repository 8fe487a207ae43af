"""What a run has really shown to its network, as numbers that can be compared: a digest of image ids per rank and step.

Each image gives a 64-bit number that depends on its id and on its draw (its place in the whole run), and a digest is
the sum of these modulo 2^64. So the digests of several ranks, steps or epochs are added to that of all of them: a run
on one worker and a run on four have equal sums exactly when each place of the plan held the same image, but for a
chance of 2^-64. A missing, a repeated and a swapped image change it.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

IdHashes = npt.NDArray[np.uint64]

_HASH_KEY: Final = "study-image-ids1"  # 16 characters, as SipHash wants; another key would change every digest
_TOP: Final = (1 << 64) - 1


def id_hashes(image_ids: Sequence[Any] | pd.Series) -> IdHashes:
    """SipHash-2-4 of each image id, uint64 [N]; the same on any machine."""
    texts = np.asarray(image_ids, dtype=object).astype(str).astype(object)
    return pd.util.hash_array(texts, hash_key=_HASH_KEY, categorize=False)


def batch_digest(ids_n: IdHashes, *, first_draw: int) -> int:
    """Digest of images whose id hashes are ``ids_n`` at the draws ``first_draw``, ``first_draw + 1``, ..."""
    draws_n = np.arange(first_draw, first_draw + len(ids_n), dtype=np.uint64)
    return int(_mixed(np.asarray(ids_n, dtype=np.uint64) ^ _mixed(draws_n)).sum(dtype=np.uint64))


def combined(digests: Iterable[int]) -> int:
    """The digest of everything that ``digests`` stand for: their sum modulo 2^64."""
    return sum(digests) & _TOP


def as_text(digest: int) -> str:
    """16 hexadecimal digits."""
    return f"{digest:016x}"


def _mixed(values_n: IdHashes) -> IdHashes:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): each bit of the result depends on every bit."""
    mixed = values_n + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
