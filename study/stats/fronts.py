"""Pareto fronts: which of several results no other one beats in every respect."""

from collections.abc import Sequence


def front_numbers(values: Sequence[Sequence[float]], modes: Sequence[str]) -> list[int]:
    """The front of each point, from 1: those that no other dominates, then those that only they dominate, and so on.

    A point dominates another when it is at least as good in every value and better in one (Deb et al., 2002).

    Args:
        values: points by their values, all finite and equally many.
        modes: ``max`` or ``min`` for each value.
    """
    signed = [tuple(-value if mode == "max" else value for value, mode in zip(v, modes, strict=True)) for v in values]
    left, fronts, number = set(range(len(signed))), [0] * len(signed), 0
    while left:
        number += 1
        front = _first_front([(signed[i], i) for i in left])
        for i in front:
            fronts[i] = number
        left -= front
    return fronts


def _first_front(points: Sequence[tuple[tuple[float, ...], int]]) -> set[int]:
    """Indices of the points that no other dominates; once sorted, only an earlier point can dominate one."""
    front: list[tuple[tuple[float, ...], int]] = []
    for point, i in sorted(points):
        if not any(other != point and all(a <= b for a, b in zip(other, point, strict=True)) for other, _ in front):
            front.append((point, i))
    return {i for _, i in front}
