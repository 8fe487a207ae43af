"""Pruners by name. Every one decides from what the trials have reported and keeps no state of its own.

So the answer to a question is the same after a restart. Optuna's own median, percentile and threshold pruners are
such functions and are used as they are; halving, hyperband and patience are ours, and wilcoxon compares runs.
"""

import hashlib
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

import optuna
from optuna.pruners import BasePruner, NopPruner, PercentilePruner, ThresholdPruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from study.ledger.pruning import HalvingPruner
from study.types import RunKey

PRUNERS: Final = (
    "none", "median", "percentile", "successive_halving", "hyperband", "wilcoxon", "patience", "threshold",
)  # fmt: skip


def make_pruner(settings: Any, *, max_epochs: int, seed: int) -> BasePruner:
    """The pruner of a study file's ``search.pruner`` (None: none); epochs count from 1.

    ``wilcoxon`` stops nothing by its epochs: `stops_by_runs` decides between the runs of a trial.
    """
    name = "none" if settings is None else settings.name
    if name in ("none", "wilcoxon"):
        return NopPruner()
    first = settings.min_epochs
    if name == "successive_halving":
        return HalvingPruner(min_epochs=first, reduction_factor=settings.reduction_factor)
    if name == "hyperband":
        return HyperbandPruner(
            min_epochs=first, max_epochs=max_epochs, reduction_factor=settings.reduction_factor, seed=seed
        )
    if name in ("median", "percentile"):
        share = 50.0 if name == "median" else settings.percentile
        return _Quiet(PercentilePruner(share, n_startup_trials=settings.startup_trials, n_warmup_steps=first))
    if name == "threshold":
        return ThresholdPruner(lower=settings.lower, upper=settings.upper, n_warmup_steps=first)
    return PatiencePruner(settings.patience, min_delta=settings.min_delta, min_epochs=first)


class _Quiet(BasePruner):
    """Another pruner, without numpy's warning about trials whose metric was never defined."""

    def __init__(self, pruner: BasePruner) -> None:
        self._pruner = pruner

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            return self._pruner.prune(study, trial)


class PatiencePruner(BasePruner):
    """Stop a trial whose best value of the last epochs is not better than its best one before them.

    Args:
        epochs: how many epochs may pass without a better value.
        min_delta: by how much a value has to be better.
        min_epochs: no decision before this epoch.
    """

    def __init__(self, epochs: int, *, min_delta: float = 0.0, min_epochs: int = 1) -> None:
        self._epochs, self._min_delta, self._min_epochs = epochs, min_delta, min_epochs

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether the trial has to stop after its last reported epoch; undefined values are never better."""
        last = trial.last_step or 0
        if last < self._min_epochs:
            return False
        sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
        curve = {epoch: sign * value for epoch, value in trial.intermediate_values.items() if not math.isnan(value)}
        early = [value for epoch, value in curve.items() if epoch <= last - self._epochs]
        late = [value for epoch, value in curve.items() if epoch > last - self._epochs]
        if last <= self._epochs or (late and not early):
            return False
        return not late or max(late) <= max(early) + self._min_delta


class HyperbandPruner(BasePruner):
    """Successive halving in several brackets, from many short trials to few long ones (Li et al., JMLR 2018).

    With R the epochs of a training, r the first rung and e the reduction factor there are ``s_max + 1`` brackets,
    ``s_max = floor(log_e(R / r))``; bracket ``s`` begins to stop trials at ``R / e**s`` epochs and gets a share of the
    trials in proportion to ``ceil((s_max + 1) / (s + 1) * e**s)``. A trial's bracket is a function of the study's seed
    and its number, and it is compared with trials of its own bracket alone.
    """

    def __init__(self, *, min_epochs: int, max_epochs: int, reduction_factor: int, seed: int) -> None:
        # A whole loop instead of a logarithm: log(243) / log(3) is a little below 5.
        highest = 0
        while min_epochs * reduction_factor ** (highest + 1) <= max_epochs:
            highest += 1
        self._seed = seed
        self.first_rungs = [max(1, round(max_epochs / reduction_factor**s)) for s in range(highest + 1)]
        self.shares = [math.ceil((highest + 1) / (s + 1) * reduction_factor**s) for s in range(highest + 1)]
        self._halving = [HalvingPruner(min_epochs=rung, reduction_factor=reduction_factor) for rung in self.first_rungs]

    def bracket(self, number: int) -> int:
        """The bracket of a trial, 0 for the one that stops nothing before the last epoch."""
        digest = hashlib.blake2b(f"bracket/{self._seed}/{number}".encode(), digest_size=4).digest()
        place = int.from_bytes(digest) % sum(self.shares)
        for bracket, share in enumerate(self.shares):
            if place < share:
                return bracket
            place -= share
        return 0

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether the trial has to stop after its last reported epoch."""
        mine = self.bracket(trial.number)
        others = [other for other in study.get_trials(deepcopy=False) if self.bracket(other.number) == mine]
        return self._halving[mine].prune_among(others, trial, direction=study.direction)


def stops_by_runs(
    mine: Mapping[RunKey, float], best: Mapping[RunKey, float], *, mode: str, p_value: float, min_runs: int = 2
) -> bool:
    """Whether the remaining seeds (or folds) of a trial are not worth their time: it is worse than the best trial.

    Wilcoxon's signed-rank test, one-sided, on the runs that both have (as Optuna's ``WilcoxonPruner``); in addition
    the trial's mean over them must be the worse one.

    Args:
        mine: the metric by seed or fold of the trial in question.
        best: the same of the best trial so far.
        mode: ``max`` or ``min``.
        p_value: level of the test.
        min_runs: runs in common before anything is decided.
    """
    from scipy.stats import wilcoxon

    shared: Sequence[RunKey] = sorted(set(mine) & set(best))
    sign = 1.0 if mode == "max" else -1.0
    differences = [sign * (mine[key] - best[key]) for key in shared]
    if len(shared) < min_runs or not any(differences) or not all(map(math.isfinite, differences)):
        return False
    if sum(differences) >= 0:
        return False
    return bool(wilcoxon(differences, alternative="less", zero_method="zsplit").pvalue < p_value)
