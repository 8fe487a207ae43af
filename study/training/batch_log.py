"""Which images stood in which batch of a run: one digest per rank and step, kept beside the run's checkpoints.

``batches.jsonl`` has a line for each stretch of steps between two checkpoints::

    {"attempt": 1, "first_step": 0, "steps": 2, "world_size": 2, "ranks": ["<16 digits per step>", "..."]}

It is written before the checkpoint that ends the stretch, so it covers whatever a checkpoint covers; steps that a kill
undid stand there twice. See :mod:`study.data.digest` for what the digests mean and how those of ranks are added.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch.distributed as dist

from study.data.digest import as_text, batch_digest, combined
from study.errors import StudyError
from study.training.parts import Batch

BATCHES_FILE: Final = "batches.jsonl"
_DIGITS: Final = 16


@dataclass(kw_only=True)
class BatchLog:
    """This rank's digests since the last line, and the digest of the epoch so far over all ranks.

    Attributes:
        epoch_digest: of all that the finished stretches of the current epoch have shown, on all ranks.
        first_step: of the stretch in hand.
    """

    directory: Path
    attempt: int
    first_step: int = 0
    epoch_digest: int = 0
    _digests: list[int] = field(default_factory=list)
    _is_whole: bool = False

    def add(self, batch: Batch, *, first_draw: int) -> None:
        """Note the next batch, whose first image has the draw ``first_draw``; streams without ids leave no trace."""
        if batch.ids_n is not None:
            self._digests.append(batch_digest(batch.ids_n, first_draw=first_draw))

    def flush(self) -> None:
        """Put the stretch in hand on disk and into ``epoch_digest``; every rank has to call it.

        Raises:
            StudyError: the disk refused the line.
        """
        ranks_rs = _gathered(self._digests)
        steps = len(self._digests)
        self._digests = []
        if not steps:
            return
        self.epoch_digest = combined([self.epoch_digest, *(digest for rank in ranks_rs for digest in rank)])
        if not dist.is_initialized() or dist.get_rank() == 0:
            self._write(ranks_rs)
        self.first_step += steps

    def end_epoch(self) -> str:
        """The digest of the whole epoch as text, empty where the stream gave no ids; the next one begins."""
        digest, self.epoch_digest = self.epoch_digest, 0
        return as_text(digest) if digest else ""

    def _write(self, ranks_rs: list[list[int]]) -> None:
        line = {
            "attempt": self.attempt,
            "first_step": self.first_step,
            "steps": len(ranks_rs[0]),
            "world_size": len(ranks_rs),
            "ranks": ["".join(map(as_text, rank)) for rank in ranks_rs],
        }
        path = self.directory / BATCHES_FILE
        try:
            if not self._is_whole:
                _cut_torn_line(path)
                self._is_whole = True
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise StudyError(
                f"{path} could not be written: {error.strerror or error}", "make room on that disk, then resume"
            ) from error


def _gathered(digests: list[int]) -> list[list[int]]:
    if not dist.is_initialized():
        return [digests]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, digests)
    return found


def _cut_torn_line(path: Path) -> None:
    """Remove what an earlier attempt could not finish writing, so that the next line begins on its own."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        file.truncate(file.read().rfind(b"\n") + 1)


def read_batches(directory: Path) -> dict[int, tuple[int, ...]]:
    """The digests of every step that the run in ``directory`` has made, one per rank; of repeated steps the last.

    The digest of a global batch, whatever the number of ranks, is ``combined(...)`` of a step's digests. A line that
    a kill cut off counts as not written.

    Raises:
        StudyError: a step that was made twice by equally many ranks held other images the second time.
    """
    path = directory / BATCHES_FILE
    steps: dict[int, tuple[int, ...]] = {}
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []:
        if not line.endswith("\n"):
            continue
        record = json.loads(line)
        for number in range(record["steps"]):
            place = slice(number * _DIGITS, (number + 1) * _DIGITS)
            found = tuple(int(rank[place], 16) for rank in record["ranks"])
            step = record["first_step"] + number
            if combined(steps.get(step, found)) != combined(found):
                raise StudyError(f"step {step} of run {directory.name} was made twice with different images")
            steps[step] = found
    return steps
