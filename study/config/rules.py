"""Checks that need two fields at once, and advice that is no fault.

They read a ``View``: plain values by dotted path, without the places that are faulty on their own. So a file with a
fault in one place still gets every other fault reported.
"""

import posixpath
import re
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Final

from study.config.comparator_rules import comparator_faults
from study.config.data_rules import classes_of, data_advice, data_faults
from study.config.loss_rules import either, loss_advice, loss_faults, possible, together
from study.config.names import METRIC_MODE, SEGMENT_SUMMARIES, mode_of
from study.config.pixels import pixel_faults
from study.config.rates import OWNED_RATES
from study.config.search_rules import search_advice, search_faults
from study.config.task_rules import task_faults
from study.config.view import View
from study.space import Fault
from study.space.spelling import hint, nearest, show

__all__ = ["View", "advice", "metric_faults", "rule_faults"]

# Knobs that only some values of another knob read: path, default, that other knob, its values.
OWNED: Final = (
    ("optim.step_epochs", 10, "optim.schedule", ("step",)),
    ("optim.step_factor", 0.1, "optim.schedule", ("step", "plateau")),
    ("optim.plateau_epochs", 5, "optim.schedule", ("plateau",)),
    ("optim.momentum", 0.9, "optim.name", ("sgd",)),
    ("augment.mode", "fast", "augment.policy", ("mammogram", "multitask", "fundus")),
    ("augment.device", "cpu", "augment.policy", ("mammogram", "multitask", "fundus")),
    ("loss.class_weight_beta", 0.9999, "loss.class_weights", ("effective_number",)),
    ("loss.drw_start", 0.8, "loss.drw", (True,)),
    ("loss.drw_beta", 0.9999, "loss.drw", (True,)),
    ("model.fusion", None, "model.name", ("hourglass",)),
    ("model.reconstruct", None, "model.name", ("hourglass",)),
    ("tasks.reconstruction.weight", 1.0, "model.name", ("hourglass",)),
    *OWNED_RATES,
)
SHARES: Final = ("normal", "benign", "malignant")


def rule_faults(view: View) -> list[Fault]:
    """All faults that show only when several fields are read together."""
    return list(
        chain(
            _source_faults(view),
            _place_faults(view),
            _phantom_faults(view),
            data_faults(view),
            pixel_faults(view),
            loss_faults(view),
            search_faults(view),
            task_faults(view),
            comparator_faults(view),
            _budget_faults(view),
            metric_faults(view),
            _augment_faults(view),
        )
    )


def _augment_faults(view: View) -> Iterator[Fault]:
    """Mode ``compatible`` on the training device, whether by the fixed values or by a trial of the search."""
    can_meet = "train" in together("augment.device", "augment.mode", view)
    is_left = "train" in possible("augment.device", view) and view.get("augment.mode") == "compatible"
    if "compatible" in possible("augment.mode", view) and (can_meet or is_left):
        yield Fault(
            "augment.mode", "'compatible' is albumentations, which runs on CPU workers; expected augment.device cpu"
        )


def _source_faults(view: View) -> Iterator[Fault]:
    for key in ("name", "root"):
        seen: dict[str, str] = {}
        for path, source in view.items("data.sources"):
            value = view.get(f"{path}.{key}")
            if value is None or (key == "root" and source.get("kind") != "phantom"):
                continue
            if value in seen:
                yield Fault(f"{path}.{key}", f"{show(value)}: {seen[value]} has it too; expected another one")
            seen.setdefault(value, path)


def _place_faults(view: View) -> Iterator[Fault]:
    """Tables and folders of a source that lead out of its root; a table of its own may stand in a place of its own."""
    for path, source in view.items("data.sources"):
        if view.get(f"{path}.allow_outside") is True:
            continue
        for key in ("table", "tables", "images"):
            value = view.get(f"{path}.{key}")
            is_free = source.get("kind") == "table" and key == "table"
            if isinstance(value, str) and _leads_out(value, is_free=is_free):
                expected = "expected a place below the source's root, or allow_outside: true"
                yield Fault(f"{path}.{key}", f"{show(value)} leads out of the root; {expected}")


def _leads_out(value: str, *, is_free: bool) -> bool:
    """Whether a relative place climbs, or, unless ``is_free``, a place is not relative at all."""
    if "://" in value or value.startswith("/"):
        return not is_free
    return posixpath.normpath(value).split("/")[0] == ".."


def _phantom_faults(view: View) -> Iterator[Fault]:
    for path, source in view.items("data.sources"):
        if source.get("kind") != "phantom":
            continue
        has_grades = isinstance(source.get("grades"), list | tuple)
        names, key = (tuple(map(str, range(6))), "grades") if has_grades else (SHARES, "shares")
        shares = {name: view.number(f"{path}.{key}.{name}") for name in names}
        if not has_grades and view.number(f"{path}.reader_noise"):
            yield Fault(f"{path}.reader_noise", "readers are off by a grade, and there are no grades; expected grades")
        if None in shares.values():
            continue
        total = sum(shares.values())
        if abs(total - 1) > 1e-6:
            found = ", ".join(f"{share:g}" if has_grades else f"{name} {share:g}" for name, share in shares.items())
            yield Fault(f"{path}.{key}", f"{found} make {total:g}: expected 1 together")
        needed, patients = sum(share > 0 for share in shares.values()), view.number(f"{path}.patients")
        if patients is not None and patients < needed:
            one = "grade" if has_grades else "class"
            yield Fault(f"{path}.patients", f"{patients}: expected at least {needed}, one for each {one} with a share")


