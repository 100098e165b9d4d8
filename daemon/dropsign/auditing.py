"""Keeps the audit chain: once a day forgets what is old, and tells the log where the chain ends."""

import asyncio
import time
from typing import Final

from dropsign.chain import Head
from dropsign.journal import Journal
from dropsign.log import Log

DAY_SECONDS: Final = 86_400


class Auditing:
    """Looks after the chain while the daemon runs."""

    def __init__(self, journal: Journal, log: Log, keep_days: int) -> None:
        """Prepare.

        Args:
            journal: holds the chain.
            log: where its end is told, out of reach of who can write the journal.
            keep_days: how old a record may become; 0 for any age.
        """
        self._journal = journal
        self._log = log
        self._keep_days = keep_days

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            if self._keep_days:
                await self._journal.prune(time.time() - self._keep_days * DAY_SECONDS)
            self.tell(await self._journal.head())
            await asyncio.sleep(DAY_SECONDS)

    def tell(self, head: Head) -> None:
        """Write down where the chain ends, for `dropsign audit verify --head`."""
        self._log.info("audit.head", number=head.number, hash=head.hash.hex())
