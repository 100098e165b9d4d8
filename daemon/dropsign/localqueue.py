"""The work queue of one process: bounded in memory, with the journal as its tail.

What does not fit waits in the journal alone, so that a million waiting files cost disk, not memory. Places are
tickets: ascending numbers that the journal gives out and keeps. Small files, large files and files that failed wait
in lanes of their own, and the latter two never hold all workers: a fresh small file waits neither for somebody's long
upload nor for what the service hangs on.
"""

import asyncio
import heapq
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from dropsign.model import Drop
from dropsign.ports import Backlog

ROOM: Final = 1024
"""Drops held in memory; some more while only large ones are at hand, and all that may be sent at a time are."""

LARGE: Final = 8 * 1024 * 1024
"""Bytes from which on a file goes into the lane for large ones."""


class LocalQueue:
    """First come, first served, in each lane."""

    def __init__(
        self,
        backlog: Backlog,
        last_ticket: int,
        slow_at_once: Callable[[], int] = lambda: ROOM,
        newest_first: Callable[[], bool] = lambda: False,
    ) -> None:
        """Begin with what the journal holds.

        Args:
            backlog: it.
            last_ticket: the highest in there; 0 when nothing waits.
            slow_at_once: asked how many drops that are large or failed before may be taken and not done, just now.
            newest_first: asked whether small drops go before those that failed, from the last on, just now.
        """
        self._backlog = backlog
        self._slow_at_once = slow_at_once
        self._newest_first = newest_first
        self._small: deque[Drop] = deque()
        self._large: deque[Drop] = deque()
        self._failed: list[tuple[float, int, Drop]] = []
        self._slow: set[bytes] = set()
        self._retried: set[bytes] = set()
        self._held: set[bytes] = set()
        self._renewed: dict[bytes, Drop] = {}
        self._loaded = 0
        self._last = last_ticket
        self._takers: deque[asyncio.Future[None]] = deque()
        self._refilling = asyncio.Lock()

    def holds(self, path: bytes) -> bool:
        """Tell whether a path is in memory: ready, or taken and not done."""
        return path in self._held

    def __len__(self) -> int:
        return len(self._held)

    def put(self, drop: Drop) -> None:
        """Add a drop that the journal already holds as queued, under its ticket."""
        fits = self._loaded == self._last and len(self._small) + len(self._large) + len(self._failed) < ROOM
        self._last = drop.ticket
        if fits:
            self._load(drop)
        else:
            self._wake()

    async def take(self) -> Drop:
        """Wait for a drop and take it; who took it must call `done`."""
        while (drop := self._next()) is None:
            if self._loaded < self._last and len(self._large) < 8 * ROOM:
                await self._refill()
            else:
                await self._wait()
        if self._small or self._large or self._failed:  # more may be taken now than was when the last drop came
            self._wake()
        return drop

    async def _wait(self) -> None:
        """Wait until it is worth while to look for a drop again."""
        taker: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._takers.append(taker)
        try:
            await taker
        except asyncio.CancelledError:
            if not taker.cancelled():  # what it was woken for is another's now
                self._wake()
            raise

    def _wake(self) -> None:
        """Wake the taker that has waited longest, for one drop more that may be taken."""
        while self._takers:
            taker = self._takers.popleft()
            if not taker.done():
                taker.set_result(None)
                return

    @property
    def has_fresh(self) -> bool:
        """Tell whether drops wait that have not been taken yet."""
        return bool(self._small or self._large) or self._loaded < self._last

    def put_back(self, drop: Drop, seconds: float) -> bool:
        """Have a drop that was taken, and failed, taken again after some seconds; false if too many wait like that."""
        if len(self._failed) >= ROOM:
            return False
        self._make_room(drop)
        self._line_up_failed(drop, seconds)
        return True

    def done(self, drop: Drop) -> None:
        """Let go of a drop, whatever became of it."""
        self._held.discard(drop.path)
        self._make_room(drop)
        if (renewed := self._renewed.pop(drop.path, None)) is not None:
            self._line_up(renewed)

    def _make_room(self, drop: Drop) -> None:
        if drop.path in self._slow:
            self._slow.discard(drop.path)
            self._retried.discard(drop.path)
            self._wake()

    def _next(self) -> Drop | None:
        """Take the drop whose turn it is; None when there is none that may be taken."""
        most, newest_first = self._slow_at_once(), self._newest_first()
        if len(self._slow) < most:
            is_due = bool(self._failed) and self._failed[0][0] <= time.monotonic()
            if is_due and not (newest_first and self._small) and len(self._retried) < max(1, most // 2):
                drop = heapq.heappop(self._failed)[2]
                self._retried.add(drop.path)
                self._slow.add(drop.path)
                return drop
            if self._large and (not self._small or self._large[0].ticket < self._small[0].ticket):
                drop = self._large.popleft()
                self._slow.add(drop.path)
                return drop
        if not self._small:
            return None
        return self._small.pop() if newest_first else self._small.popleft()

    async def _refill(self) -> None:
        """Load the next drops that wait in the journal alone."""
        async with self._refilling:
            if self._small or self._loaded >= self._last:
                return
            last = self._last
            drops = await self._backlog.waiting(self._loaded, ROOM)
            for drop in drops:
                self._load(drop)
            if len(drops) < ROOM:
                self._loaded = max(self._loaded, last)

    def _load(self, drop: Drop) -> None:
        self._loaded = drop.ticket
        if drop.path in self._held:  # a newer version, while the older one is on its way: its turn comes after
            self._renewed[drop.path] = drop
        else:
            self._line_up(drop)

    def _line_up(self, drop: Drop) -> None:
        self._held.add(drop.path)
        if drop.failures:
            self._line_up_failed(drop, 0)
            return
        (self._large if drop.fingerprint.size >= LARGE else self._small).append(drop)
        self._wake()

    def _line_up_failed(self, drop: Drop, seconds: float) -> None:
        heapq.heappush(self._failed, (time.monotonic() + seconds, drop.ticket, drop))
        asyncio.get_running_loop().call_later(seconds, self._wake)
