"""The command line that all fuzzers share: how many inputs, from which seed, or one of them again."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from tests.fuzz.isolated import Target, examine


def _count(text: str) -> int:
    if not (text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text}: expected 1 or more")
    return int(text)


def run(target: Target, *, inputs: int, prepare: Callable[[], None], tidy: Callable[[], None]) -> int:
    """Judge the inputs, print the table, and give 1 if any had a fault; ``prepare`` before, ``tidy`` afterwards."""
    parser = argparse.ArgumentParser(description=f"Damaged inputs for {target.name}.")
    parser.add_argument("--inputs", type=_count, default=inputs, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first input")
    parser.add_argument("--only", type=int, metavar="N", help="judge this input alone")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where inputs with faults go")
    asked = parser.parse_args()
    numbers = [asked.only] if asked.only is not None else list(range(asked.first, asked.first + asked.inputs))
    prepare()
    try:
        outcome = examine(target, numbers, seed=asked.seed, keep=asked.keep)
    finally:
        tidy()
    print(outcome.table(), flush=True)
    if outcome.faults:
        module = Path(sys.argv[0]).stem
        print(f"  again: python -m tests.fuzz.{module} --seed {asked.seed} --only {outcome.faults[0].number}")
    return int(bool(outcome.faults))
