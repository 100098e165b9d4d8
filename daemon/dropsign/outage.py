"""When the pool must stop asking the service, and when it may go on: pure policy, with time as an argument.

A fault that is the service's or the credentials' closes the gate: no file is charged, one file at a time probes
(contract, section 3). A probe that gets an answer about its file opens the gate; then the pool ramps up.
"""

from collections import deque
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Outage:
    """A closed gate: since when (monotonic seconds), why, and what the last error said."""

    since: float
    reason: str
    detail: str


class OutagePolicy:
    """Open or closed, and when the next probe may go."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.outage: Outage | None = None
        self.probes = 0
        self.next_probe = 0.0
        self._refusals: deque[tuple[int, bytes]] = deque(maxlen=SAME_REFUSALS)

    def fault(
        self,
        reason: str,
        detail: str,
        now: float,
        retry_after: float | None = None,
        *,
        longest: float = LONGEST_WAIT_SECONDS,
    ) -> bool:
        """Take in a fault that is no file's; return whether it closed the gate.

        Args:
            reason: its short name.
            detail: what the error said.
            now: monotonic seconds.
            retry_after: seconds that the service asked to wait.
            longest: seconds that the next probe waits at most.
        """
        closes = self.outage is None
        retry_after = min(retry_after or 0.0, LONGEST_RETRY_AFTER_SECONDS)
        if self.outage is None:
            self.outage = Outage(now, reason, detail)
            self.probes = 0
        elif now < self.next_probe:  # not a probe's: a request that was on its way when the gate closed
            self.next_probe = max(self.next_probe, now + retry_after)
            return False
        else:
            self.outage = Outage(self.outage.since, reason, detail)
        self.probes += 1
        wait = full_jitter(self.probes, FIRST_WAIT_SECONDS, longest, self._random)
        self.next_probe = now + max(wait, retry_after)
        return closes

    def success(self) -> Outage | None:
        """Take in an answer; return the outage that it ended, if there was one."""
        self._refusals.clear()
        return self._open()

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

    def _open(self) -> Outage | None:
        outage, self.outage = self.outage, None
        return outage
