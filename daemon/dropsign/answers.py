"""What the daemon answers when asked: its status, its metrics, what it knows of files."""

import os
import time
from collections.abc import Sequence
from typing import Any

from dropsign import __version__
from dropsign.api import Sources, describe
from dropsign.gate import Closed
from dropsign.model import State
from dropsign.pipeline import Pipeline
from dropsign.report import Report
from dropsign.rotation import Rotation
from dropsign.status import GateStatus, Status
from dropsign.watchkeeper import WatchKeeper


class Answers:
    """Reads all parts of the daemon and changes none, but for what an operator asks to be retried."""

    def __init__(self, pipeline: Pipeline, keeper: WatchKeeper, rotation: Rotation, report: Report) -> None:
        self._pipeline = pipeline
        self._keeper = keeper
        self._rotation = rotation
        self._report = report
        self._started = time.monotonic()
        metrics = report.metrics
        metrics.watch(metrics.in_flight, lambda: pipeline.pool.in_flight)
        metrics.watch(metrics.watcher_alive, lambda: float(keeper.is_alive and keeper.lost is None))

    def sources(self) -> Sources:
        """Return what the HTTP API answers from."""
        return Sources(
            status=self.status,
            healthy=self.healthy,
            exposition=self.exposition,
            entries=self._pipeline.parts.journal.entries,
            lookup=self.lookup,
            retry=self.retry,
            rescan=self._pipeline.rescan.request,
        )

    def healthy(self) -> bool:
        """Tell whether the threads live that the daemon cannot do without."""
        return self._pipeline.parts.journal.is_alive and self._keeper.is_alive

    def not_ready_reasons(self) -> list[str]:
        """Say why new drops are not being signed just now; nothing when they are."""
        reasons = []
        if self._keeper.lost is not None:
            reasons.append(f"the outbox is lost: {self._keeper.lost}")
        if self._pipeline.rescan.last is None:
            reasons.append("the first scan is not finished")
        if (closed := self._pipeline.gate.closed) is not None:
            reasons.append(f"the gate is closed: {closed.reason}")
        if self._rotation.expired:
            reasons.append("a certificate has expired")
        return reasons

    async def status(self) -> Status:
        """Return how things are."""
        pipeline, journal = self._pipeline, self._pipeline.parts.journal
        counts = await journal.counts()
        oldest = await journal.oldest_waiting()
        last = pipeline.rescan.last
        reasons = self.not_ready_reasons()
        settling = pipeline.intake.undecided
        return Status(
            running=True,
            version=__version__,
            outbox=str(pipeline.parts.outbox.root),
            ready=not reasons,
            not_ready_reasons=reasons,
            backlog=counts[State.QUEUED] + counts[State.DEFERRED] + settling,
            settling=settling,
            in_flight=pipeline.pool.in_flight,
            concurrency=pipeline.gate.limit,
            concurrency_ceiling=pipeline.pool.concurrency,
            signed=counts[State.SIGNED],
            failed=counts[State.FAILED],
            refused=counts[State.REFUSED],
            deferred=counts[State.DEFERRED],
            oldest_waiting_seconds=None if oldest is None else max(0.0, time.time() - oldest),
            signed_per_second=round(self._report.rate.per_second(time.monotonic()), 3),
            uptime_seconds=round(time.monotonic() - self._started, 3),
            gate=_gate_status(pipeline.gate.closed, pipeline.gate.next_probe_seconds),
            certificates={which: ends.isoformat() for which, ends in self._rotation.current.certificates.items()},
            last_scan=None
            if last is None
            else {
                "at": last.at,
                "seconds": last.seconds,
                "files": last.tally.files,
                "found": last.tally.differences,
                "unreadable_directories": len(last.tally.unreadable),
            },
        )

    async def exposition(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        status, metrics = await self.status(), self._report.metrics
        metrics.backlog.set(status.backlog)
        metrics.failed.set(status.failed)
        metrics.oldest.set(status.oldest_waiting_seconds or 0)
        return metrics.exposition()

    async def lookup(self, paths: Sequence[bytes]) -> list[dict[str, Any]]:
        """Return what is known of some paths."""
        known = await self._pipeline.parts.journal.lookup(paths)
        return [
            {
                **(describe(known[path]) if path in known else {"path": os.fsdecode(path), "state": None}),
                "settling": self._pipeline.intake.is_undecided(path),
            }
            for path in paths
        ]

    async def retry(self, paths: Sequence[bytes] | None, force: bool) -> int:  # noqa: FBT001 - called by position
        """Take some paths, or all failed ones, up at once; return how many."""
        if paths is None:
            entries = await self._pipeline.parts.journal.entries(State.FAILED, 1_000_000)
            paths = [entry.path for entry in entries]
        intake = self._pipeline.intake
        paths = [path for path in paths if intake.filters.accepts(path)]
        await intake.take_in(paths, force=force)
        return len(paths)


def _gate_status(closed: Closed | None, next_probe_seconds: float | None) -> GateStatus:
    if closed is None:
        return GateStatus()
    return GateStatus(
        closed=True,
        reason=closed.reason,
        detail=closed.detail,
        closed_seconds=max(0.0, time.time() - closed.since),
        next_probe_seconds=next_probe_seconds,
    )
