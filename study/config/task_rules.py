"""Rules of ``tasks`` and of the network's tasks that need several fields at once."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, get_args

from study.config.data_rules import tasks_of
from study.config.loss_rules import BETA_CLASSES
from study.config.losses import LossConfig
from study.config.names import CLASS_NAMES, class_names
from study.config.record import Section
from study.config.view import View
from study.space import Fault
from study.space.spelling import hint, listed, show

ALL_TASKS: Final = "all"
NO_TASK: Final = "none"
OF_AUXILIARY: Final = ("loss", "normaliser", "class_weights")
LOSS_RECORDS: Final[dict[str, type[Section]]] = {
    get_args(record.model_fields["name"].annotation)[0]: record for record in get_args(get_args(LossConfig)[0])
}


def chosen_tasks(text: str, auxiliary: Sequence[str]) -> tuple[str, ...]:
    """Auxiliary tasks that ``model.tasks`` names, in the order of the file: ``all``, ``none``, or ``acr+view``."""
    named = auxiliary if text == ALL_TASKS else () if text == NO_TASK else text.split("+")
    return tuple(task for task in auxiliary if task in named)


def task_faults(view: View) -> Iterator[Fault]:
    """Faults of ``tasks`` and of ``model.tasks`` against the tasks of the file."""
    tasks = tasks_of(view)
    if tasks is None:
        return
    yield from _choice_faults(view, tasks)
    for task in CLASS_NAMES:
        if view.get(f"tasks.{task}") is None and not _is_searched(view, task):
            continue
        if task not in tasks:
            yield Fault(f"tasks.{task}", f"{task} is no task of this file; expected one of {', '.join(tasks)}")
        elif task == tasks[0]:
            yield from _deciding_faults(view, task)
        else:
            yield from _auxiliary_faults(view, task)
        yield from _factor_faults(view, task, tasks)


def _is_searched(view: View, task: str) -> bool:
    return any(view.get(f"tasks.{task}.{key}") is not None for key in ("weight", "factor", *OF_AUXILIARY))


def _choice_faults(view: View, tasks: Sequence[str]) -> Iterator[Fault]:
    text = view.get("model.tasks")
    if not isinstance(text, str) or text in (ALL_TASKS, NO_TASK):
        return
    auxiliary = tasks[1:]
    wanted = f"{ALL_TASKS}, {NO_TASK}, or auxiliary tasks of this file joined by +"
    for name in text.split("+"):
        if name not in auxiliary:
            near = hint(name, (ALL_TASKS, NO_TASK, *auxiliary))
            found = f"{show(text)}: {show(name)} is no auxiliary task of this file"
            yield Fault("model.tasks", f"{found}; expected {wanted} ({', '.join(auxiliary) or 'it has none'}){near}")


def _deciding_faults(view: View, task: str) -> Iterator[Fault]:
    for key in OF_AUXILIARY:
        value = view.get(f"tasks.{task}.{key}")
        if value is not None:
            where = "loss.name" if key == "loss" else f"loss.{key}"
            yield Fault(f"tasks.{task}.{key}", f"{show(value)}: {task} decides; expected it at {where}")
    if view.number(f"tasks.{task}.weight") == 0:
        yield Fault(f"tasks.{task}.weight", f"0: {task} decides; expected a number above 0")


def _auxiliary_faults(view: View, task: str) -> Iterator[Fault]:
    """What the loss of an auxiliary task does not take."""
    loss = view.get(f"tasks.{task}.loss") or "cross_entropy"
    record = LOSS_RECORDS.get(loss)
    if record is None:
        return
    classes, (low, high) = _classes_of(view, task), BETA_CLASSES
    if loss == "soft_label_beta" and classes and not low <= len(classes) <= high:
        wanted = f"expected a task of {low} to {high} classes, or soft_label_binomial"
        yield Fault(
            f"tasks.{task}.loss",
            f"'soft_label_beta': its shapes are not published for {len(classes)} classes; {wanted}",
        )
    for key in ("normaliser", "class_weights"):
        value = view.get(f"tasks.{task}.{key}")
        if value is None or (key == "class_weights" and value == "none"):
            continue
        field = record.model_fields.get(key)
        options: tuple[Any, ...] = get_args(field.annotation) if field is not None else ()
        if value not in options:
            wanted = f"expected one of {listed(options, 'or')}" if options else f"loss {loss} has no {key}"
            yield Fault(f"tasks.{task}.{key}", f"{show(value)} with loss {loss}: {wanted}")


def _classes_of(view: View, task: str) -> tuple[str, ...]:
    """Classes of a task; empty while what names them is faulty."""
    classes, grades = view.words("data.labels.classes"), view.get("data.labels.birads_sub")
    return () if classes is None else class_names(task, classes=classes, sub_grades=bool(grades))


def _factor_faults(view: View, task: str, tasks: Sequence[str]) -> Iterator[Fault]:
    names = view.words(f"tasks.{task}.factor_classes")
    factor = view.number(f"tasks.{task}.factor")
    if factor not in (None, 1.0) and names is not None and not names:
        yield Fault(f"tasks.{task}.factor_classes", f"missing; factor {factor:g} needs the classes that it concerns")
    if view.words("data.labels.classes") is None or names is None:
        return
    known = list(dict.fromkeys(name for other in (task, *tasks) for name in _classes_of(view, other)))
    for i, name in enumerate(names):
        if name not in known:
            message = f"{show(name)}: expected a class of this file's tasks ({', '.join(known)}){hint(name, known)}"
            yield Fault(f"tasks.{task}.factor_classes.{i}", message)
