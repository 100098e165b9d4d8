"""How many requests the service bears at a time: pure policy, with time as an argument.

Additive increase, multiplicative decrease, as TCP does it (RFC 5681): the limit begins low and grows by one with each
answer until the service first refuses for load; then it falls, and grows slowly from there. So it settles just below
what the service bears, and rarely asks for more. A short `Retry-After` stops all requests for that long.

A refusal that comes as often to one who asks alone is not for our load: asking less would help nobody. So the share
of requests refused at a limit of one is learned, and as many may be refused at any limit before it falls.
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

BOUND_SECONDS: Final = 10.0
"""So long it stays below what was last refused."""

RECENT_SECONDS: Final = 2.0
"""A service that answered within this time is overloaded, not out."""

LONGEST_PAUSE_SECONDS: Final = 5.0
"""A service that asks for more than this is out, and the gate says so."""


LEARNING: Final = 1 / 32
"""How much each answer or refusal counts for the share that is refused."""

EXCUSED: Final = 3.0
"""So many times the share that is refused anyway is borne, as chance has its runs."""

EXCUSED_MOST: Final = 8.0
"""So many refusals may come at once."""


class Pace:
    """The number of requests that may be on their way at a time, up to a ceiling."""

    def __init__(self, ceiling: int) -> None:
        self._ceiling = float(ceiling)
        self._limit = min(FIRST_LIMIT, self._ceiling)
        self._starting = True
        self._fell = float("-inf")
        self._refused = 0
        self._share = self._share_alone = self._excused = 0.0
        self._bound = self._ceiling
        self._bound_ends = float("-inf")
        self.last_answer = float("-inf")
        """When somebody was last answered, in monotonic seconds."""
        self.resumes = float("-inf")
        """Until when nobody may ask, in monotonic seconds."""

    @property
    def limit(self) -> int:
        """Requests that may be on their way now, at least one."""
        return int(self._limit)

    def answered(self, now: float) -> None:
        """Take in an answer, at monotonic seconds."""
        self.last_answer = now
        self._refused = 0
        self._learn(0.0, alone=self.limit == 1)
        step = 1.0 if self._starting else 1.0 / (ROUNDS_PER_STEP * self._limit)
        most = self._bound if now < self._bound_ends else self._ceiling
        if self._limit < most:
            self._limit = min(most, self._ceiling, self._limit + step)

    def overloaded(self, began: float, now: float, retry_after: float | None = None) -> bool:
        """Take in a refusal for load, or an answer that did not come in time.

        Args:
            began: when its request began, in monotonic seconds.
            now: when it was known.
            retry_after: seconds that the service asked to wait.

        Returns:
            Whether the service is only overloaded; false if it answers nobody, which is an outage.
        """
        self._refused += 1
        retry_after = retry_after or 0.0
        recently = now - max(self.last_answer, self.resumes) <= RECENT_SECONDS and self.last_answer > float("-inf")
        if not recently or self._refused > 2 * self._ceiling or retry_after > LONGEST_PAUSE_SECONDS:
            return False
        if retry_after and now >= self.resumes:
            # One that asks for a pause after every few answers is paused for half the time, lest it stand still.
            self.resumes = now + min(retry_after, now - self.resumes)
        self._learn(1.0, alone=self.limit == 1 and began >= self._fell)
        if self._excused >= 1.0:
            self._excused -= 1.0
            self._starting, self._bound_ends = True, now  # what it bears is not known
        elif began >= self._fell:  # else it is one of those that were on their way when the limit last fell
            self._bound, self._bound_ends = max(FIRST_LIMIT, int(self._limit) - 1.0), now + BOUND_SECONDS
            self._limit = max(1.0, self._limit * (FALL_WHILE_STARTING if self._starting else FALL))
            self._starting = False
            self._fell = now
        return True

    def _learn(self, refused: float, *, alone: bool) -> None:
        """Take in whether a request was refused (1 or 0), and whether it was the only one on its way."""
        self._share += LEARNING * (refused - self._share)
        if alone:
            self._share_alone += LEARNING * (refused - self._share_alone)
        self._share_alone = min(self._share_alone, self._share)
        self._excused = min(EXCUSED_MOST, self._excused + EXCUSED * self._share_alone)

    def outage(self) -> None:
        """Begin anew, from one request at a time, once the outage is over."""
        self._limit = PROBING_LIMIT
        self._starting = True
        self._refused = 0
        self._bound_ends = self.resumes = float("-inf")
