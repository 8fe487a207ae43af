"""Rules of the ``data`` section that need two fields at once: labels and splits, and advice about both."""

from collections.abc import Iterator
from itertools import chain
from typing import Any, Final

from study.config.names import CLASS_NAMES, class_names
from study.config.view import View
from study.space import Fault
from study.space.spelling import hint, show

LABELS: Final = "data.labels"
SPLITS: Final = "data.splits"
OWNED: Final = {
    "folds": ("folds", "fold"),
    "leave_one_source_out": ("held_out",),
    "by_source": ("by_source",),
}
ORDINAL_KINDS: Final = ("vindr", "inbreast", "embed")
WITH_FRACTIONS: Final = {
    "fractions": ("val", "test"),
    "official": ("val", "test"),
    "folds": ("test",),
    "leave_one_source_out": ("val",),
}


def data_faults(view: View) -> Iterator[Fault]:
    """Faults of labels and splits that show only when several fields are read together."""
    yield from chain(_task_faults(view), _experiment_faults(view))
    yield from chain(_fraction_faults(view), _owned_faults(view), _fold_faults(view), _source_rule_faults(view))
    yield from _ordinal_faults(view)


def data_advice(view: View) -> Iterator[str]:
    """Settings of labels and splits that work but hardly mean what they say; one sentence each."""
    if view.get(f"{SPLITS}.unit") == "breast":
        yield (
            f"{SPLITS}.unit breast: the two breasts of a patient may lie on two sides of the split, so val and test "
            "look better than new patients will; use it only to repeat such a study"
        )
    scheme = view.get(f"{SPLITS}.scheme")
    used = WITH_FRACTIONS.get(str(scheme), () if scheme else ("val", "test"))
    if scheme == "by_source" and "official" in (view.get(f"{SPLITS}.by_source") or {}).values():
        used = ("val", "test")
    unused = [name for name in ("val", "test") if name not in used]
    idle = [f"{SPLITS}.{name}" for name in unused if view.number(f"{SPLITS}.{name}.fraction") not in (None, 0.2)]
    if idle:
        yield f"{' and '.join(idle)} have no effect with scheme {scheme}"


def classes_of(view: View) -> tuple[str, ...] | None:
    """Classes of the file's task; None while the task, or what names its classes, is faulty."""
    task = view.get(f"{LABELS}.task")
    if task is None:
        return None
    named, sub_grades = view.words(f"{LABELS}.classes"), view.get(f"{LABELS}.birads_sub")
    if task == "classes":
        return tuple(named) if named else None
    return class_names(task, sub_grades=bool(sub_grades)) or None


def tasks_of(view: View) -> list[str] | None:
    """All tasks of the file, the one that decides first; None while one of them is faulty."""
    task, others = view.get(f"{LABELS}.task"), view.words(f"{LABELS}.auxiliary")
    return None if task is None or others is None else list(dict.fromkeys([task, *others]))


def _task_faults(view: View) -> Iterator[Fault]:
    task = view.get(f"{LABELS}.task")
    for i, other in enumerate(view.words(f"{LABELS}.auxiliary") or ()):
        if other == task:
            yield Fault(f"{LABELS}.auxiliary.{i}", f"{show(other)}: it is {LABELS}.task already; expected another task")
    tasks, classes = tasks_of(view), view.words(f"{LABELS}.classes")
    if classes is None:
        return
    if "classes" in (task, *(view.words(f"{LABELS}.auxiliary") or ())) and len(classes) < 2:
        found = f"{len(classes)} named" if classes else "missing"
        yield Fault(f"{LABELS}.classes", f"{found}; expected all classes of task classes, in order of grade")
    if tasks is not None and "classes" not in tasks and classes:
        yield Fault(f"{LABELS}.classes", f"no effect: expected task classes, found {', '.join(tasks)}")


def _experiment_faults(view: View) -> Iterator[Fault]:
    tasks = tasks_of(view)
    if tasks is None:
        return
    for kind in ("leave_out", "flip", "synthesise"):
        for task in CLASS_NAMES:
            value = view.get(f"{LABELS}.{kind}.{task}")
            if task not in tasks and value not in (None, 0.0):
                message = f"{show(value)}: {task} is no task of this file; expected one of {', '.join(tasks)}"
                yield Fault(f"{LABELS}.{kind}.{task}", message)


