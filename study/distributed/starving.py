"""Tells the switchboard when Ray has killed a worker because its machine was running out of memory."""

from typing import Any, Final

import ray
from ray.train import UserCallback

PHRASES: Final = ("OutOfMemoryError", "running low on memory")


class MemoryWatch(UserCallback):
    """Heard by Ray Train's controller before it starts the workers of a slot again."""

    def __init__(self, switchboard: Any, slot: int) -> None:
        self._switchboard, self._slot = switchboard, slot

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Ray names the cause in the error of the worker, or in what that was made from."""
        if any(was_starved(error) for error in worker_exceptions.values()):
            ray.get(self._switchboard.starve.remote(self._slot))


def was_starved(error: BaseException) -> bool:
    """Whether Ray's memory monitor ended the worker whose error this is."""
    cause = getattr(error, "health_check_failure", None) or error.__cause__
    if isinstance(error, ray.exceptions.OutOfMemoryError) or any(phrase in str(error) for phrase in PHRASES):
        return True
    return isinstance(cause, BaseException) and was_starved(cause)
