"""The thread that carries the journal to MLflow, in order, for as long as it takes."""

import hashlib
import itertools
import json
import logging
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from study.tracking.journal import Journal, Record
from study.tracking.mirror import Mirror
from study.tracking.server import is_permanent, reason_of, without_password

logger = logging.getLogger(__name__)

FIRST_DELAY_S: Final = 0.5
MAX_DELAY_S: Final = 20.0
RECORDS_PER_ROUND: Final = 100
ARTIFACT_TRIES: Final = 5
JOURNAL_FILE: Final = "journal.jsonl"
CURSOR_FILE: Final = "journal.cursor"


class Delivery:
    """Delivers the journal from where its cursor stands; the cursor moves after delivery, so nothing is lost.

    Args:
        journal: what is to be delivered.
        mirror: who applies the records.
        cursor_path: file that holds how far the journal was delivered to this tracking URI.
        tracking_uri: the address; with another one everything is delivered anew.
    """

    def __init__(self, journal: Journal, mirror: Mirror, *, cursor_path: Path, tracking_uri: str) -> None:
        self._journal = journal
        self._mirror = mirror
        self._cursor_path = cursor_path
        self._target = target_of(tracking_uri)
        self._offset, self._sequence = self._read_cursor()
        self._is_checked = False
        self._tries = 0
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._deadline = 0.0
        self._thread = threading.Thread(target=self._run, name="mlflow-mirror", daemon=True)

    def start(self) -> None:
        """Begin to deliver, in a daemon thread."""
        self._thread.start()

    def wake(self) -> None:
        """Say that the journal has grown."""
        self._wake.set()

    def stop(self, timeout_s: float) -> int:
        """Deliver what is left, for at most ``timeout_s`` seconds; the number of records that were not delivered."""
        self._deadline = time.monotonic() + timeout_s
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout_s)
        return self._journal.count - self._sequence

    def _run(self) -> None:
        delay = FIRST_DELAY_S
        while True:
            self._wake.clear()
            records = self._journal.read(self._offset, limit=RECORDS_PER_ROUND)
            if not records:
                if self._closing.is_set():
                    return
                self._wake.wait()
            elif self._deliver(records):
                delay = FIRST_DELAY_S
            elif self._closing.wait(delay):
                if time.monotonic() + FIRST_DELAY_S > self._deadline:
                    return
                time.sleep(FIRST_DELAY_S)
            else:
                delay = min(2 * delay, MAX_DELAY_S)

    def _deliver(self, records: Sequence[tuple[Record, int]]) -> bool:
        """Apply records in order and move the cursor; False at the first one that has to be tried again."""
        for _, group in itertools.groupby(records, key=lambda item: _batch_of(item[0])):
            batch = list(group)
            try:
                if not self._is_checked and self._restarted():
                    return True
                self._mirror.apply([record for record, _ in batch])
            except Exception as error:  # noqa: BLE001 - whatever MLflow raises must not end the mirror
                self._mirror.forget()
                if not self._is_given_up(batch[0][0], error):
                    return False
            self._tries = 0
            self._move(offset=batch[-1][1], sequence=batch[-1][0].sequence)
        return True

    def _restarted(self) -> bool:
        """Go back to the beginning of the journal when MLflow has lost this study, or never knew it."""
        is_lost = self._mirror.is_new() and self._offset > 0
        self._is_checked = True
        if is_lost:
            self._move(offset=0, sequence=0)
        return is_lost

    def _is_given_up(self, record: Record, error: Exception) -> bool:
        self._tries += 1
        is_given_up = is_permanent(error) or (record.kind == "artifact" and self._tries >= ARTIFACT_TRIES)
        what = f"{record.kind} of run {record.trial}-s{record.seed}" if record.trial else record.kind
        if is_given_up:
            logger.warning("MLflow does not take record %d (%s): %s", record.sequence, what, reason_of(error))
        elif self._tries == 1:
            logger.warning("MLflow does not answer; its records wait in the journal: %s", reason_of(error))
        return is_given_up

    def _move(self, *, offset: int, sequence: int) -> None:
        self._offset, self._sequence = offset, sequence
        temporary = self._cursor_path.with_name(f".{self._cursor_path.name}-{os.getpid()}")
        temporary.write_text(json.dumps({"target": self._target, "offset": offset, "sequence": sequence}))
        temporary.replace(self._cursor_path)

    def _read_cursor(self) -> tuple[int, int]:
        try:
            cursor = json.loads(self._cursor_path.read_text())
            if cursor["target"] == self._target and cursor["sequence"] <= self._journal.count:
                return int(cursor["offset"]), int(cursor["sequence"])
        except (OSError, ValueError, KeyError, TypeError):
            logger.debug("no cursor at %s: the journal is delivered from its beginning", self._cursor_path)
        return 0, 0


def target_of(tracking_uri: str) -> str:
    """The name of a tracking store in a cursor; neither the address nor a password can be found from it."""
    return hashlib.sha256(without_password(tracking_uri).encode()).hexdigest()


def has_undelivered(study_dir: Path, tracking_uri: str) -> bool:
    """Whether the journal of a study holds records that MLflow at ``tracking_uri`` has not got yet."""
    journal, cursor_path = study_dir / JOURNAL_FILE, study_dir / CURSOR_FILE
    if not journal.exists():
        return False
    try:
        cursor = json.loads(cursor_path.read_text())
        is_same = cursor["target"] == target_of(tracking_uri)
        return not is_same or int(cursor["offset"]) < journal.stat().st_size
    except (OSError, ValueError, KeyError, TypeError):
        return True


def _batch_of(record: Record) -> tuple[object, ...]:
    """Epochs of one run in a row go together, all else alone."""
    return ("epochs", *record.run) if record.kind == "epoch" else (record.sequence,)
