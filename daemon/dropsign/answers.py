"""What the daemon answers when asked: its status, its metrics, what it knows of files."""

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

from dropsign import __version__
from dropsign.api import Sources
from dropsign.errors import JournalError
from dropsign.gate import Closed
from dropsign.liveness import Liveness
from dropsign.model import State
from dropsign.pipeline import Pipeline
from dropsign.questions import Retry
from dropsign.recent import STEP_SECONDS
from dropsign.report import Report
from dropsign.rotation import Rotation
from dropsign.status import GateStatus, Status, describe
from dropsign.units import unit_of
from dropsign.watchkeeper import WatchKeeper

_DAY_SECONDS: Final = 86400

_RETRIED_AT_ONCE: Final = 256
"""Files decided about in one turn of the loop: some 20 ms."""


class Answers:
    """Reads all parts of the daemon and changes none, but for what an operator asks to be retried."""

    def __init__(
        self, pipeline: Pipeline, keeper: WatchKeeper, liveness: Liveness, rotation: Rotation, report: Report
    ) -> None:
        self._pipeline = pipeline
        self._liveness = liveness
        self._keeper = keeper
        self._rotation = rotation
        self._report = report
        self._unit = unit_of(rotation.configuration.http.socket)
        self._started = time.monotonic()
        self._counted: tuple[dict[State, int], float | None] = (dict.fromkeys(State, 0), None)
        metrics = report.metrics
        metrics.watch(metrics.limit, lambda: pipeline.gate.limit)
        metrics.watch(metrics.ceiling, lambda: pipeline.pool.concurrency)
        metrics.watch(metrics.in_flight, lambda: pipeline.pool.in_flight)
        metrics.watch(metrics.watcher_alive, lambda: float(keeper.is_alive and keeper.lost is None))

    def sources(self) -> Sources:
        """Return what the HTTP API answers from."""
        return Sources(
            status=self.status,
            healthy=self.healthy,
            not_ready_reasons=self.not_ready_reasons,
            throughput=self.throughput,
            exposition=self.exposition,
            files=self.files,
            lookup=self.lookup,
            retry=self.retry,
            rescan=self._pipeline.rescan.request,
            defect=self._report.defect,
        )

    def healthy(self) -> bool:
        """Tell whether the threads live, and work, that the daemon cannot do without."""
        return self._pipeline.parts.journal.is_alive and self._keeper.is_alive and self._liveness.is_proven

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
        pipeline, report, now = self._pipeline, self._report, time.monotonic()
        is_fresh = await self._count()
        counts, oldest = self._counted
        last = pipeline.rescan.last
        reasons = self.not_ready_reasons()
        settling = pipeline.intake.undecided
        ends = self._rotation.current.certificates
        return Status(
            running=True,
            version=__version__,
            outbox=str(pipeline.parts.outbox.root),
            unit=self._unit,
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
            signed_per_second=round(report.throughput.per_second(now), 3),
            signing_seconds=report.signing.percentiles(now),
            drop_to_sign_seconds=report.drop_to_sign.percentiles(now),
            uptime_seconds=round(now - self._started, 3),
            gate=_gate_status(pipeline.gate.closed, pipeline.gate.next_probe_seconds),
            certificates={which: end.isoformat() for which, end in ends.items()},
            certificates_days_left={which: _days_until(end) for which, end in ends.items()},
            credentials_refused=None if self._rotation.refusal is None else asdict(self._rotation.refusal),
            last_scan=None
            if last is None
            else {
                "at": last.at,
                "seconds": last.seconds,
                "files": last.tally.files,
                "found": last.tally.differences,
                "unreadable_directories": len(last.tally.unreadable),
            },
            counts_are_old=not is_fresh,
        )

    async def _count(self) -> bool:
        """Have the journal count; return False if it cannot: one that is damaged must not hide that it is."""
        journal = self._pipeline.parts.journal
        try:
            self._counted = await journal.counts(), await journal.oldest_waiting()
        except JournalError:
            return False
        return True

    def throughput(self) -> dict[str, Any]:
        """Return how many signatures the steps of the last quarter of an hour brought, the latest at the end."""
        return {"step_seconds": STEP_SECONDS, "signed": self._report.throughput.series(time.monotonic())}

    async def exposition(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        status, metrics = await self.status(), self._report.metrics
        metrics.backlog.set(status.backlog)
        metrics.failed.set(status.failed)
        metrics.oldest.set(status.oldest_waiting_seconds or 0)
        metrics.tell_gate(status.gate.reason)
        return metrics.exposition()

    async def files(self, state: State, limit: int) -> list[dict[str, Any]]:
        """Return some files that are in a state."""
        return [describe(entry) for entry in await self._pipeline.parts.journal.listed(state, limit)]

    async def lookup(self, paths: Sequence[bytes]) -> list[dict[str, Any]]:
        """Return what is known of some paths."""
        known = await self._pipeline.parts.journal.lookup(paths, at_once=True)
        return [
            {
                **(describe(known[path]) if path in known else {"path": os.fsdecode(path), "state": None}),
                **self._settling(path),
                "ignored": not self._pipeline.intake.filters.accepts(path),
            }
            for path in paths
        ]

    def _settling(self, path: bytes) -> dict[str, Any]:
        intake = self._pipeline.intake
        restless = intake.settling.get(path)
        if restless is None:
            undecided = intake.is_undecided(path)
            return {"settling": undecided, "settling_reason": "its content is being read" if undecided else None}
        reason = "a process holds it open for writing" if restless.held_open else "it has not been quiet for long yet"
        seconds = round(time.monotonic() - restless.first, 3)
        return {"settling": True, "settling_reason": reason, "settling_seconds": seconds}

    async def retry(self, wanted: Retry) -> int:
        """Take up at once what is wanted; return how many files that is."""
        prefixes = tuple(directory + b"/" if directory else b"" for directory in wanted.below)
        paths = wanted.paths
        if prefixes:
            entries = await self._pipeline.parts.journal.listed(State.FAILED, 1_000_000)
            paths = [entry.path for entry in entries if entry.path.startswith(prefixes)]
        intake = self._pipeline.intake
        paths = [path for path in paths if intake.filters.accepts(path)]
        for start in range(0, len(paths), _RETRIED_AT_ONCE):
            await intake.take_in(paths[start : start + _RETRIED_AT_ONCE], force=wanted.force)
            await asyncio.sleep(0)  # what else there is to do has its turn
        return len(paths)


def _days_until(end: datetime) -> float:
    return round((end - datetime.now(UTC)).total_seconds() / _DAY_SECONDS, 3)


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
