"""Builds the chain from the intake to the pool, for the daemon and for the one-shot mode alike."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from random import Random

from dropsign.config import Configuration
from dropsign.contention import Contention
from dropsign.descriptors import raise_limit, requests_borne
from dropsign.filters import Filters
from dropsign.gate import Closed, Gate
from dropsign.intake import Intake
from dropsign.journal import Journal
from dropsign.localqueue import LocalQueue
from dropsign.model import Drop
from dropsign.outage import OutagePolicy
from dropsign.outbox import Outbox
from dropsign.pace import Pace
from dropsign.parts import Observer, Parts
from dropsign.publishing import Publisher
from dropsign.rescan import Finished, Rescan
from dropsign.settle import Settling
from dropsign.signer import Signer
from dropsign.trouble import Trouble
from dropsign.verifier import Verifier
from dropsign.worker import LONGEST_DEFERRAL_SECONDS, Pool

FLUSH_SECONDS = 5.0
"""How long a stop waits for the journal's last commit."""

_PAGE = 256
"""Deferred drops looked through at first."""

PUBLISHED_AT_ONCE = 128
"""Signatures written in one group; see outbox.Outbox.publish."""


@dataclass(frozen=True, slots=True)
class Doors:
    """What is opened before the chain can be built."""

    outbox: Outbox
    journal: Journal
    signer: Signer
    verifier: Verifier | None


@dataclass(frozen=True, slots=True)
class Listeners:
    """Whom the chain tells what."""

    observer: Observer
    gate_closed: Callable[[Closed], None]
    gate_opened: Callable[[Closed, float], None]
    before_probe: Callable[[], Awaitable[None]]
    scan_finished: Callable[[Finished], None]


class Pipeline:
    """Intake, queue, gate and pool, wired."""

    def __init__(self, configuration: Configuration, doors: Doors, listeners: Listeners) -> None:
        """Wire it.

        Args:
            configuration: as it was loaded.
            doors: what it works with.
            listeners: whom it tells what.

        Raises:
            ConfigurationError: this process may not open enough files.
        """
        borne = requests_borne(raise_limit())
        service = configuration.service.model_copy(
            update={"concurrency": min(borne, configuration.service.concurrency)}
        )
        outbox = configuration.outbox
        self.policy = OutagePolicy(Random())  # noqa: S311 - jitter is no secret
        self.gate = Gate(
            self.policy,
            Pace(service.concurrency),
            on_closed=listeners.gate_closed,
            on_opened=listeners.gate_opened,
            before_probe=listeners.before_probe,
        )
        self.queue = LocalQueue(doors.journal, doors.journal.last_ticket, self._slow_at_once, self._is_out)
        self.parts = Parts(
            outbox=doors.outbox,
            journal=doors.journal,
            queue=self.queue,
            signer=doors.signer,
            gate=self.gate,
            publish=Publisher(doors.outbox, self.gate, at_once=min(borne, PUBLISHED_AT_ONCE)),
            verifier=doors.verifier,
            contention=Contention(),
            observer=listeners.observer,
        )
        self.intake = Intake(
            self.parts,
            Filters(outbox.include, outbox.exclude, recursive=outbox.recursive),
            Settling(outbox.settle_seconds, outbox.settle_after_close_seconds, outbox.unsettled_warning_seconds),
            republish_missing=outbox.republish_missing,
            on_forgetful=lambda: self.rescan.request(),  # noqa: PLW0108 - it is made further down
        )
        self.pool = Pool(service, self.parts, self.intake, error_files=outbox.error_files)
        self.rescan = Rescan(self.parts, self.intake, outbox, listeners.scan_finished)

    def _slow_at_once(self) -> int:
        """Return how many requests may be large files' or retries: a quarter of what it bears is for others."""
        limit = self.gate.limit
        return max(1, limit - max(1, limit // 4))

    def _is_out(self) -> bool:
        return self.gate.closed is not None

    def on_journal_trouble(self, trouble: Trouble | None) -> None:
        """Hold the gate shut while the journal cannot be used; None says that it can."""
        if trouble is None:
            self.gate.release("journal")
        else:
            self.gate.hold(trouble.reason, f"{self.parts.journal.path}: {trouble.text}", by="journal")

    async def requeue_rested(self) -> float | None:
        """Queue deferred drops whose time has come.

        Returns:
            The seconds until the next one's; None where none rests, or all whose time has come are restless.
        """
        now, limit = time.time(), _PAGE
        while True:
            page = await self.parts.journal.rested(now, now + LONGEST_DEFERRAL_SECONDS, limit)
            if not page or [entry for entry in page if self.intake.requeue(entry, entry.attempts)]:
                break
            if len(page) < limit:
                return None
            limit *= 4  # restless, or being read, all of them: they must not keep the others waiting
        following = await self.parts.journal.next_rested()
        return None if following is None else max(0.0, following - now)

    def queue_one(self, drop: Drop) -> None:
        """Queue a drop that is known to be at rest."""
        drop.ticket = self.parts.journal.next_ticket()
        self.parts.journal.queue(drop)
        self.queue.put(drop)

    async def stop(self, grace_seconds: float) -> None:
        """Stop in order: noticing, taking, waiting with grace, recording."""
        await self.rescan.close()
        await self.pool.stop(grace_seconds)
        await self.intake.close()
        await self.parts.publish.close()
        with suppress(TimeoutError):  # a full disk must not keep the process; what is lost is made again
            async with asyncio.timeout(FLUSH_SECONDS):
                await self.parts.journal.flush()
