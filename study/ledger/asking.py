"""What a ledger keeps in memory about its trials, to suggest the next one: views, configurations, start points."""

import json
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from optuna.trial import FrozenTrial, TrialState

from study.config import StudyConfig, mode_of
from study.ledger.budget import limits_of
from study.ledger.several import is_outcome
from study.ledger.suggestion import Suggester, SuggestSettings
from study.ledger.view import seen
from study.space import SearchSpace, active_nodes, count, params_of, parse_space, value_in
from study.types import Limits

TURNS: Final = 8  # suggestions for one number, before a configuration that runs already is trained beside itself
START: Final = "start_with"


class Asking:
    """Drafts of new trials. All that it keeps follows from the trials that it was given with `take`."""

    def __init__(self, config: StudyConfig) -> None:
        search = config.search
        self.space = _space_of(search.space) if search else None
        self.metrics: tuple[str, ...] = config.metrics
        self.modes = (str(config.mode), *(mode_of(metric) for metric in config.metrics[1:]))
        self.constraints: Mapping[str, Mapping[str, float]] = dict(search.constraints) if search else {}
        self.limits: Limits = limits_of(
            search, trials=config.num_trials, configurations=count(self.space) if self.space is not None else None
        )
        self.devices = _devices_of(config)
        self._search, self._seed = search, config.seed
        self._points = [json.dumps(point, sort_keys=True) for point in search.start_with] if search else []
        self._views: dict[int, FrozenTrial | None] = {}
        self._keys: dict[int, str] = {}
        self._finished: dict[str, int] = {}
        self._used: set[str] = set()
        self._tried: set[str] = set()
        self._counted: set[int] = set()
        self._suggester = Suggester(self.space, self._settings(10))

    @property
    def num_taken(self) -> int:
        """How many trials there are, as far as was told."""
        return len(self._counted)

    @property
    def num_known(self) -> int:
        """How many configurations of a finite space have been tried."""
        return len(self._tried)

    @property
    def num_seen(self) -> int:
        """How many trials suggestions are made from."""
        return len(self._views)

    def settle(self, startup_trials: int) -> None:
        """Fix how many random trials come first; a ledger keeps the number with which it began."""
        self._suggester = Suggester(self.space, self._settings(startup_trials))

    def count(self, trial: FrozenTrial) -> None:
        """Learn of a trial as far as budgets need it; its parameters are enough."""
        self._counted.add(trial.number)
        params = trial.user_attrs.get("params", {})
        if self.limits.configurations is not None and self._is_whole(params):
            self._tried.add(_key(trial))

    def take(self, trial: FrozenTrial) -> None:
        """Learn of a trial, or of its end."""
        self.count(trial)
        self._views[trial.number] = seen(trial, self.space, self.constraints)
        key = _key(trial)
        self._keys[trial.number] = key
        if START in trial.user_attrs:
            self._used.add(trial.user_attrs[START])
        # A repeat has no epochs of its own, and a failure may not repeat itself.
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and "repeats" not in trial.user_attrs:
            self._finished.setdefault(key, trial.number)

    def draft(self) -> tuple[FrozenTrial | None, int | None]:
        """The next trial, and the number of the finished one whose configuration it has; None when a grid is done."""
        number = len(self._views)
        views = [view for _, view in sorted(self._views.items()) if view is not None]
        point = next((point for point in self._points if point not in self._used), None)
        running = {self._keys[view.number] for view in views if not view.state.is_finished()}
        draft: FrozenTrial | None = None
        for turn in range(TURNS):
            draft = self._suggester.draft(number, views, point=json.loads(point) if point else None, turn=turn)
            if draft is None or self.space is None or _key(draft) not in running:
                break
        if draft is None:
            return None, None
        key = _key(draft)
        draft.user_attrs |= {"attempt": 1, "devices": self.devices} | ({START: point} if point else {})
        return draft, self._finished.get(key) if self.space is not None else None

    def _is_whole(self, params: Mapping[str, Any]) -> bool:
        """Whether these are one configuration of the space; one of an earlier space has more or fewer parameters."""
        assert self.space is not None  # noqa: S101 - the caller has checked
        nodes = active_nodes(self.space, params)
        values = [value_in(node, params) for node in nodes]
        given = [params_of(node, value[0]) for node, value in zip(nodes, values, strict=True) if value is not None]
        return None not in values and {path for part in given for path in part} == set(params)

    def _settings(self, startup_trials: int) -> SuggestSettings:
        algorithm: str = self._search.algorithm if self._search else "random"
        size = max(1, len(self.space or ()))
        usual = 4 + int(3 * math.log(size)) if algorithm == "cmaes" else min(50, max(8, 2 * startup_trials))
        asked: int | None = self._search.population if self._search else None
        return SuggestSettings(
            algorithm=algorithm,
            seed=self._seed,
            modes=self.modes,
            startup_trials=startup_trials,
            population=asked or usual,
        )


def _key(trial: FrozenTrial) -> str:
    """A configuration as text."""
    return json.dumps(trial.user_attrs.get("params", {}), sort_keys=True)


def ended(trial: FrozenTrial, *, state: TrialState, values: list[float] | None, outcome: dict[str, Any]) -> FrozenTrial:
    """A copy of a trial in the state in which it ends."""
    return FrozenTrial(
        number=trial.number,
        trial_id=trial._trial_id,  # noqa: SLF001 - Optuna has no public name for it
        state=state,
        value=None,
        values=values,
        datetime_start=trial.datetime_start,
        datetime_complete=trial.datetime_complete,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={**trial.user_attrs, "outcome": outcome},
        system_attrs=trial.system_attrs,
        intermediate_values=trial.intermediate_values,
    )


def repeated(draft: FrozenTrial, original: FrozenTrial, *, outcome: dict[str, Any]) -> FrozenTrial:
    """A draft that ends like the trial whose configuration it has, without a run."""
    draft.user_attrs["repeats"] = original.number
    draft.user_attrs |= {name: value for name, value in original.user_attrs.items() if is_outcome(name)}
    draft.datetime_complete = datetime.now()  # noqa: DTZ005 - Optuna stores local time
    return ended(draft, state=original.state, values=original.values, outcome=outcome)


def startup_of(budget: int) -> int:
    """Random trials before a model is trusted: half of a small budget, at most 10."""
    return min(10, max(4, budget // 2)) if budget else 10


def _space_of(space: Any) -> SearchSpace:
    return space if isinstance(space, SearchSpace) else parse_space(space)


def _devices_of(config: StudyConfig) -> dict[str, float]:
    """Workers and GPUs of one run, for its cost."""
    resources = config.resources
    return {"workers": resources.most_workers, "gpus": resources.most_gpus}
