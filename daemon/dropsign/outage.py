"""When the pool must stop asking the service, and when it may go on: pure policy, with time as an argument.

A fault that is the service's or the credentials' closes the gate: no file is charged, one file at a time probes
(contract, section 3). A probe that gets an answer about its file opens the gate; then the pool ramps up.

A service may also fail with one file alone. So while all faults came from one file, another one need not wait to
probe; and a file that fails again after others were answered tells nothing of the service.
"""

from collections import deque
from random import Random
from typing import Final

from dropsign.backoff import full_jitter

FIRST_WAIT_SECONDS: Final = 1.0
LONGEST_WAIT_SECONDS: Final = 60.0

LONGEST_RETRY_AFTER_SECONDS: Final = 3600.0
"""No service is believed that wants to be left alone for longer."""

LONGEST_WAIT_AFTER_REFUSALS_SECONDS: Final = 2.0
"""Where the service answers, if only to refuse, the next file may well fare better, and should not wait for long."""

SAME_REFUSALS: Final = 8
"""So many different files refused in a row with the same status mean that the fault is not theirs."""


SUSPECTS_MOST: Final = 4096
"""Files remembered that failed; the longest known are forgotten first."""


class OutagePolicy:
    """Open or closed, and when the next probe may go."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.is_out = False
        self.probes = 0
        self.next_probe = 0.0
        self._asked_until = 0.0
        self._sole: bytes | None = None
        self._failed_since: dict[bytes, float] = {}
        self._refusals: deque[tuple[int, bytes]] = deque(maxlen=SAME_REFUSALS)

    def fault(
        self,
        now: float,
        retry_after: float | None = None,
        *,
        longest: float = LONGEST_WAIT_SECONDS,
        path: bytes | None = None,
    ) -> bool:
        """Take in a fault that is no file's; return whether it closed the gate.

        Args:
            now: monotonic seconds.
            retry_after: seconds that the service asked to wait.
            longest: seconds that the next probe waits at most.
            path: of the file that it befell, if it may be that file's alone.
        """
        closes = not self.is_out
        retry_after = min(retry_after or 0.0, LONGEST_RETRY_AFTER_SECONDS)
        self._sole = path if closes or path == self._sole else None
        self._asked_until = max(0.0 if closes else self._asked_until, now + retry_after)
        if closes:
            self.is_out = True
            self.probes = 0
        elif now < self.next_probe:  # not a probe's: a request that was on its way when the gate closed
            self.next_probe = max(self.next_probe, now + retry_after)
            return False
        self.probes += 1
        wait = full_jitter(self.probes, FIRST_WAIT_SECONDS, longest, self._random)
        self.next_probe = now + max(wait, retry_after)
        return closes

    def wait(self, path: bytes | None, now: float) -> float:
        """Return the seconds until a probe of this file may go (None for one of no file)."""
        is_other = path is not None and self._sole is not None and path != self._sole
        return (self._asked_until if is_other else self.next_probe) - now

    def hurry(self, now: float) -> None:
        """Let a probe go as soon as the service has not asked otherwise."""
        self.next_probe = min(self.next_probe, max(now, self._asked_until))

    def has_failed(self, path: bytes | None) -> bool:
        """Tell whether this file met a fault that may be its own, and was not answered since."""
        return path in self._failed_since

    def is_own(self, path: bytes, last_answer: float, now: float) -> bool:
        """Take in a fault of one file; return whether others were answered since it first failed."""
        since = self._failed_since.setdefault(path, now)
        if len(self._failed_since) > SUSPECTS_MOST:
            del self._failed_since[next(iter(self._failed_since))]
        return last_answer > since

    def success(self, path: bytes | None = None) -> bool:
        """Take in an answer; return whether it ended an outage."""
        self._refusals.clear()
        if path is not None:
            self._failed_since.pop(path, None)
        if self.is_out and self._sole is None:  # these failed with all others
            self._failed_since.clear()
        ends, self.is_out = self.is_out, False
        return ends

    def refusal(self, path: bytes, status: int) -> bool:
        """Take in a refusal of one file; return whether so many alike came that the gate must close."""
        if any(other == path for _, other in self._refusals):
            return False
        self._refusals.append((status, path))
        return len(self._refusals) == SAME_REFUSALS and all(other == status for other, _ in self._refusals)

    def blamed(self) -> list[bytes]:
        """Return, and forget, the files that were refused before so many alike showed that the fault is not theirs."""
        paths = [path for _, path in self._refusals]
        self._refusals.clear()
        return paths
