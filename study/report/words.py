"""How numbers, parameters and times are written for people."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

UNKNOWN: Final = "-"
_PASSWORD: Final = re.compile(r"(://[^/@:]*):[^@/]*@")


def number(value: float | None) -> str:
    """A metric with three decimals (three significant digits when it is very large or small); ``-`` when undefined."""
    if value is None or math.isnan(value):
        return UNKNOWN
    if value == 0 or 0.001 <= abs(value) < 10_000:
        return f"{value:.3f}"
    return f"{value:.3g}"


def probability(value: float) -> str:
    """A p-value: three decimals, ``<0.001`` below that, ``-`` when undefined."""
    if math.isnan(value):
        return UNKNOWN
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def rate(images: int, seconds: float) -> str:
    """Speed as ``212 images/s``; empty when no time was measured."""
    if seconds <= 0 or images <= 0:
        return ""
    per_second = images / seconds
    return f"{per_second:.0f} images/s" if per_second >= 10 else f"{per_second:.1f} images/s"


def duration(seconds: float) -> str:
    """A time span as ``45 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def age(seconds: float) -> str:
    """How long ago something was: ``12 s ago``, ``3 min ago``, ``5 h ago``, ``9 days ago``; ``just now`` below 2 s."""
    if seconds < 2:
        return "just now"
    for size, name in ((86_400, "day"), (3600, "h"), (60, "min")):
        if seconds >= size * (2 if size > 3600 else 1):
            count = int(seconds // size)
            return f"{count} {name}{'s' if name == 'day' else ''} ago"
    return f"{int(seconds)} s ago"


def params_text(params: Mapping[str, Any]) -> str:
    """Sampled parameters in one line, by their last name: ``loss=focal gamma=2.31 lr=0.00123``.

    A path that ends in ``name`` is called by the part before it; paths with the same last name are written in full.
    """
    short = {path: _short_name(path) for path in params}
    seen = Counter(short.values())
    return " ".join(
        f"{short[path] if seen[short[path]] == 1 else path}={_value(value)}" for path, value in params.items()
    )


def cut(text: str, width: int) -> str:
    """``text`` in at most ``width`` characters; what was cut shows as ``...``."""
    if len(text) <= width:
        return text
    return text[: max(0, width - 3)].rstrip() + "..." if width >= 4 else text[: max(0, width)]


def without_password(uri: str) -> str:
    """The address with ``***`` where a password stood."""
    return _PASSWORD.sub(r"\1:***@", uri)


def and_list(names: Sequence[str]) -> str:
    """``3``, ``3 and 5``, ``3, 5 and 7``."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _short_name(path: str) -> str:
    parts = path.split(".")
    return parts[-2] if parts[-1] == "name" and len(parts) > 1 else parts[-1]


def _value(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
