"""The thread that carries the journal to MLflow, in order, for as long as it takes."""

import hashlib
import itertools
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from study.tracking.journal import Journal, Record
from study.tracking.mirror import Mirror
from study.tracking.server import is_permanent, reason_of, without_password

logger = logging.getLogger(__name__)

FIRST_DELAY_S: Final = 0.5
MAX_DELAY_S: Final = 20.0
RECORDS_PER_ROUND: Final = 100
LINGER_S: Final = 2.0  # after news, for more of them: what goes to MLflow together costs the driver less
FILES_PER_BATCH: Final = 50  # each brings a tag, and MLflow takes 100 of them at once
ARTIFACT_TRIES: Final = 5
TOLD_FAILURES: Final = 3  # in a row, after which a person is told: at the earliest 1.5 s after the first
JOURNAL_FILE: Final = "journal.jsonl"
CURSOR_FILE: Final = "journal.cursor"


class Delivery:
    """Delivers the journal from where its cursor stands; the cursor moves after delivery, so nothing is lost.

    Args:
        journal: what is to be delivered.
        mirror: who applies the records.
        cursor_path: file that holds how far the journal was delivered to this tracking URI.
        tracking_uri: the address; each has a place of its own in the cursor, and a new one is told everything.
        from_start: deliver everything again.
        tell: gets a line for a person when MLflow is away for long, and when it is back.
    """

    def __init__(
        self,
        journal: Journal,
        mirror: Mirror,
        *,
        cursor_path: Path,
        tracking_uri: str,
        from_start: bool = False,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._journal = journal
        self._mirror = mirror
        self._tell = tell
        self._cursor_path = cursor_path
        self._target = target_of(tracking_uri)
        self._cursors = read_cursors(cursor_path)
        self._offset, self._sequence = (0, 0) if from_start else self._start()
        self._is_checked = False
        self._had_trouble = False
        self._failures = 0  # in a row
        self._away_since = 0.0
        self._artifact_tries = 0
        self._single_until = 0  # files up to this record go alone, for one of them was at fault
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._closing = threading.Event()
        self._deadline = self._patience_s = 0.0
        self._thread = threading.Thread(target=self._run, name="mlflow-mirror", daemon=True)

    def start(self) -> None:
        """Begin to deliver, in a daemon thread."""
        self._thread.start()

    def wake(self) -> None:
        """Say that the journal has grown."""
        self._wake.set()

    def wait(self, timeout_s: float) -> int:
        """Wait until everything is delivered, for at most ``timeout_s`` seconds; the number of records that are not."""
        deadline = time.monotonic() + timeout_s
        self._hurry.set()
        while self._journal.count > self._sequence and time.monotonic() < deadline and self._thread.is_alive():
            time.sleep(0.05)
        self._hurry.clear()
        return self._journal.count - self._sequence

    def stop(self, timeout_s: float, *, is_patient: bool = False) -> int:
        """Deliver what is left, for at most ``timeout_s`` seconds; the number of records that were not delivered.

        With ``is_patient`` the time counts from the last record that MLflow took: what has waited for hours while the
        server was away takes its time.
        """
        self._patience_s = timeout_s if is_patient else 0.0
        self._deadline = time.monotonic() + timeout_s
        self._closing.set()
        self._hurry.set()
        self._wake.set()
        while self._thread.is_alive() and (left_s := self._deadline - time.monotonic()) > 0:
            self._thread.join(left_s)
        return self._journal.count - self._sequence

    def _run(self) -> None:
        delay = FIRST_DELAY_S
        while not (self._closing.is_set() and time.monotonic() > self._deadline):
            self._wake.clear()
            records = self._journal.read(self._offset, limit=RECORDS_PER_ROUND)
            if not records:
                if not self._closing.is_set():
                    self._wake.wait()
                    self._hurry.wait(LINGER_S)
                elif not self._is_doubled():
                    return
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
        for _, group in itertools.groupby(records, key=lambda item: self._batch_of(item[0])):
            batch = list(group)
            is_there = False
            try:
                if self._restarted():
                    return True
                is_there = True
                self._mirror.apply([record for record, _ in batch])
            except Exception as error:  # noqa: BLE001 - whatever MLflow raises must not end the mirror
                self._had_trouble = True
                self._mirror.forget()
                if len(batch) > 1 and batch[0][0].kind == "artifact":
                    self._single_until = batch[-1][0].sequence
                    return False
                if not self._is_given_up(batch[0][0], error, is_there=is_there):
                    return False
            self._is_back()
            self._deadline = max(self._deadline, time.monotonic() + self._patience_s)
            self._move(offset=batch[-1][1], sequence=batch[-1][0].sequence)
        return True

    def _batch_of(self, record: Record) -> tuple[object, ...]:
        """Epochs of one run in a row go together, and so do files of one; all else alone."""
        if record.kind == "epoch":
            return ("epoch", *record.run)
        if record.kind == "artifact" and record.sequence > self._single_until:
            return ("artifact", *record.run, record.sequence // FILES_PER_BATCH)
        return (record.sequence,)

    def _restarted(self) -> bool:
        """Go back to the beginning of the journal when MLflow has lost this study, or a part of it."""
        is_lost = not self._is_checked and self._mirror.is_new() and self._offset > 0
        self._is_checked = True
        if self._mirror.take_doubles() or is_lost:
            self._move(offset=0, sequence=0)
            return True
        return False

    def _is_doubled(self) -> bool:
        """In the end, whether a call that failed and was made again was heard twice; then all is delivered once more.

        A server that is slow may make a run after its caller has given up and asked for it again.
        """
        if not self._had_trouble:
            return False
        self._had_trouble = False
        try:
            self._mirror.forget()
            return self._restarted()
        except Exception as error:  # noqa: BLE001 - the next connection looks again
            logger.warning("MLflow could not be asked in the end: %s", reason_of(error))
            return False

    def _is_given_up(self, record: Record, error: Exception, *, is_there: bool) -> bool:
        """Whether the study goes on without a record; a file only when MLflow answers and still does not take it."""
        self._artifact_tries += is_there and record.kind == "artifact"
        is_given_up = is_permanent(error) or self._artifact_tries >= ARTIFACT_TRIES
        what = f"{record.kind} of run {record.run_name}" if record.trial else record.kind
        if is_given_up:
            logger.warning("MLflow does not take record %d (%s): %s", record.sequence, what, reason_of(error))
            return True
        self._failures += 1
        if self._failures == 1:
            self._away_since = time.monotonic()
            logger.warning("MLflow does not answer; its records wait in the journal: %s", reason_of(error))
        elif self._failures == TOLD_FAILURES:
            self._tell(
                f"MLflow does not answer ({reason_of(error)}); training goes on, its records wait in the journal"
            )
        return False

    def _is_back(self) -> None:
        """A record was delivered, or given up by a server that answers."""
        if self._failures >= TOLD_FAILURES:
            away = time.monotonic() - self._away_since
            self._tell(f"MLflow answers again after {away:.0f} s, and gets what waited in the journal")
        self._failures = self._artifact_tries = 0

    def _move(self, *, offset: int, sequence: int) -> None:
        self._offset, self._sequence = offset, sequence
        self._cursors[self._target] = (offset, sequence)
        temporary = self._cursor_path.with_name(f".{self._cursor_path.name}-{os.getpid()}")
        temporary.write_text(json.dumps({"delivered": self._cursors}))
        temporary.replace(self._cursor_path)

    def _start(self) -> tuple[int, int]:
        """Where to go on; at the beginning when the cursor is not one of this journal."""
        offset, sequence = self._cursors.get(self._target, (0, 0))
        if self._journal.is_end_of(offset, sequence):
            return offset, sequence
        logger.warning("the cursor of MLflow's journal does not fit it: everything is delivered again")
        return 0, 0


def read_cursors(path: Path) -> dict[str, tuple[int, int]]:
    """By the name of a tracking store, how many bytes and records it has got; nothing where the file is of no use.

    Nothing is lost with it: the journal is delivered again, and what is there already stays as it is.
    """
    try:
        kept = json.loads(path.read_text())
        if "target" in kept:  # of one store, as it was written before
            return {str(kept["target"]): (int(kept["offset"]), int(kept["sequence"]))}
        return {str(name): (int(offset), int(sequence)) for name, (offset, sequence) in kept["delivered"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        logger.warning("%s is damaged: everything is delivered again", path)
        return {}


def target_of(tracking_uri: str) -> str:
    """The name of a tracking store in a cursor; neither the address nor a password can be found from it."""
    return hashlib.sha256(without_password(tracking_uri).encode()).hexdigest()


def has_undelivered(study_dir: Path, tracking_uri: str) -> bool:
    """Whether the journal of a study holds records that MLflow at ``tracking_uri`` has not got yet."""
    journal = study_dir / JOURNAL_FILE
    if not journal.exists():
        return False
    offset, _ = read_cursors(study_dir / CURSOR_FILE).get(target_of(tracking_uri), (0, 0))
    return offset < journal.stat().st_size
