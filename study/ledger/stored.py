"""Reading and marking single trials of a study's storage: their epochs, and those of their runs."""

from typing import Any, Literal

from optuna.trial import FrozenTrial

from study.errors import InputError
from study.ledger.notes import StudyNotes
from study.ledger.several import completed, epochs_of, keys_of, run_outcomes, sd_metrics
from study.ledger.storage import answered
from study.types import EpochResult, RunKey, RunOutcome, TrialRow


class StoredTrials(StudyNotes):
    """Trials by number in a storage; ``name`` is the study's, ``mode`` that of its metric."""

    name: str
    _keys: tuple[RunKey, ...]
    mode: Literal["max", "min"]
    _rows: dict[int, TrialRow]
    _ids: dict[int, int]

    @answered
    def epochs(self, number: int, key: RunKey | None = None) -> list[EpochResult]:
        """All reported epochs of a run of a trial, by default of the first one, in order."""
        trial = self._trial(number)
        is_first = key in (None, self._keys_of(trial)[0])
        return [result for _, result in sorted(epochs_of(trial, None if is_first else key).items())]

    @answered
    def attempt(self, number: int) -> int:
        """How often a trial was handed out."""
        return int(self._trial(number).user_attrs.get("attempt", 1))

    @answered
    def params_of(self, number: int) -> dict[str, Any]:
        """The parameters of a trial, as the search space wrote them."""
        return dict(self._trial(number).user_attrs.get("params", {}))

    def num_failed(self) -> int:
        """How many of the trials that this process has read or ended have failed."""
        return sum(row.state == "failed" for row in self._rows.values())

    @answered
    def keys(self, number: int) -> tuple[RunKey, ...]:
        """The runs of a trial, in the order in which they begin."""
        return self._keys_of(self._trial(number))

    @answered
    def run_outcomes(self, number: int) -> dict[RunKey, RunOutcome]:
        """How every run of a trial ended that has begun; of a trial that is not over, those that are complete.

        Runs that were not complete when their trial ended were stopped with it.
        """
        trial = self._trial(number)
        keys = self._keys_of(trial)
        if not trial.state.is_finished():
            return completed(trial, keys) if len(keys) > 1 else {}
        return {keys[0]: RunOutcome(**trial.user_attrs["outcome"])} if len(keys) == 1 else run_outcomes(trial, keys)

    @answered
    def run_sds(self, number: int) -> dict[str, float]:
        """Standard deviation of every metric over the complete runs of a trial; empty with fewer than two."""
        trial = self._trial(number)
        keys = self._keys_of(trial)
        return sd_metrics(list(completed(trial, keys).values())) if len(keys) > 1 else {}

    def _keys_of(self, trial: FrozenTrial) -> tuple[RunKey, ...]:
        """The runs of a trial."""
        return keys_of(self._keys, trial.user_attrs.get("params", {}))

    def best(self) -> TrialRow | None:
        """The best trial; None when there is none."""
        raise NotImplementedError

    def _trials(self) -> list[FrozenTrial]:
        return self._storage.get_all_trials(self._study_id, deepcopy=False)

    def _trial(self, number: int) -> FrozenTrial:
        return self._storage.get_trial(self._id(number))

    def _id(self, number: int) -> int:
        """Optuna's key of the trial in the database."""
        if number not in self._ids:  # it never changes, and is asked for several times in each epoch
            try:
                self._ids[number] = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
            except KeyError as error:
                raise InputError(f"study {self.name} has no trial {number}", "look at `study status`") from error
        return self._ids[number]
