"""What rules read: the file's plain values by dotted path, without the places that are faulty on their own."""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class _Places(frozenset[str]):
    """Dotted paths, asked thousands of times: a file may have a fault on each of thousands of lines.

    Attributes:
        above: the paths of all that has one of them inside.
    """

    def __init__(self, paths: Collection[str] = ()) -> None:
        self.above = frozenset(above for path in paths for above in _parents(path))

    def has(self, path: str) -> bool:
        """Whether a path, or something that it lies in, is one of them."""
        return path in self or any(above in self for above in _parents(path))


def _parents(path: str) -> Iterator[str]:
    """Of ``a.b.c`` first ``a``, then ``a.b``."""
    at = path.find(".")
    while at >= 0:
        yield path[:at]
        at = path.find(".", at + 1)


class View:
    """Values by dotted path; ``overlay`` replaces values (a searched parameter, for example)."""

    def __init__(
        self,
        tree: Mapping[str, Any],
        broken: Collection[str] = (),
        *,
        overlay: Mapping[str, Any] | None = None,
        made: dict[str, Any] | None = None,
    ) -> None:
        self._tree = tree
        self._broken = broken if isinstance(broken, _Places) else _Places(broken)
        self._overlay = dict(overlay or {})
        self._made: dict[str, Any] = {} if made is None else made

    def get(self, path: str) -> Any:
        """The value; None where it is absent, null, or faulty itself or as a whole."""
        if path in self._overlay:
            return self._overlay[path]
        if self.is_broken(path):
            return None
        value: Any = self._tree
        for key in path.split("."):
            if isinstance(value, Mapping):
                value = value.get(key)
            elif isinstance(value, list | tuple) and key.isdecimal() and int(key) < len(value):
                value = value[int(key)]
            else:
                return None
        return value

    def is_broken(self, path: str) -> bool:
        """Whether the value is faulty itself or as a whole."""
        return self._broken.has(path)

    def number(self, path: str) -> Any:
        """The value when it is a number; None otherwise."""
        value = self.get(path)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None

    def words(self, path: str) -> list[str] | None:
        """The value when it is a list of text without faults; None otherwise."""
        values = self.get(path)
        whole = isinstance(values, list | tuple) and path not in self._broken.above
        return [str(value) for value in values] if whole else None

    def items(self, path: str) -> list[tuple[str, Mapping[str, Any]]]:
        """The mappings of a list with their paths; empty when the list is faulty."""
        values = self.get(path)
        if not isinstance(values, list | tuple):
            return []
        return [(f"{path}.{i}", value) for i, value in enumerate(values) if isinstance(value, Mapping)]

    def replaced(self, values: Mapping[str, Any]) -> "View":
        """The same view with other values at some paths."""
        made = self._made if "search" not in {path.partition(".")[0] for path in values} else None
        return View(self._tree, self._broken, overlay={**self._overlay, **values}, made=made)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What ``make`` gives, made once for this view and those that other values replace in it.

        For what follows from ``search`` alone, which is read for every value of a search space.
        """
        if name not in self._made:
            self._made[name] = make()
        found: T = self._made[name]
        return found
