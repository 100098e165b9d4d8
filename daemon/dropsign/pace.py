"""How many requests the service bears at a time: pure policy, with time as an argument.

Additive increase, multiplicative decrease, as TCP does it (RFC 5681): the limit begins low and grows by one with each
answer until the service first refuses for load; then it falls, and grows slowly from there. So it settles just below
what the service bears, and rarely asks for more.
"""

from typing import Final

FIRST_LIMIT: Final = 4.0
"""Requests at a time to begin with."""

PROBING_LIMIT: Final = 1.0
"""And after an outage."""

FALL_WHILE_STARTING: Final = 0.5
FALL: Final = 0.75

ROUNDS_PER_STEP: Final = 8
"""Once the limit is known, it grows by one only after so many rounds of answers: at a limit of 8, one request in 64
finds out whether the service bears more."""

RECENT_SECONDS: Final = 2.0
"""A service that answered within this time is overloaded, not out."""


class Pace:
    """The number of requests that may be on their way at a time, up to a ceiling."""

    def __init__(self, ceiling: int) -> None:
        self._ceiling = float(ceiling)
        self._limit = min(FIRST_LIMIT, self._ceiling)
        self._starting = True
        self._fell = float("-inf")
        self._answered = float("-inf")
        self._refused = 0

    @property
    def limit(self) -> int:
        """Requests that may be on their way now, at least one."""
        return int(self._limit)

    def answered(self, now: float) -> None:
        """Take in an answer, at monotonic seconds."""
        self._answered = now
        self._refused = 0
        step = 1.0 if self._starting else 1.0 / (ROUNDS_PER_STEP * self._limit)
        self._limit = min(self._ceiling, self._limit + step)

    def overloaded(self, began: float, now: float) -> bool:
        """Take in a refusal for load, or an answer that did not come in time.

        Args:
            began: when its request began, in monotonic seconds.
            now: when it was known.

        Returns:
            Whether the service is only overloaded; false if it answers nobody, which is an outage.
        """
        self._refused += 1
        if now - self._answered > RECENT_SECONDS or self._refused > 2 * self._ceiling:
            return False
        if began >= self._fell:  # else it is one of those that were on their way when the limit last fell
            self._limit = max(1.0, self._limit * (FALL_WHILE_STARTING if self._starting else FALL))
            self._starting = False
            self._fell = now
        return True

    def outage(self) -> None:
        """Begin anew, from one request at a time, once the outage is over."""
        self._limit = PROBING_LIMIT
        self._starting = True
        self._refused = 0
