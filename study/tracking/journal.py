"""The journal: every record of a study in order, one JSON line each, in its directory.

A record is written here before anything else happens with it. A kill can tear only the last line, which is cut off on
opening; every line has a checksum, so that anything else that changes one is noticed. What is in the journal already
(an epoch, a start or an end that is told again after a resume) is not written again, so each epoch has one record with
one time for ever, and MLflow takes a second delivery of it for the same point.
"""

import hashlib
import json
import threading
import time
import uuid
import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from study.errors import StudyError
from study.types import RunKey

Kind = Literal["study", "start", "epoch", "end", "trial", "test", "artifact", "close"]
Run = tuple[str, int, int]  # trial, seed, fold
NO_RUN: Final[Run] = ("", 0, 0)
CRC_KEY: Final = b', "crc32": '
CRC: Final = CRC_KEY + b"%d"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One line of the journal. ``trial`` is empty where a record concerns the study as a whole."""

    sequence: int
    kind: Kind
    trial: str
    seed: int
    time_ms: int
    payload: Mapping[str, Any]
    fold: int = 0

    @property
    def run(self) -> Run:
        """The run that the record concerns."""
        return self.trial, self.seed, self.fold

    @property
    def run_name(self) -> str:
        """The run as its folder is called."""
        return f"{self.trial}-{RunKey(seed=self.seed, fold=self.fold).name}"


class Journal:
    """Append-only; safe for one process with several threads.

    Attributes:
        study_id: random name of this study, which tells studies of one name apart; ``study`` records hold it. A new
            journal gets the one that was given.
        count: number of records.

    Raises:
        StudyError: a line other than the last one is damaged.
    """

    def __init__(self, path: Path, *, study_id: str = "") -> None:
        self._path = path
        self._lock = threading.Lock()
        self._seen: dict[Run, set[str]] = defaultdict(set)
        self._epochs: dict[Run, set[int]] = defaultdict(set)
        self._open: set[Run] = set()
        self._ended: dict[Run, object] = {}
        self._counts: Counter[str] = Counter()
        self._ends: dict[int, int] = {}
        self.count = 0
        self.study_id = ""
        size = self._load()
        self._file = path.open("ab")
        self._file.truncate(size)
        self.study_id = self.study_id or study_id or uuid.uuid4().hex

    def append(self, kind: Kind, *, run: Run = NO_RUN, payload: Mapping[str, Any]) -> bool:
        """Write a record unless the journal has it already; whether it was written."""
        with self._lock:
            if self._is_known(kind, run, payload):
                return False
            record = Record(
                sequence=self.count + 1,
                kind=kind,
                trial=run[0],
                seed=run[1],
                fold=run[2],
                time_ms=time.time_ns() // 1_000_000,
                payload=payload,
            )
            self._file.write(_line(record))
            self._file.flush()
            self._note(record, end=self._file.tell())
            return True

    def read(self, offset: int, *, limit: int) -> list[tuple[Record, int]]:
        """Up to ``limit`` records from byte ``offset`` on, each with the offset behind it."""
        records: list[tuple[Record, int]] = []
        with self._path.open("rb") as file:
            file.seek(offset)
            while len(records) < limit and (line := file.readline()).endswith(b"\n"):
                offset += len(line)
                records.append((_record(line), offset))
        return records

    def is_end_of(self, offset: int, sequence: int) -> bool:
        """Whether record number ``sequence`` ends at byte ``offset``, so that delivery may go on there."""
        return offset == sequence == 0 or self._ends.get(sequence) == offset

    def num_epochs(self, run: Run) -> int:
        """Number of epochs of a run that the journal has."""
        return len(self._epochs[run])

    def has_begun(self, run: Run, attempt: int | None = None) -> bool:
        """Whether the journal has the start of a run, or of one attempt at it."""
        if attempt is None:
            return any(key.startswith("start ") for key in self._seen.get(run, ()))
        return f"start {attempt}" in self._seen.get(run, ())

    def counts(self) -> dict[str, int]:
        """Number of records by kind, and of ``runs``."""
        return {**self._counts, "runs": len({run for run in self._seen if run != NO_RUN})}

    def open_runs(self) -> list[Run]:
        """Runs that have begun and not ended, in order."""
        return sorted(self._open)

    def close(self) -> None:
        """Close the file; records cannot be appended any more."""
        self._file.close()

    def _load(self) -> int:
        """Read what is there; the number of bytes that are whole."""
        size = 0
        if not self._path.exists():
            return size
        with self._path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                size += len(line)
                try:
                    self._note(_record(line, number), end=size)
                except (ValueError, TypeError, KeyError, AttributeError) as error:
                    raise self._damaged(number, error) from error
        return size

    def _damaged(self, number: int, error: Exception) -> StudyError:
        study = self._path.absolute().parent.name
        return StudyError(
            f"line {number} of {self._path} is damaged ({error})",
            f"move that file away, then `study sync {study}` writes it anew from the ledger; nothing is doubled",
        )

    def _is_known(self, kind: Kind, run: Run, payload: Mapping[str, Any]) -> bool:
        match kind:
            case "study" | "close":
                return False
            case "end":
                return run in self._ended and self._ended[run] == payload["state"]
            case "start" if self._ended.get(run) == "running":
                return False
        return _key(kind, payload) in self._seen[run]

    def _note(self, record: Record, *, end: int) -> None:
        self.count += 1
        self._ends[self.count] = end
        self._counts[record.kind] += 1
        run = record.run
        self.study_id = self.study_id or record.payload.get("study_id", "")
        if record.kind == "start":
            self._ended.pop(run, None)
            self._open.add(run)
        elif record.kind == "epoch":
            self._epochs[run].add(record.payload["epoch"])
        elif record.kind == "end":
            self._ended[run] = record.payload["state"]
            self._open.discard(run)
        self._seen[run].add(_key(record.kind, record.payload))


def _key(kind: Kind, payload: Mapping[str, Any]) -> str:
    """What makes two records of a run the same: an epoch's number, an attempt's number, else all of the content."""
    if kind == "epoch":
        return f"epoch {payload['epoch']}"
    if kind == "start":
        return f"start {payload['attempt']}"
    digest = hashlib.blake2b(json.dumps(payload, sort_keys=True).encode(), digest_size=8).hexdigest()
    return f"{kind} {digest}"


def _line(record: Record) -> bytes:
    """A line: the record as JSON, with the CRC-32 of everything before it as its last field."""
    fields = {
        "sequence": record.sequence,
        "kind": record.kind,
        "trial": record.trial,
        "seed": record.seed,
        "time_ms": record.time_ms,
        "payload": record.payload,
    } | ({"fold": record.fold} if record.fold else {})
    text = json.dumps(fields).encode()[:-1]
    return text + CRC % zlib.crc32(text) + b"}\n"


def _record(line: bytes, number: int = 0) -> Record:
    """The record of a line; those of before have no checksum.

    Raises:
        ValueError: the line is not JSON, not what was written, or not record ``number``.
    """
    text, mark, crc = line.rpartition(CRC_KEY)
    if mark and crc.rstrip(b"}\n") != b"%d" % zlib.crc32(text):
        raise ValueError("it does not agree with its checksum")
    fields = json.loads(line)
    fields.pop("crc32", None)
    if number and fields["sequence"] != number:
        raise ValueError(f"it is record {fields['sequence']}, expected {number}")
    return Record(**fields)
