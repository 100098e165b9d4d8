"""The outage gate around the pool: who may ask the service now, and who waits.

Closed by a fault that is no file's, it lets one probe through at a time (see outage.py for when). Faults of this
machine, such as a full disk, hold it shut until who found them says that they are over.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager, suppress
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
        self._before_gate: list[object] = []
        self._probing = False
        self._stirred = asyncio.Event()
        self._next_summary = 0.0
        self._queue: deque[asyncio.Future[bool]] = deque()
        self._on_closed = on_closed
        self._on_opened = on_opened
        self._before_probe = before_probe
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

    def is_held(self, by: Hashable) -> bool:
        """Tell whether a fault of this machine, found by this one, keeps the gate shut, whatever else does."""
        return by in self._held

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
    async def passage(self, path: bytes | None = None, *, failed: bool = False) -> AsyncIterator[None]:
        """Wait until a request may be made: as many at a time as the service bears, one while the gate is closed.

        Args:
            path: of the file that it is for; None for a trial.
            failed: it has failed before.
        """
        probing = await self._enter(path, failed or self._policy.has_failed(path))
        try:
            yield
        finally:
            if probing:
                self._end_probe()
            self._leave()

    @property
    def limit(self) -> int:
        """Requests that may be on their way at a time, just now."""
        return 1 if self.closed is not None else self._pace.limit

    def _call_in(self) -> None:
        """Give waiters the places there are, in the order in which they came; wake all once the gate is closed."""
        is_open = self._open.is_set()
        while self._queue and not (is_open and self._room <= 0):
            waiter = self._queue.popleft()
            if not waiter.done():
                self._inside += is_open  # now, not when it wakes: another may leave, or come, before that
                waiter.set_result(is_open)

    @property
    def _room(self) -> int:
        """Requests that may begin now, while the gate is open."""
        return self._pace.limit - self._inside if time.monotonic() >= self._pace.resumes else 0

    async def _enter(self, path: bytes | None, failed: bool) -> bool:  # noqa: FBT001 - handed on by position
        """Wait for one's turn, and take a place inside; return whether it is a probe's."""
        while True:
            if not self._open.is_set():
                if await self._enter_closed(path, failed):
                    self._inside += 1
                    return True
            elif await self._enter_open():
                return False

    async def _enter_open(self) -> bool:
        """Wait for a place, and return true, or until the gate closes."""
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._queue.append(waiter)
        self._call_in()
        try:
            is_given = await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled() and waiter.result():  # the place that was given to us is another's now
                self._leave()
            raise
        if is_given and not self._open.is_set():
            self._leave()
            return False
        return is_given

    def _leave(self) -> None:
        self._inside -= 1
        self._call_in()

    async def _enter_closed(self, path: bytes | None, failed: bool) -> bool:  # noqa: FBT001 - as above
        """Wait until a probe may go, and return true, or until the gate opens.

        Of all who wait the one that came last probes, unless it failed before: should the service fail with some
        files alone, that finds one that it does not fail with.
        """
        place = object()
        self._before_gate.insert(0 if failed else len(self._before_gate), place)
        try:
            while not self._open.is_set():
                wait = 1.0 if self._held else self._policy.wait(path, time.monotonic())
                is_next = not self._probing and self._before_gate[-1] is place
                if is_next and wait <= 0:
                    await self._begin_probe()
                    return True
                # Looked at now and then: what holds the gate shut may be over while the service's outage is not.
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(wait, 1.0) if is_next else 1.0):
                        await self._stirred.wait()
        finally:
            self._before_gate.remove(place)
            self._stir()
        return False

    async def _begin_probe(self) -> None:
        self._probing = True
        try:
            await self._before_probe()
        except BaseException:
            self._end_probe()
            raise

    def _end_probe(self) -> None:
        self._probing = False
        self._stir()

    def _stir(self) -> None:
        """Have all who wait before the closed gate look again."""
        self._stirred.set()
        self._stirred = asyncio.Event()

    def fault(self, error: SigningError, began: float = 0.0, path: bytes | None = None) -> bool:
        """Take in a fault that is the service's or the credentials'.

        Args:
            error: it.
            began: when the request began, in monotonic seconds.
            path: of the file that was to be signed; None for what was no file's.

        Returns:
            Whether others fare better just now: then this file tries again later, and the gate is as it was.
        """
        if path is None or not error.passing:
            self._close(error, None)
            return False
        now = time.monotonic()
        is_own = self._policy.is_own(path, self._pace.last_answer, now)
        if self._outage is None and (is_own or self._pace.overloaded(began, now, error.retry_after)):
            if self._pace.resumes > now:
                asyncio.get_running_loop().call_later(self._pace.resumes - now, self._call_in)
            return True
        self._close(error, path)
        return is_own

    def _close(self, error: SigningError, path: bytes | None) -> None:
        self._pace.outage()
        soon = self._for_refusals or error.fault is Fault.MACHINE
        longest = LONGEST_WAIT_AFTER_REFUSALS_SECONDS if soon else LONGEST_WAIT_SECONDS
        if self._policy.fault(time.monotonic(), error.retry_after, longest=longest, path=path):
            self._close_for_outage(error.reason, str(error))
        elif self._outage is not None:
            self._outage = Closed(error.reason, str(error), self._outage.since)

    def answered(self, path: bytes | None = None) -> None:
        """Take in an answer, about this file, that shows that the service works."""
        self._pace.answered(time.monotonic())
        self._for_refusals = False
        if self._policy.success(path):
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
            self.answered(path)
        return False

    def hurry(self) -> None:
        """Have the next probe go at once: something was mended, such as the credentials."""
        self._policy.hurry(time.monotonic())

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
            self._stir()
            self._call_in()
            self._on_opened(replace(ended, since=self._since), max(0.0, time.time() - self._since))
