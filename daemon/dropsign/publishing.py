"""Publishing with patience: where this machine can write nothing just now, the gate is shut and it is tried again.

That is for want of room, of descriptors or of a disk that works (see errors.unwritable_reason); whatever else goes
wrong, such as a directory's permissions, is the file's, and raised.
Each try writes a new temporary file: an fsync that failed is never taken back by another fsync of the same file.
"""

import asyncio
import os
from typing import Final

from dropsign.errors import unwritable_reason
from dropsign.gate import Gate
from dropsign.grouping import Grouping
from dropsign.model import Stamp
from dropsign.outbox import Outbox, Publication

RETRY_SECONDS: Final = 1.0

_REMEDIES: Final = {
    "disk": "make room, raise the quota or mount it for writing",
    "resources": "raise the limit: LimitNOFILE= in the unit, or ulimit -n",
}


class Publisher:
    """Puts signatures beside their files, many in a group."""

    def __init__(self, outbox: Outbox, gate: Gate, *, at_once: int) -> None:
        """Prepare to publish.

        Args:
            outbox: where.
            gate: held shut while nothing can be written.
            at_once: how many in a group; each takes two file descriptors.
        """
        self._outbox = outbox
        self._gate = gate
        self._group: Grouping[Publication, Stamp | None] = Grouping(outbox.publish, name="publish", limit=at_once)
        self._impatient = asyncio.Event()

    async def __call__(self, publication: Publication) -> Stamp | None:
        """Publish, however long it takes until there is room; return the stamp of FILE.sign (see Outbox.publish).

        Raises:
            MovedOnError: the file is not that version any more.
            OSError: it cannot be written there; or not now, and the program is to end.
        """
        try:
            while True:
                try:
                    return await self._group(publication)
                except OSError as error:
                    reason = unwritable_reason(error)
                    if reason is None or self._impatient.is_set():
                        raise
                    directory = self._outbox.root / os.fsdecode(os.path.dirname(publication.path))
                    detail = f"cannot write to {directory}: {error.strerror}; {_REMEDIES[reason]}"
                    self._gate.hold(reason, detail, by=publication.path)
                await self._pause()
        finally:
            if not self._impatient.is_set():  # at the end, what is not over stays so
                self._gate.release(publication.path)

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(RETRY_SECONDS):
                await self._impatient.wait()
        except TimeoutError:
            return

    def hurry(self) -> None:
        """Wait for room no more: what cannot be written now is the next start's."""
        self._impatient.set()

    async def close(self) -> None:
        """Finish what was asked for, and end the thread."""
        await self._group.close()
