"""The outage gate around the pool: who may ask the service now, and who waits.

Closed by a fault that is no file's, it lets one probe through at a time (see outage.py for when). Faults of this
machine, such as a full disk, hold it shut until who found them says that they are over.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final

from dropsign.errors import Fault, SigningError
from dropsign.outage import LONGEST_WAIT_AFTER_REFUSALS_SECONDS, LONGEST_WAIT_SECONDS, OutagePolicy
from dropsign.pace import Pace

SUMMARY_SECONDS: Final = 60.0
"""How often is said that the gate is still closed."""


@dataclass(frozen=True, slots=True)
class Closed:
    """Why the gate is closed, and since when (seconds since the epoch)."""

    reason: str
    detail: str
    since: float


class Gate:
    """Lets requests pass while the service answers."""

    def __init__(
        self,
        policy: OutagePolicy,
        pace: Pace,
        *,
        on_closed: Callable[[Closed], None],
        on_opened: Callable[[Closed, float], None],
        before_probe: Callable[[], Awaitable[None]],
    ) -> None:
        """Begin open.

        Args:
            policy: decides when it closes, and when probes go.
            pace: decides how many requests may be on their way while it is open.
            on_closed: told when the gate closes.
            on_opened: told when it opens, with what it was closed for and the seconds that took.
            before_probe: awaited before each probe; re-reads the credentials.
        """
        self._policy = policy
        self._pace = pace
        self._inside = 0
        self._next_summary = 0.0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._on_closed = on_closed
        self._on_opened = on_opened
        self._before_probe = before_probe
        self._turn = asyncio.Lock()
        self._open = asyncio.Event()
        self._open.set()
        self._held: dict[Hashable, Closed] = {}
        self._outage: Closed | None = None
        self._since = 0.0
        self._for_refusals = False

    @property
    def closed(self) -> Closed | None:
        """Why the gate is closed; None while it is open."""
        return next(iter(self._held.values()), self._outage)

    def holds(self, reason: str) -> bool:
        """Tell whether a fault of this machine keeps the gate shut, whatever else does."""
        return reason in self._held

    @property
    def next_probe_seconds(self) -> float | None:
        """Seconds until the next probe may go; None while the gate is open."""
        return None if self._outage is None else max(0.0, self._policy.next_probe - time.monotonic())

    def summary_due(self, now: float) -> bool:
        """Tell, once a minute of monotonic seconds while the gate is closed, that it is time for a summary."""
        if self.closed is None or now < self._next_summary:
            return False
        self._next_summary = now + SUMMARY_SECONDS
        return True

    @asynccontextmanager
    async def passage(self) -> AsyncIterator[None]:
        """Wait until a request may be made: as many at a time as the service bears, one while the gate is closed."""
        probing = await self._enter()
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            if probing:
                self._turn.release()
            self._call_in()

    @property
    def limit(self) -> int:
        """Requests that may be on their way at a time, just now."""
        return 1 if self.closed is not None else self._pace.limit

    def _call_in(self) -> None:
        """Wake as many waiters as there is room for, in the order in which they came; all, once the gate is closed."""
        room = self._pace.limit - self._inside if self._open.is_set() else len(self._queue)
        while self._queue and room > 0:
            waiter = self._queue.popleft()
            if not waiter.done():
                waiter.set_result(None)
                room -= 1

    async def _enter(self) -> bool:
        """Wait for one's turn; return whether it is a probe's."""
        while True:
            if not self._open.is_set():
                if await self._enter_closed():
                    return True
            elif self._inside < self._pace.limit:
                return False
            else:
                waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._queue.append(waiter)
                try:
                    await waiter
                except asyncio.CancelledError:
                    self._call_in()  # the place that was given to us, if one was, is another's now
                    raise

    async def _enter_closed(self) -> bool:
        while not self._open.is_set():
            await self._turn.acquire()
            try:
                if await self._wait_for_probe():
                    await self._before_probe()
                    return True
            except BaseException:
                self._turn.release()
                raise
            self._turn.release()
        return False

    async def _wait_for_probe(self) -> bool:
        """Wait until the gate opens, or until a probe may go."""
        while not self._open.is_set():
            wait = None if self._held else self._policy.next_probe - time.monotonic()
            if wait is not None and wait <= 0:
                return True
            try:
                # Woken now and then: what holds the gate shut may be over while the service's outage is not.
                async with asyncio.timeout(1.0 if wait is None else min(wait, 1.0)):
                    await self._open.wait()
            except TimeoutError:
                continue
        return False

    def fault(self, error: SigningError, began: float | None = None) -> bool:
        """Take in a fault that is the service's or the credentials'.

        Args:
            error: it.
            began: when the request began, in monotonic seconds; None for what was no file's.

        Returns:
            Whether others fare better just now: then the gate stays open, and only the pace falls.
        """
        now = time.monotonic()
        if error.passing and began is not None and self._outage is None and self._pace.overloaded(began, now):
            return True
        self._pace.outage()
        self._close(error)
        return False

    def _close(self, error: SigningError) -> None:
        soon = self._for_refusals or error.fault is Fault.MACHINE
        longest = LONGEST_WAIT_AFTER_REFUSALS_SECONDS if soon else LONGEST_WAIT_SECONDS
        if self._policy.fault(error.reason, str(error), time.monotonic(), error.retry_after, longest=longest):
            self._close_for_outage(error.reason, str(error))
        elif self._outage is not None:
            self._outage = Closed(error.reason, str(error), self._outage.since)

    def answered(self) -> None:
        """Take in an answer that shows that the service works."""
        self._pace.answered(time.monotonic())
        self._for_refusals = False
        if self._policy.success() is not None:
            ended, self._outage = self._outage, None
            self._reopen(ended)

    def refused(self, path: bytes, error: SigningError) -> bool:
        """Take in the refusal of one file; return whether it is none, as many files got the same.

        A refusal while the gate is closed for refusals is one of them; else it shows that the service works.
        """
        if self._outage is not None and self._for_refusals:
            self.fault(SigningError(Fault.SERVICE, "rejecting", str(error), status=error.status))
            return True
        if self._policy.refusal(path, error.status or 0):
            self._for_refusals = True
            self.fault(SigningError(Fault.SERVICE, "rejecting", f"many files in a row: {error}", status=error.status))
            return True
        if self._outage is not None:
            self.answered()
        return False

    def blamed(self) -> list[bytes]:
        """Return the files that were refused before `refused` told that the fault is not theirs."""
        return self._policy.blamed()

    def hold(self, reason: str, detail: str, by: Hashable | None = None) -> None:
        """Keep the gate shut for a fault of this machine, until `release`.

        Args:
            reason: its short name.
            detail: what the error said.
            by: who found it; the gate stays shut until all who did say that it is over. The reason by default.
        """
        holder: Hashable = reason if by is None else by
        since = self._held[holder].since if holder in self._held else time.time()
        self._held[holder] = Closed(reason, detail, since)
        self._shut(self._held[holder])

    def release(self, by: Hashable) -> None:
        """Say that a fault of this machine is over, for who found it."""
        if (ended := self._held.pop(by, None)) is not None:
            self._reopen(ended)

    def _close_for_outage(self, reason: str, detail: str) -> None:
        self._outage = Closed(reason, detail, time.time())
        self._shut(self._outage)

    def _shut(self, closed: Closed) -> None:
        """Close the gate; say so if it was open."""
        was_open = self._open.is_set()
        self._open.clear()
        self._call_in()
        if was_open:
            self._since = closed.since
            self._next_summary = time.monotonic() + SUMMARY_SECONDS
            self._on_closed(closed)

    def _reopen(self, ended: Closed | None) -> None:
        if ended is not None and not self._held and self._outage is None:
            self._open.set()
            self._call_in()
            self._on_opened(replace(ended, since=self._since), time.time() - self._since)
