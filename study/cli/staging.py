"""What travels to a cluster: this program's code and the resolved study file, in a folder of their own. Never data."""

import fnmatch
import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from study.errors import InputError

PACKAGE: Final = Path(__file__).parents[1]
STUDY_FILE: Final = "study.yaml"
LIMIT_BYTES: Final = 20_000_000
LARGEST: Final = 5
CACHES: Final = ("__pycache__", "*.pyc", "*.pyo", ".*")
NEEDED: Final = "study/__main__.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class Luggage:
    """Files that travel, by their place in the job's folder; sizes in bytes. ``text`` is the study file's, if any."""

    files: tuple[tuple[str, Path, int], ...]
    text: str = ""

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(size for _, _, size in self.files) + len(self.text.encode())

    @property
    def digest(self) -> str:
        """What tells study files apart; empty without one."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16] if self.text else ""

    def largest(self) -> list[tuple[str, int]]:
        """The largest files, with their sizes."""
        named = [(name, size) for name, _, size in self.files]
        return sorted(named, key=lambda entry: (-entry[1], entry[0]))[:LARGEST]

    def write(self, folder: Path) -> None:
        """Copy all of it into an empty folder."""
        for name, path, _ in self.files:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        if self.text:
            (folder / STUDY_FILE).write_text(self.text, encoding="utf-8")


def pack(text: str = "", *, excludes: Sequence[str] = (), package: Path = PACKAGE) -> Luggage:
    """Choose what travels: the package without caches and hidden files, and the study file.

    ``excludes`` are patterns of the shell over the place (``study/report/*``) or the name of a file or folder.

    Raises:
        InputError: it is too much; the message names the largest files. Or the program itself would stay behind.
    """
    files = []
    for path in sorted(package.rglob("*")):
        name = PurePosixPath("study") / path.relative_to(package).as_posix()
        if path.is_file() and not _is_left_out(name, (*CACHES, *excludes)):
            files.append((str(name), path, path.stat().st_size))
    luggage = Luggage(files=tuple(files), text=text)
    if NEEDED not in {name for name, _, _ in files}:
        raise InputError(f"--exclude leaves {NEEDED} behind, with which the cluster begins", "exclude less")
    if luggage.size > LIMIT_BYTES:
        lines = "".join(f"\n  {size / 1e6:8.1f} MB  {name}" for name, size in luggage.largest())
        raise InputError(
            f"{luggage.size / 1e6:.1f} MB would travel, at most {LIMIT_BYTES / 1e6:.0f} MB may; the largest:{lines}",
            "--exclude GLOB leaves files here; data belong on the nodes or in a store",
        )
    return luggage


def _is_left_out(name: PurePosixPath, patterns: Sequence[str]) -> bool:
    inner = name.parts[1:]
    return any(
        fnmatch.fnmatch(str(name), pattern) or any(fnmatch.fnmatch(part, pattern) for part in inner)
        for pattern in patterns
    )
