"""One story of a server that went and came back, whoever of the driver's threads waits for it."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

logger = logging.getLogger(__name__)

TELL_S: Final = 1.0  # a server that is back sooner is not worth a line on the terminal


class Outage:
    """Tells once that the ledger's server is away, and once that it is back; any thread may call.

    Attributes:
        tell: gets the lines for a person; the log has the first one in any case.
    """

    def __init__(self, tell: Callable[[str], None] = lambda _: None) -> None:
        self.tell = tell
        self._lock = threading.Lock()
        self._since: float | None = None
        self._is_told = False

    def go_on(self, reason: str, *, patience_s: float) -> None:
        """The server did not answer, or still does not; ``reason`` is what it or its driver said."""
        with self._lock:
            if self._since is None:
                self._since, self._is_told = time.monotonic(), False
                logger.warning("the ledger's server does not answer; waiting for it: %s", reason)
            if self._is_told or time.monotonic() - self._since < TELL_S:
                return
            self._is_told = True
        self.tell(f"the ledger's server does not answer ({reason}); waiting for it for up to {patience_s:g} s")

    def end(self) -> None:
        """A call that had to wait was answered; nothing happens when that is known."""
        with self._lock:
            if self._since is None:
                return
            away, self._since = time.monotonic() - self._since, None
            is_told = self._is_told
        if is_told:
            self.tell(f"the ledger's server answers again after {away:.0f} s; the study goes on")
