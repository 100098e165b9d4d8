"""How much memory contents may take at a time: requests and checks of signatures wait for their share."""

import asyncio


class MemoryBudget:
    """A number of bytes that all share; whoever asks first gets first.

    Attributes:
        total: how many there are.
    """

    def __init__(self, total: int) -> None:
        self.total = self._free = total
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()

    async def take(self, size: int) -> int:
        """Wait for `size` bytes, or for all there are if it is more; return how many were taken."""
        size = min(size, self.total)
        async with self._turn:
            while self._free < size:
                self._freed.clear()
                await self._freed.wait()
            self._free -= size
        return size

    def give(self, size: int) -> None:
        """Give bytes back."""
        self._free += size
        self._freed.set()
