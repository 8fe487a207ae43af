"""Rules of comparison methods that need several fields at once."""

import re
from collections.abc import Iterator
from typing import Final

from study.config.loss_rules import possible
from study.config.view import View
from study.space import Fault
from study.space.spelling import show

RUN: Final = re.compile(r"(.*/)?([A-Za-z0-9][A-Za-z0-9_-]{0,63})/(runs/)?(\d+|baseline)-s(\d+)/?(\?.*)?")


def comparator_faults(view: View) -> Iterator[Fault]:
    """Faults of ``confirm.ensemble``, ``confirm.mc_dropout`` and ``pseudo``."""
    seeds = view.get("confirm.seeds")
    if view.get("confirm.ensemble") is True and isinstance(seeds, list | tuple) and len(seeds) < 2:
        yield Fault("confirm.ensemble", f"true: expected at least 2 seeds in confirm.seeds, which has {len(seeds)}")
    rates = [rate for rate in possible("model.drop_rate", view) if isinstance(rate, int | float)]
    if view.get("confirm.mc_dropout") is not None and 0 in rates:
        yield Fault("confirm.mc_dropout", "model.drop_rate 0 leaves nothing to drop; expected a rate above 0 there")
    teacher = view.get("pseudo.teacher")
    if teacher is None:
        return
    matched = RUN.fullmatch(teacher)
    if matched is None:
        wanted = "expected <study>/<trial>-s<seed>, or path or URI of such a folder in the runs of a study"
        yield Fault("pseudo.teacher", f"{show(teacher)}: {wanted}")
    elif matched[2] == view.get("study"):
        yield Fault("pseudo.teacher", f"{show(teacher)}: a study cannot teach itself; expected a run of another study")
    if view.get("data.labels.keep_unlabelled") is False and not (view.words("data.labels.auxiliary") or ()):
        yield Fault("data.labels.keep_unlabelled", "false: pseudo has no images to label; expected true")
