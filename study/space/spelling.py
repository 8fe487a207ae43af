"""Words for messages: a value as it was written, and the spelling that was probably meant."""

import json
from collections.abc import Iterable, Mapping, Sequence


def show(value: object) -> str:
    """A value as the user wrote it, short enough for one line."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:56]}...{text[-1]}"


def count_problems(count: int) -> str:
    """``1 problem``, ``4 problems``."""
    return f"{count} problem" if count == 1 else f"{count} problems"


def listed(names: Sequence[str], word: str = "and") -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return f"{', '.join(names[:-1])} {word} {names[-1]}" if len(names) > 1 else "".join(names)


def hint(word: str, options: Iterable[str]) -> str:
    """``; did you mean 'gamma'?`` when one of the options is near, else nothing."""
    best = nearest(word, options)
    return f"; did you mean {best!r}?" if best is not None else ""


def nearest(word: str, options: Iterable[str]) -> str | None:
    """The option that the fewest typing slips turn into ``word``; None when all are far (a third of its letters)."""
    most = min(max(1, len(word) // 3), len(word) - 1)
    near = (option for option in options if abs(len(option) - len(word)) <= most)  # lengths differ by slips, too
    ranked = sorted((_slips(word, option), -_same_start(word, option), option) for option in near)
    return ranked[0][2] if ranked and ranked[0][0] <= most else None


def _same_start(left: str, right: str) -> int:
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def _slips(left: str, right: str) -> int:
    """Letters to insert, delete, replace or swap with a neighbour, in any case (optimal string alignment distance)."""
    left, right = left.lower(), right.lower()
    before: list[int] = []
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, start=1):
        before, last, row = row, before, [i]
        for j, b in enumerate(right, start=1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
    return row[-1]
