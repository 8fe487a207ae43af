"""Rules of trials that are several runs, one for each seed or fold; and advice about them."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from study.config.view import View
from study.space import Fault

PRUNER: Final = "search.pruner.name"
# Parts of ``data.labels`` that change the labels of images that train, which with folds also validate.
OF_TRAINING: Final = ("leave_out", "flip", "synthesise")


def num_runs(view: View) -> int | None:
    """Runs of one trial; None where that cannot be told because seeds or folds are faulty."""
    if view.is_broken("search.seeds") or view.is_broken("search.folds"):
        return None
    seeds, folds = view.get("search.seeds"), view.number("search.folds")
    if isinstance(seeds, list | tuple):
        return len(seeds)
    return int(folds) if folds is not None else 1


def has_several(view: View) -> bool:
    """Whether a trial is several runs."""
    return (num_runs(view) or 1) > 1


def runs_faults(view: View) -> Iterator[Fault]:
    """Faults of ``search.seeds`` and ``search.folds`` against the rest of the file."""
    seeds, folds = view.get("search.seeds"), view.get("search.folds")
    if seeds is not None and folds is not None:
        yield Fault("search.folds", "search.seeds makes trials of several runs, too; expected one of them")
    if seeds is not None and _searches_seed(view):
        yield Fault("search.seeds", "search.space has the seed as a parameter; expected one of them")
    if num_runs(view) == 1 and view.get(PRUNER) == "wilcoxon":
        yield Fault(
            PRUNER,
            "'wilcoxon' compares the seeds or folds of a trial with those of the best one, and every trial of this "
            "search is one run; expected at least 2 search.seeds, search.folds, or another pruner",
        )
    if folds is not None:
        yield from _label_faults(view)


def runs_advice(view: View) -> Iterator[str]:
    """A level of the signed-rank test that so few runs cannot reach; one sentence."""
    runs, level = num_runs(view) or 1, view.number("search.pruner.p_value")
    if runs < 2 or level is None or view.get(PRUNER) != "wilcoxon":
        return
    smallest = 0.5 ** (runs - 1)  # all signs alike among the runs before the last one
    if smallest >= level:
        yield (
            f"search.pruner wilcoxon never stops a trial of {runs} runs: {runs - 1} of them give p = {smallest:g} at "
            f"least, and p_value is {level:g}; take more of them or a larger p_value"
        )


def _searches_seed(view: View) -> bool:
    space: Any = view.get("search.space")
    return isinstance(space, Mapping) and "seed" in space


def _label_faults(view: View) -> Iterator[Fault]:
    """What is done to labels of training images would be done to those that score a fold."""
    reason = "changes labels of training images, and with search.folds these validate, too; expected none"
    for part in OF_TRAINING:
        given = view.get(f"data.labels.{part}")
        if isinstance(given, Mapping) and any(value not in (None, 0, 0.0) for value in given.values()):
            yield Fault(f"data.labels.{part}", reason)
    if view.get("pseudo") is not None:
        yield Fault(
            "pseudo",
            "its teacher has learnt from training images, and with search.folds these validate, too; expected none",
        )
