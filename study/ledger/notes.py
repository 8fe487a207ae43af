"""What the ledger keeps about the study as a whole: confirmation runs, test readings, stages.

Every note is one attribute of the Optuna study under its own key, so hardly anything is ever rewritten:

    run:<kind>:<trial>:<seed>     how a run of the confirmation ended
    attempt:<trial>:<seed>        how often that run was begun
    test:<time>:<trial>:<seed>    a reading of the test split
    retry:<trial>:<run>:<n>       the n-th time that the run was tried again after a failure: its kind, why, at which
                                  epoch, and in how many times more micro-batches it went on
    stage:<name>                  a phase that is over, the fingerprint of the data, the study file, and the like
    clock:<time>                  seconds that the search ran in the session that began then; it grows
    now                           what the driver does at this moment (``Now``); rewritten while it runs
"""

import time
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

from optuna.storages import BaseStorage

from study.errors import StudyError
from study.ledger.now import Now, now_from_json, now_to_json
from study.ledger.outage import Outage
from study.ledger.records import Reading, RunKind, RunRecord, outcome_to_json
from study.ledger.storage import answered, patience_for, sync_storage, write_ahead
from study.types import Retry, RunOutcome

SPACES: Final = "search spaces"
STUDY_FILE: Final = "study file"
NOW: Final = "now"