def _budget_faults(view: View) -> Iterator[Fault]:
    epochs = view.number("train.epochs")
    frozen = view.number("optim.freeze_epochs")
    if epochs is not None and frozen is not None and frozen >= epochs:
        yield Fault("optim.freeze_epochs", f"{frozen}: expected less than train.epochs, which is {epochs}")
    trials, top = view.number("search.trials"), view.number("confirm.top")
    if trials is not None and top is not None and top > trials:
        yield Fault("confirm.top", f"{top}: expected at most search.trials, which is {trials}")
    batch, workers = view.number("train.batch_size"), _most_workers(view)
    if batch is not None and workers is not None and batch % workers:
        yield Fault("train.batch_size", f"{batch}: expected a multiple of resources.workers, which is {workers}")
    parts = view.number("train.accumulate")
    if batch is not None and workers and parts is not None and parts > max(1, batch // workers):
        yield Fault("train.accumulate", f"{parts}: expected at most a worker's {batch // workers} images of a batch")


def _most_workers(view: View) -> int | None:
    """The most workers of a run; None where the value is faulty."""
    value = view.get("resources.workers")
    most = value[-1] if isinstance(value, list | tuple) and len(value) == 2 else value
    return most if isinstance(most, int) and not isinstance(most, bool) else None


def metric_faults(view: View) -> Iterator[Fault]:
    """Faults of ``search.metric``, ``search.mode`` and ``train.metric``."""
    alone = view.get("train.metric")
    if isinstance(alone, str):
        message = "search.metric decides here; leave it out" if view.get("search") else _metric_message(alone, view)
        if message:
            yield Fault("train.metric", f"{show(alone)}: {message}")
    yield from _constraint_faults(view)
    found, mode = view.get("search.metric"), view.get("search.mode")
    metrics = [found] if isinstance(found, str) else list(found) if isinstance(found, list | tuple) else []
    messages = [(metric, _metric_message(metric, view)) for metric in metrics if isinstance(metric, str)]
    for i, (metric, message) in enumerate(messages):
        if message:
            yield Fault(
                "search.metric" if isinstance(found, str) else f"search.metric.{i}", f"{show(metric)}: {message}"
            )
    if messages and mode is not None and not messages[0][1] and mode != mode_of(messages[0][0]):
        metric = messages[0][0]
        better = "higher" if mode_of(metric) == "max" else "lower"
        yield Fault("search.mode", f"{show(mode)}: {metric} is better when it is {better}; expected {mode_of(metric)}")


def _constraint_faults(view: View) -> Iterator[Fault]:
    constraints = view.get("search.constraints")
    for metric in constraints if isinstance(constraints, Mapping) else ():
        message = _metric_message(str(metric), view)
        if message:
            yield Fault(f"search.constraints.{metric}", f"{show(metric)}: {message}")


def _metric_message(metric: str, view: View) -> str | None:
    classes = classes_of(view)
    if classes is None and metric.rpartition("/")[2].startswith("auroc_"):
        return None  # which classes there are is unknown, and told elsewhere
    own = (f"auroc_{name}" for name in classes or ())
    local = [*(name for name in METRIC_MODE if name not in SEGMENT_SUMMARIES), *own]
    known = [*(f"val/{name}" for name in (*local, *SEGMENT_SUMMARIES))]
    if metric in known:
        return None
    split, _, rest = metric.partition("/")
    if split == "test":
        return f"the test split never steers a search; expected a val metric{hint(f'val/{rest}', known)}"
    matched = re.fullmatch(r"val/(breast|exam|segment/[A-Za-z0-9_.-]+)/([^/]+)", metric)
    if matched is None:
        return f"unknown metric{_metric_hint(metric, known)}"
    if matched[2] not in local:
        guess = nearest(matched[2], local)
        return "unknown metric" + (f"; did you mean 'val/{matched[1]}/{guess}'?" if guess else "")
    return _segment_message(matched[1][8:], view) if matched[1][:8] == "segment/" else _pooled_message(matched[1], view)


def _pooled_message(level: str, view: View) -> str | None:
    pool = view.words("evaluate.pool")
    return None if pool is None or level in pool else f"expected {level} in evaluate.pool"


def _metric_hint(metric: str, known: list[str]) -> str:
    if f"val/{metric}" in known:
        return f"; did you mean 'val/{metric}'?"
    longer = next((name for name in known if name.startswith(metric)), None)
    near = f"; did you mean {longer!r}?" if longer else hint(metric, known)
    return near or f"; expected one of {', '.join(known)} or val/segment/<name>/<metric>"


def _segment_message(segment: str, view: View) -> str | None:
    """Whether the segment can exist, as far as the file tells: the source's name is one of its parts."""
    columns = view.words("data.segments")
    names = [view.get(f"{path}.name") for path, _ in view.items("data.sources")]
    if columns is None or not names or None in names:
        return None
    parts = segment.split(".")
    if len(parts) != len(columns):
        return f"segment {segment!r}: expected one part, between points, for each of {', '.join(columns)}"
    if "source" not in columns:
        return None
    source = parts[columns.index("source")]
    return None if source in names else f"no source is named {source!r}; expected one of {', '.join(names)}"


def advice(view: View) -> list[str]:
    """Settings that work but hardly mean what they say; one sentence each."""
    return [*loss_advice(view), *_without_effect(view), *search_advice(view), *data_advice(view)]


def _without_effect(view: View) -> Iterator[str]:
    """Values that were set and that nothing will read."""
    for path, default, owner, readers in OWNED:
        if view.get(path) not in (None, default) and not set(readers) & set(possible(owner, view)):
            yield f"{path} has no effect without {owner}: {either(readers)}"
