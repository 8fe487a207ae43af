"""How pictures are prepared: kinds of values of the ``data`` section, and rules that need two of its fields at once."""

from collections.abc import Iterator
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, PlainSerializer

from study.config.fields import expected
from study.config.view import View
from study.space import Fault

SMALLEST: Final = 32
LARGEST: Final = 8192
WIDTH_MULTIPLE: Final = 64


def _as_image_size(value: object) -> object:
    sides: list[Any] = list(value) if isinstance(value, list | tuple) else [value]
    is_whole = all(isinstance(side, int) and not isinstance(side, bool) for side in sides)
    is_one = not isinstance(value, list | tuple)
    if is_whole and len(sides) == (1 if is_one else 2) and all(SMALLEST <= side <= LARGEST for side in sides):
        return value if is_one else tuple(sides)
    raise expected(f"a whole number of px from {SMALLEST} to {LARGEST}, or two: [height, width]")


def _to_plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


ImageSize = Annotated[int | tuple[int, int], BeforeValidator(_as_image_size), PlainSerializer(_to_plain)]


def pixel_faults(view: View) -> Iterator[Fault]:
    """Faults of the picture settings that show only together."""
    scaling, crop = view.get("data.scaling"), view.get("data.crop")
    if view.get("data.colour") == "rgb":
        if scaling not in (None, "ordinal"):
            yield Fault("data.scaling", f"{scaling!r} scales by the breast's grey values; colour rgb needs ordinal")
        if crop == "breast":
            yield Fault("data.crop", "'breast' is found in grey pictures alone; colour rgb needs crop: none")
        if view.get("data.masks") is not None:
            yield Fault("data.masks", "breast masks belong to grey pictures; leave them out with colour rgb")
    elif view.get("data.masks") is not None and crop == "none" and scaling != "periodic":
        yield Fault("data.masks", "no effect with crop: none; leave one of the two out")
    if scaling not in (None, "multitask") and view.get("data.width_multiple") not in (None, WIDTH_MULTIPLE):
        yield Fault("data.width_multiple", f"no effect: expected scaling multitask, found {scaling}")
