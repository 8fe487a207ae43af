"""Reading and marking single trials of a study's storage: their epochs, and their values by seed."""

from typing import Any, Literal

from optuna.trial import FrozenTrial

from study.errors import InputError
from study.ledger.notes import StudyNotes
from study.ledger.pruners import stops_by_seeds
from study.ledger.storage import answered
from study.ledger.table import SEED_PREFIX, epochs_of, seeds_of
from study.types import EpochResult, TrialRow


class StoredTrials(StudyNotes):
    """Trials by number in a storage; ``name`` is the study's, ``mode`` that of its metric."""

    name: str
    mode: Literal["max", "min"]
    _rows: dict[int, TrialRow]

    @answered
    def epochs(self, number: int) -> list[EpochResult]:
        """All reported epochs of a trial, in order."""
        return [result for _, result in sorted(epochs_of(self._trial(number)).items())]

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
    def report_seed(self, number: int, seed: int, value: float) -> None:
        """Keep the metric of one seed (or fold) of a trial that has several."""
        self._must_write()
        self._storage.set_trial_user_attr(self._id(number), f"{SEED_PREFIX}{seed:05d}", float(value))

    @answered
    def seed_values(self, number: int) -> dict[int, float]:
        """The metric by seed of a trial that has several."""
        return seeds_of(self._trial(number))

    def should_stop_seeds(self, number: int, *, p_value: float) -> bool:
        """Whether the remaining seeds of a trial are left out: those it has are worse than the best trial's."""
        best = self.best()
        if best is None or int(best.trial) == number:
            return False
        mine, others = self.seed_values(number), self.seed_values(int(best.trial))
        return stops_by_seeds(mine, others, mode=self.mode, p_value=p_value)

    def best(self) -> TrialRow | None:
        """The best trial; None when there is none."""
        raise NotImplementedError

    def _trials(self) -> list[FrozenTrial]:
        return self._storage.get_all_trials(self._study_id, deepcopy=False)

    def _trial(self, number: int) -> FrozenTrial:
        return self._storage.get_trial(self._id(number))

    def _id(self, number: int) -> int:
        """Optuna's key of the trial in the database."""
        try:
            return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
        except KeyError as error:
            raise InputError(f"study {self.name} has no trial {number}", "look at `study status`") from error
