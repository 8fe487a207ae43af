"""Damage to folders of files: some of them, each as its format asks for."""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.fuzz.mutations import mutated, mutated_text

TEXTS = (".csv", ".txt", ".xml")


def damage_files(rng: random.Random, files: Sequence[Path]) -> None:
    """Put faults into one or two of the files."""
    for path in rng.sample(files, min(len(files), rng.choice((1, 1, 2)))):
        path.write_bytes(_damaged(rng, path.suffix, path.read_bytes()))


def _damaged(rng: random.Random, suffix: str, content: bytes) -> bytes:
    if suffix == ".json" and rng.random() < 0.7:
        return mutated_text(rng, json.dumps(json.loads(content), indent=0))  # a line for each value
    return mutated_text(rng, content.decode()) if suffix in TEXTS else mutated(rng, content)


def mend(*ways: Callable[[], None]) -> None:
    """Make checksums agree again, so that what they guard is reached; where the damage is too great, they do not."""
    for way in ways:
        try:
            way()
        except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError):
            continue
