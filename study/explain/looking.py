"""A network looks at images: their maps in the frame, with the numbers of each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from study.data.mapping import FloatBox, Placement, box_to_prepared, placement_of
from study.data.sources.boxes import parse_lesions
from study.explain.cams import class_maps, find_layer
from study.explain.numbers import Attention, attention_of, breast_in_frame, to_frame
from study.explain.opening import OpenRun
from study.inference import row_batches
from study.models.inputs import to_input
from study.stats import proportion_interval

F32 = NDArray[np.float32]
BATCH: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One image and its maps in the frame [H, W]: ``pixels_hw`` from 0 to 1, ``heats_khw`` >= 0, one per class.

    ``truth`` is the label's class, -1 without one.
    """

    row: int
    pixels_hw: F32
    heats_khw: F32
    probs_k: NDArray[np.float64]
    attention: tuple[Attention, ...]
    truth: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSummary:
    """The maps of one class over the images that have it: mean share inside the breast, and the pointing game.

    ``inside`` is over ``num_images`` (NaN without any); ``hits`` of ``num_boxed`` images with known lesions have the
    highest place of the map in a lesion, a share from ``low`` to ``high`` (95 %, Wilson).
    """

    name: str
    num_images: int
    inside: float
    hits: int
    num_boxed: int
    low: float
    high: float

    @property
    def hit_rate(self) -> float:
        """Share of hits; NaN without an image with lesions."""
        return self.hits / self.num_boxed if self.num_boxed else float("nan")


def looks(run: OpenRun, rows: Sequence[int], *, task: str = "") -> Iterator[Look]:
    """What a run makes of some images, in their order; a few are in memory at a time.

    Raises:
        InputError: the network has no map of classes, or no such task.
    """
    criterion, columns, _ = run.head(task)
    labels_n = run.dataset.task_labels(task) if task else run.dataset.labels_n
    rows_n = np.asarray(rows, dtype=np.int64)
    most = 255.0 if run.dataset.bits == 8 else 65535.0
    layer = None
    done = 0
    for stored in row_batches(run.dataset, rows_n, batch_size=BATCH):
        images = to_input(stored.to(run.device))
        layer = layer or find_layer(run.network, images)
        maps = class_maps(run.network, criterion, images, columns=columns, layer=layer)
        pixels_nhw = stored.float().mean(dim=1).numpy() / most
        for place, row in enumerate(rows_n[done : done + len(stored)].tolist()):
            heats = [to_frame(heat, frame_hw=run.dataset.image_hw) for heat in maps.maps_nkhw[place]]
            yield Look(
                row=row,
                pixels_hw=pixels_nhw[place],
                heats_khw=np.stack(heats),
                probs_k=maps.probs_nk[place],
                attention=_attention(run, row, pixels_hw=pixels_nhw[place], heats=heats),
                truth=int(labels_n[row]),
            )
        done += len(stored)


def _attention(run: OpenRun, row: int, *, pixels_hw: F32, heats: Sequence[F32]) -> tuple[Attention, ...]:
    line = run.dataset.manifest.iloc[row]
    placement, _ = placement_in(line, run.dataset.image_hw)
    boxes = [box_to_prepared(box, placement) for box in lesions_of(line)]
    breast = breast_in_frame((pixels_hw * 65535).astype(np.uint16))
    return tuple(attention_of(heat, breast, boxes) for heat in heats)


def summarise(found: Iterator[Look], *, classes: Sequence[str]) -> list[AttentionSummary]:
    """Numbers of the map of the true class, for each class."""
    by_class: dict[int, list[Attention]] = {k: [] for k in range(len(classes))}
    for look in found:
        if look.truth >= 0:
            by_class[look.truth].append(look.attention[look.truth])
    return [_summary(classes[k], attentions) for k, attentions in by_class.items()]


def _summary(name: str, attentions: Sequence[Attention]) -> AttentionSummary:
    inside = np.array([each.inside for each in attentions if np.isfinite(each.inside)])
    hits = [each.hit for each in attentions if each.hit is not None]
    interval = proportion_interval(sum(hits), len(hits))
    return AttentionSummary(
        name=name,
        num_images=len(inside),
        inside=float(inside.mean()) if len(inside) else float("nan"),
        hits=sum(hits),
        num_boxed=len(hits),
        low=interval.low,
        high=interval.high,
    )


def placement_in(line: Any, frame_hw: tuple[int, int]) -> tuple[Placement, tuple[int, int]]:
    """Where the frame lies in the original, and the original's rows and columns.

    A dataset that does not know shows the frame itself.
    """
    if "box_left" not in line or not np.isfinite(float(line["box_left"])):
        whole = Placement(box=(0, 0, frame_hw[1], frame_hw[0]), scale=(1.0, 1.0), offset=(0, 0), flipped=False)
        return whole, frame_hw
    placement = placement_of(line)
    _, _, right, bottom = placement.box
    rows, columns = (float(line[name]) if name in line else float("nan") for name in ("rows", "cols"))
    known = bool(np.isfinite(rows) and np.isfinite(columns))
    return placement, (max(int(rows), bottom), max(int(columns), right)) if known else (bottom, right)


def lesions_of(line: Any) -> list[FloatBox]:
    """Boxes of the lesions of a manifest's row, in px of the original; none where they are not known."""
    text = line.get("lesions", None)
    return (parse_lesions(text) or []) if isinstance(text, str) else []
