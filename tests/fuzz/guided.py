"""The same targets, guided by coverage: inputs that reach new lines of ours or of pydicom are kept and damaged again.

    python -m tests.fuzz.guided read_dicom --inputs 20000 --seed 1

Atheris (libFuzzer for Python) watches the lines; the damage is that of ``mutations`` half the time and libFuzzer's own
otherwise. It needs Linux on x86-64 and ``pip install atheris==3.0.0``; without it this program says so and ends with 3.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

try:
    import atheris
except ImportError:
    atheris = None

LIMIT_S = 10
GROWTH_MIB = 1024
NO_ATHERIS = "guided: atheris is not installed; pip install atheris==3.0.0 (Linux on x86-64), or leave this out"


@dataclass(frozen=True, kw_only=True)
class Guided:
    """One file that is damaged: its seeds, the damage, and who judges it."""

    seeds: tuple[bytes, ...]
    damage: Callable[[random.Random, bytes], bytes]
    judge: Callable[[random.Random, Path], str]
    name: str


def _dicom() -> Guided:
    from tests.fuzz import fuzz_dicom as fuzz
    from tests.fuzz.mutations import mutated_dicom

    seeds = (*fuzz.small_files(), *fuzz.pictures())  # small ones: thousands a minute, and the same lines of code
    return Guided(
        seeds=seeds, damage=lambda rng, content: mutated_dicom(rng, content, seeds), judge=fuzz.judge, name=fuzz.NAME
    )


def _study_files() -> Guided:
    from tests.fuzz import fuzz_study_files as fuzz
    from tests.fuzz.mutations import mutated_text

    texts = fuzz.texts()

    def damage(rng: random.Random, content: bytes) -> bytes:
        return mutated_text(rng, content.decode("utf-8", "replace"), texts)

    return Guided(seeds=tuple(text.encode() for text in texts), damage=damage, judge=fuzz.judge, name=fuzz.NAME)


def _checkpoints() -> Guided:
    """The state of a run; its checksums are made to fit, and the files beside it are whole."""
    from tests.fuzz import fuzz_checkpoints as fuzz
    from tests.fuzz.mutations import mutated_text

    (state,) = (fuzz.originals() / fuzz.RUN / "checkpoints").glob("step_*/state.json")

    def judge(rng: random.Random, folder: Path) -> str:
        content = (folder / state.name).read_bytes()
        shutil.copytree(fuzz.originals() / fuzz.RUN, folder / fuzz.RUN, dirs_exist_ok=True)
        target = folder / state.relative_to(fuzz.originals())
        target.write_bytes(content)
        fuzz.mend_run(folder / fuzz.RUN / "checkpoints")
        return fuzz.judge(rng, folder)

    def damage(rng: random.Random, content: bytes) -> bytes:
        return mutated_text(rng, content.decode("utf-8", "replace").replace(",", ",\n"))

    return Guided(seeds=(state.read_bytes(),), damage=damage, judge=judge, name=state.name)


TARGETS: dict[str, Callable[[], Guided]] = {
    "read_dicom": _dicom,
    "study_files": _study_files,
    "checkpoints": _checkpoints,
}


def _fuzz(name: str, inputs: int, seed: int, keep: Path, scratch: Path) -> None:
    """Inside the fuzzing process; libFuzzer ends it."""
    with atheris.instrument_imports(include=["study", "pydicom"]):
        import study.checkpoint
        import study.config
        import study.data.dicom  # noqa: F401 - their lines are to be counted
    target = TARGETS[name]()
    corpus = scratch / "corpus"
    corpus.mkdir()
    for number, content in enumerate(target.seeds):
        (corpus / f"{number:04d}").write_bytes(content)
    place = scratch / "input"
    place.mkdir()

    def judge(content: bytes) -> None:
        (place / target.name).write_bytes(content)
        target.judge(random.Random(len(content)), place)

    def damage(content: bytes, most: int, number: int) -> bytes:
        rng = random.Random(number)
        if rng.random() < 0.5:
            return bytes(atheris.Mutate(content, most))
        return target.damage(rng, content)[:most]

    options = (
        f"-runs={inputs}",
        f"-seed={seed}",
        f"-timeout={LIMIT_S}",
        f"-rss_limit_mb={_resident_mib() + GROWTH_MIB}",
        f"-artifact_prefix={keep}/{name}-",
        "-max_len=100000",
        "-print_final_stats=1",
    )
    atheris.Setup([sys.argv[0], *options, str(corpus)], judge, custom_mutator=damage, enable_python_coverage=True)
    atheris.Fuzz()


def _resident_mib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) // 1024


def run(name: str, inputs: int, *, seed: int, keep: Path | None = None) -> int:
    """Fuzz one target in a process of its own, and tell how it ended: 1 with a crash, a hang, or a growing process."""
    keep = keep or Path(tempfile.gettempdir()) / "study-fuzz"
    keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="guided-") as scratch:
        command = [sys.executable, "-m", "tests.fuzz.guided", name, "--inputs", str(inputs), "--seed", str(seed)]
        command += ["--keep", str(keep), "--inside", scratch]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    covered = next((line for line in reversed(done.stderr.splitlines()) if "cov:" in line), "no coverage was counted")
    print(
        f"{name}, guided: {inputs:,} inputs, seed {seed}, exit code {done.returncode}\n  {covered.strip()}", flush=True
    )
    if done.returncode:
        print(done.stdout[-2000:] + done.stderr[-3000:])
    return int(bool(done.returncode))


def main() -> int:
    """Fuzz one target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=list(TARGETS))
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if atheris is None:
        print(NO_ATHERIS, file=sys.stderr)
        return 3
    if asked.inside is None:
        return run(asked.target, asked.inputs, seed=asked.seed, keep=asked.keep)
    _fuzz(asked.target, asked.inputs, asked.seed, asked.keep, asked.inside)
    return 0


if __name__ == "__main__":
    sys.exit(main())
