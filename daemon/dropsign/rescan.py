"""When the full scan runs: at start, every so often, and whenever notices may have been lost."""

import asyncio
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random

from dropsign.backoff import some_jitter
from dropsign.config import Outbox as OutboxConfiguration
from dropsign.errors import OutboxError, is_shortage
from dropsign.intake import Intake
from dropsign.model import State
from dropsign.parts import Parts
from dropsign.scan import Finding, Scan, Tally

_AT_A_TIME = 1000

_SHORTAGE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Finished:
    """What a scan saw, how many seconds it took, when it ended, and whether it was a poll: one of many."""

    tally: Tally
    seconds: float
    at: float
    polled: bool = False


class Rescan:
    """Runs one scan at a time; a wish during a scan asks for another."""

    def __init__(
        self, parts: Parts, intake: Intake, settings: OutboxConfiguration, on_finished: Callable[[Finished], None]
    ) -> None:
        self._parts = parts
        self._intake = intake
        self._settings = settings
        self._on_finished = on_finished
        self._wanted = asyncio.Event()
        self._stopped = False
        self._random = Random()  # noqa: S311 - jitter is no secret
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scan")
        self.last: Finished | None = None
        """The last scan of the whole outbox."""

    def request(self) -> None:
        """Ask for a scan as soon as may be."""
        self._wanted.set()

    async def run(self) -> None:
        """Scan now, and again and again."""
        while True:
            self._wanted.clear()
            await self._scan_all()
            try:
                async with asyncio.timeout(some_jitter(self._settings.rescan_seconds, self._random)):
                    await self._wanted.wait()
            except TimeoutError:
                continue

    async def close(self) -> None:
        """End the scan that runs, if one does."""
        self._stopped = True
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def poll(self, directories: Collection[bytes]) -> None:
        """Look through some directories, of which no notices come, and all below them."""
        finished = await self._scan(directories, polled=True)
        if finished is not None and b"" in directories:
            self.last = finished

    async def _scan_all(self) -> None:
        finished = await self._scan([b""], polled=False)
        if finished is None:
            return
        journal = self._parts.journal
        for entry in await journal.entries(State.DEFERRED, _AT_A_TIME):
            if not entry.attempts:  # not the file's: someone may have mended its permissions since
                self._intake.requeue(entry)
        if self._settings.error_files or self.last is None:
            await self._parts.notes.restore(await journal.entries(State.FAILED, _AT_A_TIME))
        self.last = finished

    async def _scan(self, tops: Collection[bytes], *, polled: bool) -> Finished | None:
        """Scan; return what was seen, or None if the outbox vanished under the scan."""
        started = time.monotonic()
        loop = asyncio.get_running_loop()
        journal, settings = self._parts.journal, self._settings

        def emit(findings: list[Finding]) -> None:
            asyncio.run_coroutine_threadsafe(self._intake.found(findings), loop).result()

        scan = Scan(
            self._parts.outbox,
            self._intake.filters,
            recursive=settings.recursive,
            republish_missing=settings.republish_missing,
            known=journal.known,
            emit=emit,
            stopped=lambda: self._stopped,
        )
        try:
            tally = await loop.run_in_executor(self._thread, lambda: scan.run(journal.known_directories(), tops))
        except OutboxError:  # the supervisor of the watch says so, and asks again when it is back
            return None
        except OSError as error:
            if not is_shortage(error):
                raise
            await asyncio.sleep(_SHORTAGE_SECONDS)
            self.request()
            return None
        finished = Finished(tally, time.monotonic() - started, time.time(), polled)
        self._on_finished(finished)
        return finished
