"""How paths look just now, seen in a thread; without descriptors to look with, the gate is held shut."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

from dropsign.descriptors import SHORTAGE
from dropsign.errors import is_shortage
from dropsign.model import Look
from dropsign.parts import Parts

T = TypeVar("T")

_SHORTAGE_SECONDS: Final = 1.0


class Surveyor:
    """Looks at the outbox, one group of paths after the other."""

    def __init__(self, parts: Parts) -> None:
        """Begin with nothing to look at.

        Args:
            parts: what it works with.
        """
        self._parts = parts
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="look")

    async def look(self, paths: Sequence[bytes], *, closely: bool) -> list[Look]:
        """Return how paths look (see Outbox.look); those that cannot be looked at are left out."""
        look = partial(self._parts.outbox.look, paths, closely=closely)
        gate = self._parts.gate
        while any(map(is_shortage, looks := await self.run(look))):
            gate.hold("resources", f"no file can be looked at: {SHORTAGE}", by=self)
            await asyncio.sleep(_SHORTAGE_SECONDS)
        gate.release(self)
        return [look for look in looks if isinstance(look, Look)]

    async def run(self, work: Callable[[], T]) -> T:
        """Do something in the same thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        """End the thread; blocks."""
        self._thread.shutdown()
