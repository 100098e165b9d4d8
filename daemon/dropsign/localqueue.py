"""The work queue of one process: bounded in memory, with the journal as its tail.

What does not fit waits in the journal alone, so that a million waiting files cost disk, not memory. Places are
tickets: ascending numbers that the journal gives out and keeps.
"""

import asyncio
from collections import deque
from typing import Final

from dropsign.model import Drop
from dropsign.ports import Backlog

ROOM: Final = 1024
"""Drops held in memory."""


class LocalQueue:
    """First come, first served."""

    def __init__(self, backlog: Backlog, last_ticket: int) -> None:
        """Begin with what the journal holds.

        Args:
            backlog: it.
            last_ticket: the highest in there; 0 when nothing waits.
        """
        self._backlog = backlog
        self._ready: deque[Drop] = deque()
        self._held: set[bytes] = set()
        self._loaded = 0
        self._last = last_ticket
        self._filled = asyncio.Event()
        self._refilling = asyncio.Lock()
        if last_ticket:
            self._filled.set()

    def holds(self, path: bytes) -> bool:
        """Tell whether a path is in memory: ready, or taken and not done."""
        return path in self._held

    def __len__(self) -> int:
        return len(self._held)

    def put(self, drop: Drop) -> None:
        """Add a drop that the journal already holds as queued, under its ticket."""
        fits = self._loaded == self._last and len(self._ready) < ROOM
        self._last = drop.ticket
        if fits:
            self._load(drop)
        self._filled.set()

    async def take(self) -> Drop:
        """Wait for a drop and take it; who took it must call `done`."""
        while not self._ready:
            if self._loaded < self._last:
                await self._refill()
            else:
                self._filled.clear()
                await self._filled.wait()
        return self._ready.popleft()

    def done(self, drop: Drop) -> None:
        """Let go of a drop, whatever became of it."""
        self._held.discard(drop.path)

    async def _refill(self) -> None:
        """Load the next drops that wait in the journal alone."""
        async with self._refilling:
            if self._ready or self._loaded >= self._last:
                return
            last = self._last
            drops = await self._backlog.waiting(self._loaded, ROOM)
            for drop in drops:
                if drop.path in self._held:  # signed anew while its older version is on its way
                    self._loaded = drop.ticket
                else:
                    self._load(drop)
            if len(drops) < ROOM:
                self._loaded = max(self._loaded, last)

    def _load(self, drop: Drop) -> None:
        self._ready.append(drop)
        self._held.add(drop.path)
        self._loaded = drop.ticket
