"""FILE.sign-error beside failed drops, for people who see only the folder: written and removed in a thread.

One thread does it in the order in which it was asked for, and nobody waits for it. A note that was not written, or
not put away, when the process dies is dealt with by the next scan, or when the file is signed.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from dropsign.model import Entry, Look
from dropsign.outbox import Outbox


class Notes:
    """What is said beside files; nothing, unless it is wanted."""

    def __init__(self, outbox: Outbox, *, wanted: bool) -> None:
        """Begin with nothing to do.

        Args:
            outbox: where.
            wanted: notes are wanted; else those of earlier are removed by `restore`, and that is all.
        """
        self._outbox = outbox
        self._wanted = wanted
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="notes")

    def write(self, path: bytes, reason: str, error: str) -> None:
        """Have a note put beside a failed drop."""
        if self._wanted:
            self._thread.submit(self._outbox.write_error, path, reason, error)

    def remove(self, path: bytes) -> None:
        """Have a drop's note removed, if there is one."""
        if self._wanted:
            self._thread.submit(self._outbox.remove_error, path)

    async def restore(self, failed: Sequence[Entry]) -> None:
        """Put back notes beside failed drops that a crash, or somebody, took away; remove all where none is wanted."""
        work = self._restore if self._wanted else self._sweep
        await asyncio.get_running_loop().run_in_executor(self._thread, work, failed)

    def close(self) -> None:
        """Finish what was asked for, and end the thread; blocks."""
        self._thread.shutdown()

    def _restore(self, failed: Sequence[Entry]) -> None:
        looks = self._outbox.look([entry.path for entry in failed], closely=False)
        for entry, look in zip(failed, looks, strict=True):
            is_there = isinstance(look, Look) and look.fingerprint == entry.fingerprint
            if is_there and not self._outbox.has_error(entry.path):
                self._outbox.write_error(entry.path, entry.reason or "", entry.error or "")

    def _sweep(self, failed: Sequence[Entry]) -> None:
        for entry in failed:
            self._outbox.remove_error(entry.path)