def _fraction_faults(view: View) -> Iterator[Fault]:
    scheme = view.get(f"{SPLITS}.scheme")
    val, test = view.number(f"{SPLITS}.val.fraction"), view.number(f"{SPLITS}.test.fraction")
    both = WITH_FRACTIONS.get(str(scheme or "fractions"), ())
    if len(both) == 2 and val is not None and test is not None and val + test > 1 - 1e-9:
        yield Fault(SPLITS, f"val {val:g} and test {test:g} leave no patients to train; expected less than 1 together")


def _owned_faults(view: View) -> Iterator[Fault]:
    """Keys without their scheme, and schemes without their keys."""
    scheme = view.get(f"{SPLITS}.scheme")
    if scheme is None:
        return
    for owner, keys in OWNED.items():
        for key in keys:
            value = view.get(f"{SPLITS}.{key}")
            if scheme != owner and value is not None:
                yield Fault(f"{SPLITS}.{key}", f"belongs to scheme {owner}; the file has {scheme}")
            if scheme == owner and value is None and not view.is_broken(f"{SPLITS}.{key}"):
                yield Fault(f"{SPLITS}.{key}", f"missing; scheme {owner} needs it")


def _fold_faults(view: View) -> Iterator[Fault]:
    folds, fold = view.number(f"{SPLITS}.folds"), view.number(f"{SPLITS}.fold")
    if folds is not None and fold is not None and fold > folds:
        yield Fault(f"{SPLITS}.fold", f"{fold}: expected a whole number from 1 to {folds}, the folds")


def _names(view: View) -> list[Any] | None:
    """Names of the sources; None while one of them is faulty."""
    names = [view.get(f"{path}.name") for path, _ in view.items("data.sources")]
    return None if not names or None in names else names


def _source_rule_faults(view: View) -> Iterator[Fault]:
    scheme, names = view.get(f"{SPLITS}.scheme"), _names(view)
    if names is None:
        return
    held_out, rules = view.get(f"{SPLITS}.held_out"), view.get(f"{SPLITS}.by_source")
    if scheme == "leave_one_source_out":
        if held_out is not None and held_out not in names:
            message = f"{show(held_out)}: no source has this name; expected one of {', '.join(names)}"
            yield Fault(f"{SPLITS}.held_out", f"{message}{hint(held_out, names)}")
        if len(names) < 2:
            yield Fault(f"{SPLITS}.scheme", "'leave_one_source_out': expected at least 2 sources")
    if scheme != "by_source" or rules is None:
        return
    for name in rules:
        if name not in names:
            message = f"no source has this name; expected one of {', '.join(names)}{hint(name, names)}"
            yield Fault(f"{SPLITS}.by_source.{name}", message)
    lacking = [name for name in names if name not in rules]
    if lacking:
        yield Fault(f"{SPLITS}.by_source", f"no rule for {', '.join(lacking)}; expected one for every source")


def _ordinal_faults(view: View) -> Iterator[Fault]:
    """The protocol of paper ordinal knows what to do with three kinds of sources, and needs all of them."""
    kinds = [view.get(f"{path}.kind") for path, _ in view.items("data.sources")]
    if view.get(f"{SPLITS}.scheme") != "ordinal" or not kinds or None in kinds:
        return
    lacking = [kind for kind in ORDINAL_KINDS if kind not in kinds]
    others = [kind for kind in dict.fromkeys(kinds) if kind not in ORDINAL_KINDS]
    found = [f"no source of kind {', '.join(lacking)}"] if lacking else []
    found += [f"no rule for a source of kind {', '.join(others)}"] if others else []
    if found:
        wanted = f"expected sources of {', '.join(ORDINAL_KINDS)} alone, or scheme by_source"
        yield Fault(f"{SPLITS}.scheme", f"'ordinal': {'; '.join(found)}; {wanted}")