class StudyNotes:
    """Notes of one study in a storage. All writing methods raise StudyError on a ledger opened for reading."""

    def __init__(self, storage: BaseStorage, study_id: int, *, read_only: bool) -> None:
        self._storage = storage
        self._study_id = study_id
        self._read_only = read_only
        self._session: tuple[str, float] | None = None
        self.patience_s: float = 0.0 if read_only else patience_for(storage)
        self.outage = Outage()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a ledger holds the way into its database and stays in its process")

    def begin(self) -> None:
        """From now on the search runs and writes; the first call of a session counts."""
        if self._session is None:
            write_ahead(self._storage)
            self._session = (datetime.now(UTC).isoformat(), time.monotonic())

    @answered
    def keep_time(self) -> None:
        """Keep how long the search has run in this session."""
        if self._session is not None:
            self._note(f"clock:{self._session[0]}", time.monotonic() - self._session[1])

    @answered
    def hours_run(self) -> float:
        """How long the search has run, in all sessions."""
        own = f"clock:{self._session[0]}" if self._session else ""
        kept = {key: float(value) for key, value in self._notes().items() if key.startswith("clock:")}
        now = time.monotonic() - self._session[1] if self._session else 0.0
        return (sum(seconds for key, seconds in kept.items() if key != own) + now) / 3600

    @answered
    def claim_run(self, trial: str, seed: int) -> int:
        """The attempt number (from 1) of a confirmation run that begins now; it rises with every call."""
        key = f"attempt:{trial}:{seed}"
        attempt = int(self._notes().get(key, 0)) + 1
        self._note(key, attempt)
        return attempt

    @answered
    def record_run(self, trial: str, seed: int, outcome: RunOutcome, *, kind: RunKind = "train") -> None:
        """Keep how a run of the confirmation ended; ``trial`` is a number as text or ``baseline``."""
        self._note(f"run:{kind}:{trial}:{seed}", outcome_to_json(outcome))

    @answered
    def run_records(self) -> list[RunRecord]:
        """All recorded runs of the confirmation, in the order of their keys."""
        records = []
        for key, value in sorted(self._notes().items()):
            if key.startswith("run:"):
                _, kind, trial, seed = key.split(":")
                run_kind: RunKind = "evaluate" if kind == "evaluate" else "train"
                records.append(RunRecord(trial=trial, seed=int(seed), kind=run_kind, outcome=RunOutcome(**value)))
        return records

    @answered
    def record_retry(self, trial: str, seed: int, retry: Retry, *, fold: int = 0) -> None:
        """Keep that a run, of the search or of the confirmation, is tried again after a failure."""
        number = len(self.retries_of(trial, seed, fold=fold)) + 1
        run = f"{seed}.{fold}" if fold else f"{seed}"
        self._note(f"retry:{trial}:{run}:{number:04d}", asdict(retry))

    def retries(self) -> dict[tuple[str, int], tuple[Retry, ...]]:
        """All runs that were tried again, by trial and seed, with their retries in order; folds are not told apart."""
        found: dict[tuple[str, int], tuple[Retry, ...]] = {}
        for (trial, seed, _), retries in self._retries().items():
            found[trial, seed] = (*found.get((trial, seed), ()), *retries)
        return found

    def retries_of(self, trial: str, seed: int, *, fold: int = 0) -> tuple[Retry, ...]:
        """The retries of one run, in order."""
        return self._retries().get((trial, seed, fold), ())

    @answered
    def _retries(self) -> dict[tuple[str, int, int], tuple[Retry, ...]]:
        found: dict[tuple[str, int, int], tuple[Retry, ...]] = {}
        for key, value in sorted(self._notes().items()):
            if key.startswith("retry:"):
                trial, run = key.split(":")[1:3]
                seed, _, fold = run.partition(".")
                place = trial, int(seed), int(fold or 0)
                found[place] = (*found.get(place, ()), Retry(**value))
        return found

    def parts_of(self, trial: str) -> int:
        """In how many times more micro-batches the runs of a trial go; all its seeds alike, so that they compare."""
        of_trial = (retries for (name, _), retries in self.retries().items() if name == trial)
        return max([retry.parts for retries in of_trial for retry in retries], default=1)

    def num_retries(self, trial: str, seed: int, *, fold: int = 0) -> int:
        """How often a run was tried again after a failure."""
        return len(self.retries_of(trial, seed, fold=fold))

    def failed_since(self, trial: str, seed: int, *, epoch: int, fold: int = 0) -> dict[str, int]:
        """How often a run was tried again since its ``epoch``, by the kind of failure."""
        retries = self.retries_of(trial, seed, fold=fold)
        return dict(Counter(retry.kind for retry in retries if retry.epoch >= epoch))

    @answered
    def record_test_reading(self, trial: str, seed: int, *, time: datetime | None = None) -> None:
        """Keep that a run read the test split, now or at ``time``; every reading counts, also a repeated one."""
        moment = (time or datetime.now(UTC)).astimezone(UTC)
        self._note(f"test:{moment.isoformat()}:{trial}:{seed}", value=True)
        sync_storage(self._storage)  # no failure of the power may hide that the split was read

    @answered
    def test_readings(self) -> list[Reading]:
        """All readings of the test split, oldest first."""
        readings = []
        for key in sorted(key for key in self._notes() if key.startswith("test:")):
            time, trial, seed = key.removeprefix("test:").rsplit(":", 2)
            readings.append(Reading(trial=trial, seed=int(seed), time=time))
        return readings

    @answered
    def record_stage(self, name: str, value: Any) -> None:
        """Keep something about the study under ``name`` (plain data), for example that its search is over."""
        self._note(f"stage:{name}", value)

    @answered
    def stage(self, name: str) -> Any:
        """What was kept under ``name``; None when nothing was."""
        return self._notes().get(f"stage:{name}")

    @answered
    def record_file(self, text: str) -> None:
        """Keep the resolved study file (YAML), for those who reach the ledger and not the study's directory."""
        if self.stage(STUDY_FILE) != text:
            self.record_stage(STUDY_FILE, text)

    @answered
    def tell_now(self, now: Now) -> None:
        """Keep what the driver does at this moment, in the place of what it did before."""
        self._note(NOW, now_to_json(now))

    @answered
    def now(self) -> Now | None:
        """What the last driver did when it last told; None when none ever has."""
        kept = self._notes().get(NOW)
        return None if kept is None else now_from_json(kept)

    def let_go(self) -> None:
        """Give back what the calling thread holds of the database."""
        self._storage.remove_session()

    @answered
    def record_space(self, search: Any, num_trials: int) -> None:
        """Keep the search space when it is another one than before, with the trial from which it holds."""
        if search is None:
            return
        raw = search.space.to_raw() if hasattr(search.space, "to_raw") else dict(search.space)
        spaces = self.spaces()
        if not spaces or spaces[-1]["space"] != raw:
            self._note(f"stage:{SPACES}", [*spaces, {"from_trial": num_trials if spaces else 0, "space": raw}])

    def spaces(self) -> list[dict[str, Any]]:
        """All search spaces that the study has had, each with ``from_trial``; the last one holds now."""
        return list(self.stage(SPACES) or [])

    def _notes(self) -> dict[str, Any]:
        return self._storage.get_study_user_attrs(self._study_id)

    def _note(self, key: str, value: Any) -> None:
        self._must_write()
        self._storage.set_study_user_attr(self._study_id, key, value)

    def _must_write(self) -> None:
        if self._read_only:
            raise StudyError("this ledger was opened for reading", "open it with read_only=False, holding the lock")
