"""Checks of ``loss`` against the classes and the sampler: rare classes must not be favoured twice by accident."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from study.config.data_rules import classes_of
from study.config.view import View
from study.space import Branch, Fault, SpaceNode, check_space, providers, values_at
from study.space.spelling import show

# Samplers that show the classes in equal shares, at least inside a segment.
BALANCING: Final = (
    "label",
    "source_label",
    "bal_labels",
    "bal_segments",
    "periodic",
    "class_stratified",
)
BETA_CLASSES: Final = (3, 14)  # for so many the shapes of soft_label_beta are published
# Settings by which a loss weights classes: path, the value that does not, and the loss whose nature it is.
WEIGHTINGS: Final = (("loss.class_weights", "none", None), ("loss.name", None, "cb"), ("loss.drw", False, "ldam"))

# Losses of the whole batch, and why their gradients must not be accumulated: as the losses themselves say.
BATCH_LEVEL: Final = ("wk", "mce_wk", "soft_f1", "soft_mcc", "ce_f1", "ce_mcc")
WHY_NOT: Final = (
    "it is a function of sums over the whole batch, and the function of two halves is not that of their union"
)


def possible(path: str, view: View) -> list[Any]:
    """Values that a path can take in the search, or the fixed one."""
    nodes = _providers(path, view)
    options = [value for node in nodes for value in (_values(node) if path == node.path else values_at(node, path))]
    values = [value for value in options if not isinstance(value, Branch)]
    if not values or any(node.when or node.inside for node in nodes):
        values.append(view.get(path))
    return [value for i, value in enumerate(values) if value is not None and value not in values[:i]]


def either(values: Sequence[Any], *, mark: str = " or ") -> str:
    """Values as the file spells them, one after the other."""
    return mark.join("true" if value is True else str(value) for value in values)


def double_corrections(view: View) -> Iterator[tuple[str, str]]:
    """Class weights that meet a sampler which balances classes, as pairs of path and sentence."""
    for path, idle, loss in WEIGHTINGS:
        values = possible(path, view)
        weighting = [value for value in values if value == loss] if idle is None else [v for v in values if v != idle]
        samplers = [name for name in together("sampler.name", path, view) if name in BALANCING]
        if not weighting or not samplers or (loss and loss not in possible("loss.name", view)):
            continue
        is_raw = "raw" in possible("loss.class_weight_source", view)
        yield (
            path,
            f"{path} {either(weighting, mark=' | ')} together with sampler.name {either(samplers, mark=' | ')}: "
            + ("rare classes are favoured twice; " if is_raw else "weights of classes as drawn hardly differ then; ")
            + "use one of the two unless that is the question",
        )


def accumulation_faults(view: View) -> Iterator[Fault]:
    """Gradients of parts are refused for losses of the whole batch."""
    count, name = view.number("train.accumulate"), view.get("loss.name")
    tasks = view.get("tasks")
    others = [view.get(f"tasks.{task}.loss") for task in tasks] if isinstance(tasks, Mapping) else []
    refused = [loss for loss in (name, *others) if loss in BATCH_LEVEL]
    if count is not None and count > 1 and refused:
        yield Fault("train.accumulate", f"{count}: loss {refused[0]} cannot be accumulated: {WHY_NOT}; expected 1")
    if not _providers("train.accumulate", view) or not _providers("loss.name", view):
        return  # with one of them fixed, each value of the other is checked by itself
    counts = [count for count in together("train.accumulate", "loss.name", view) if count != 1]
    names = [name for name in together("loss.name", "train.accumulate", view) if name in BATCH_LEVEL]
    if counts and names:
        yield Fault(
            "search.space.train.accumulate",
            f"loss {either(names)} cannot be accumulated: {WHY_NOT}; add when: {{loss.name: [...]}} without it",
        )


def loss_faults(view: View) -> Iterator[Fault]:
    """What cannot be: parameters and classes, accumulation; with ``strict: true``, double corrections, too."""
    classes = classes_of(view)
    if classes is not None:
        yield from _class_faults(view, len(classes))
    yield from accumulation_faults(view)
    if view.get("strict") is True:
        for path, text in double_corrections(view):
            yield Fault(path, text.removeprefix(f"{path} "))


def _class_faults(view: View, num_classes: int) -> Iterator[Fault]:
    """Where a loss depends on the number of classes: told here, not by the first worker that builds it."""
    name = view.get("loss.name")
    low, high = BETA_CLASSES
    if name == "soft_label_beta" and not low <= num_classes <= high:
        wanted = f"expected a task of {low} to {high} classes, or soft_label_binomial"
        yield Fault("loss.name", f"'soft_label_beta': its shapes are not published for {num_classes} classes; {wanted}")
    positive = view.number("loss.positive") if name == "soft_f1" else None
    if positive is not None and positive >= num_classes:
        yield Fault("loss.positive", f"{show(positive)}: expected a class from 0 to {num_classes - 1}")
    weights = view.get("loss.importance_weights") if name == "coral" else None
    if weights is not None and len(weights) != num_classes - 1:
        wanted = f"expected {num_classes - 1}, one for each threshold between the {num_classes} classes"
        yield Fault("loss.importance_weights", f"{len(weights)} numbers; {wanted}")


def loss_advice(view: View) -> Iterator[str]:
    """The same as advice."""
    if view.get("strict") is not True:
        for _, text in double_corrections(view):
            yield text


def together(path: str, other: str, view: View) -> list[Any]:
    """Values of a choice that can meet ``other``: a condition of ``other`` in the search leaves some out."""
    wanted = _conditions(other, view).get(path)
    return [value for value in possible(path, view) if wanted is None or value in wanted]


def _conditions(path: str, view: View) -> dict[str, list[Any]]:
    nodes = _providers(path, view)
    return {condition.path: list(condition.values) for condition in nodes[0].when} if len(nodes) == 1 else {}


def _values(node: SpaceNode) -> list[Any]:
    """The options of a parameter, or the ends of a range of whole numbers."""
    return [node.low, node.high] if node.kind == "int" else list(node.choices)


def _providers(path: str, view: View) -> list[SpaceNode]:
    """The searched parameters that give a value to a path."""
    raw = view.get("search.space")
    if not isinstance(raw, Mapping):
        return []
    return providers(path, view.once("space", lambda: check_space(raw)[0].nodes))
