"""How long the demo waits: until nothing is missing any more, its time is up, or somebody wants it to end."""

import time
from collections.abc import Callable
from typing import Final

from dropsign.errors import UnreachableError

POLL_SECONDS: Final = 0.02


class Patience:
    """Time that is used up, and a bell that anyone may ring, a signal handler too."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ends = time.monotonic() + seconds
        self._is_interrupted = False

    def interrupt(self) -> None:
        """End all waiting."""
        self._is_interrupted = True

    def until_none(self, missing: Callable[[], str], poll_seconds: float = POLL_SECONDS) -> None:
        """Wait until nothing is missing.

        Args:
            missing: names what still is; `""` for nothing.
            poll_seconds: how often it is asked.

        Raises:
            UnreachableError: the time is up.
            KeyboardInterrupt: somebody interrupted.
        """
        while what := missing():
            if time.monotonic() > self._ends:
                msg = f"gave up after {self._seconds:g} s; still missing: {what}"
                raise UnreachableError(msg)
            self.rest(poll_seconds)

    def rest(self, seconds: float) -> None:
        """Do nothing for a while.

        Raises:
            KeyboardInterrupt: somebody interrupted.
        """
        ends = time.monotonic() + seconds
        while not self._is_interrupted and (left := ends - time.monotonic()) > 0:
            time.sleep(min(left, POLL_SECONDS))
        if self._is_interrupted:
            raise KeyboardInterrupt

    def rest_for_ever(self) -> None:
        """Do nothing until somebody interrupts, which is no error."""
        while not self._is_interrupted:
            time.sleep(POLL_SECONDS)
