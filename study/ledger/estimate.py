"""What a search will do before it runs: its first configurations, and its cost as far as earlier trials tell."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from study.config import StudyConfig
from study.ledger.asking import Asking
from study.types import TrialRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How fast earlier trials were: images per second of one run, images of one epoch, epochs of one run."""

    source: str
    trials: int
    images_per_second: float
    images_per_epoch: float
    epochs_per_run: float


def first_configurations(config: StudyConfig, number: int) -> list[dict[str, Any]]:
    """The first configurations that the search suggests while it knows no result; fewer when a grid has fewer."""
    asking = Asking(config)
    found: list[dict[str, Any]] = []
    while len(found) < number:
        draft, _ = asking.draft()
        if draft is None or draft.user_attrs["params"] in found:
            break
        asking.take(draft)
        found.append(draft.user_attrs["params"])
    return found


def speed_of(rows: Sequence[TrialRow], source: str) -> Speed | None:
    """The speed of finished trials that were trained; None when there is none."""
    timed = [row for row in rows if row.state in ("complete", "pruned") and row.seconds > 0 and row.images > 0]
    if not timed:
        return None
    seconds, images = sum(row.seconds for row in timed), sum(row.images for row in timed)
    epochs = sum(row.epochs for row in timed)
    return Speed(
        source=source,
        trials=len(timed),
        images_per_second=images / seconds,
        images_per_epoch=images / epochs,
        epochs_per_run=epochs / sum(max(1, len(row.runs)) for row in timed),
    )
