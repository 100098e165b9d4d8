"""The work queue of one process: bounded in memory, with the journal as its tail.

What does not fit waits in the journal alone, so that a million waiting files cost disk, not memory. Places are
tickets: ascending numbers that the journal gives out and keeps. Small and large files wait in lanes of their own, and
large ones never hold all workers: a small file does not wait for somebody's long upload to end.
"""

import asyncio
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

    def __init__(self, backlog: Backlog, last_ticket: int, large_at_once: Callable[[], int] = lambda: ROOM) -> None:
        """Begin with what the journal holds.

        Args:
            backlog: it.
            last_ticket: the highest in there; 0 when nothing waits.
            large_at_once: asked how many large drops may be taken and not done, just now.
        """
        self._backlog = backlog
        self._large_at_once = large_at_once
        self._small: deque[Drop] = deque()
        self._large: deque[Drop] = deque()
        self._large_taken = 0
        self._held: set[bytes] = set()
        self._renewed: dict[bytes, Drop] = {}
        self._loaded = 0
        self._last = last_ticket
        self._changed = asyncio.Event()
        self._refilling = asyncio.Lock()

    def holds(self, path: bytes) -> bool:
        """Tell whether a path is in memory: ready, or taken and not done."""
        return path in self._held

    def __len__(self) -> int:
        return len(self._held)

    def put(self, drop: Drop) -> None:
        """Add a drop that the journal already holds as queued, under its ticket."""
        fits = self._loaded == self._last and len(self._small) + len(self._large) < ROOM
        self._last = drop.ticket
        if fits:
            self._load(drop)
        self._changed.set()

    async def take(self) -> Drop:
        """Wait for a drop and take it; who took it must call `done`."""
        while (lane := self._lane()) is None:
            if self._loaded < self._last and len(self._large) < 8 * ROOM:
                await self._refill()
            else:
                self._changed.clear()
                await self._changed.wait()
        drop = lane.popleft()
        if lane is self._large:
            self._large_taken += 1
        return drop

    def done(self, drop: Drop) -> None:
        """Let go of a drop, whatever became of it."""
        self._held.discard(drop.path)
        if drop.fingerprint.size >= LARGE:
            self._large_taken -= 1
            self._changed.set()
        if (renewed := self._renewed.pop(drop.path, None)) is not None:
            self._line_up(renewed)

    def _lane(self) -> deque[Drop] | None:
        """Return the lane whose turn it is; None when no drop may be taken."""
        if self._large and self._large_taken < self._large_at_once():
            first_come = not self._small or self._large[0].ticket < self._small[0].ticket
            return self._large if first_come else self._small
        return self._small or None

    async def _refill(self) -> None:
        """Load the next drops that wait in the journal alone."""
        async with self._refilling:
            if self._lane() is not None or self._loaded >= self._last:
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
        (self._large if drop.fingerprint.size >= LARGE else self._small).append(drop)
        self._changed.set()
