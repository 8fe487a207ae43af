"""All fuzzers one after another; ``make fuzz`` runs the whole of it, a test a share.

python -m tests.fuzz.every [--share 0.01] [--seed 0] [--guided 20000]
"""

import argparse
import sys
from pathlib import Path

from tests.fuzz import fuzz_checkpoints, fuzz_dicom, fuzz_study_files, fuzz_tables, guided
from tests.fuzz.isolated import examine

INPUTS = {fuzz_dicom: 10_000, fuzz_study_files: 5_000, fuzz_tables: 3_000, fuzz_checkpoints: 3_000}


def main() -> int:
    """Print a table for each target; 1 if any input had a fault, else 3 if what was to be guided could not be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of the inputs of every target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guided", type=int, default=0, metavar="N", help="then so many inputs guided by coverage")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where inputs with faults go")
    asked = parser.parse_args()
    faults = 0
    for module, inputs in INPUTS.items():
        module.prepare()
        outcome = examine(module.TARGET, range(round(inputs * asked.share)), seed=asked.seed, keep=asked.keep)
        module.tidy()
        print(outcome.table(), flush=True)
        faults += len(outcome.faults)
    is_lacking = bool(asked.guided) and guided.atheris is None
    if is_lacking:
        print(guided.NO_ATHERIS, file=sys.stderr)
    elif asked.guided:
        faults += sum(guided.run(name, asked.guided, seed=asked.seed + 1, keep=asked.keep) for name in guided.TARGETS)
    return 1 if faults else 3 if is_lacking else 0


if __name__ == "__main__":
    sys.exit(main())
