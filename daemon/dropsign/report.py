"""What becomes of files, told to the log and to the metrics (contract, sections 6 and 7)."""

import time
from collections.abc import Mapping
from typing import Final

from dropsign.contention import UNCONTESTED_SECONDS
from dropsign.gate import Closed
from dropsign.log import Log, path_text
from dropsign.metrics import Metrics
from dropsign.model import Drop, Signature
from dropsign.parts import OVERWRITTEN
from dropsign.recent import Durations, Throughput
from dropsign.rescan import Finished

_OVERWRITTEN: Final = (
    "find out who writes there, as only dropsign should; what is written over again within"
    f" {UNCONTESTED_SECONDS:g} s is put back at the next scan"
)


class Report:
    """Implements parts.Observer."""

    def __init__(self, log: Log, metrics: Metrics) -> None:
        self._log = log
        self.metrics = metrics
        self.throughput = Throughput(time.monotonic())
        self.signing = Durations()
        self.drop_to_sign = Durations()
        self._unreadable: set[tuple[bytes, str]] = set()
        self._closed_directories: set[bytes] = set()
        self._signed = metrics.files.labels(outcome="signed")
        self._requests = {"signed": metrics.requests.labels(result="signed")}

    def queued(self, drop: Drop, *, found: bool) -> None:
        """See parts.Observer."""
        if found:
            self.metrics.scan_found.inc()
        self._log.debug("file.queued", path=path_text(drop.path), size=drop.fingerprint.size)

    def signed(self, drop: Drop, signature: Signature, request_seconds: float) -> None:
        """See parts.Observer."""
        self._signed.inc()
        self.metrics.bytes.inc(signature.size)
        now, seconds = time.monotonic(), max(0.0, time.time() - drop.settled_at)
        self.metrics.drop_to_sign.observe(seconds)
        self.drop_to_sign.add(now, seconds)
        self.throughput.count(now)
        self._forgive(drop.path)
        self._log.info(
            "file.signed",
            path=path_text(drop.path),
            attempt=drop.attempts + 1,
            duration_ms=round(request_seconds * 1000, 3),
            size=signature.size,
            sha256=signature.sha256.hex(),
        )

    def adopted(self, path: bytes, signature: Signature) -> None:
        """See parts.Observer."""
        self._count("adopted")
        self._log.info("file.adopted", path=path_text(path), size=signature.size, sha256=signature.sha256.hex())

    def republished(self, path: bytes, reason: str) -> None:
        """See parts.Observer; that somebody writes over signatures is worth a warning."""
        self._count("republished")
        if reason == OVERWRITTEN:
            self._log.warning("file.republished", path=path_text(path), reason=reason, remedy=_OVERWRITTEN)
        else:
            self._log.info("file.republished", path=path_text(path), reason=reason)

    def deferred(self, drop: Drop, reason: str, error: str, seconds: float) -> None:
        """See parts.Observer; that a file cannot be read is said once."""
        self._count("deferred")
        known = (drop.path, reason)
        if known in self._unreadable:
            return
        if not drop.attempts:
            self._unreadable.add(known)
        self._log.warning(
            "file.deferred",
            path=path_text(drop.path),
            attempt=drop.attempts,
            reason=reason,
            error=error,
            next_try_seconds=round(seconds, 3),
        )

    def failed(self, drop: Drop, reason: str, error: str) -> None:
        """See parts.Observer."""
        self._count("failed")
        self._forgive(drop.path)
        self._log.error("file.failed", path=path_text(drop.path), attempt=drop.attempts, reason=reason, error=error)

    def refused(self, path: bytes, reason: str) -> None:
        """See parts.Observer."""
        self._count("refused")
        self._log.warning("file.refused", path=path_text(path), reason=reason)

    def unseen(self, path: bytes) -> None:
        """See parts.Observer; a scan names the directory."""

    def changed(self, path: bytes) -> None:
        """See parts.Observer."""
        self._count("changed")
        self._log.info("file.changed", path=path_text(path))

    def withdrawn(self, path: bytes) -> None:
        """See parts.Observer."""
        self._count("withdrawn")
        self._log.info("file.withdrawn", path=path_text(path))

    def gone(self, path: bytes) -> None:
        """See parts.Observer."""
        self._count("gone")
        self._forgive(path)
        self._log.info("file.gone", path=path_text(path))

    def unsettled(self, path: bytes, seconds: float) -> None:
        """See parts.Observer."""
        self._log.warning("file.unsettled", path=path_text(path), seconds=round(seconds))

    def unchanged(self, path: bytes, refusal: str | None = None) -> None:
        """See parts.Observer."""

    def requested(self, result: str, seconds: float) -> None:
        """See parts.Observer."""
        counter = self._requests.get(result)
        if counter is None:
            counter = self._requests[result] = self.metrics.requests.labels(result=result)
        counter.inc()
        self.metrics.signing.observe(seconds)
        self.signing.add(time.monotonic(), seconds)

    def defect(self, error: Exception) -> None:
        """See parts.Observer."""
        self._log.error("daemon.defect", error=f"{type(error).__name__}: {error}", exc_info=error)

    def scan_finished(self, finished: Finished) -> None:
        """Say what a scan saw; quietly, if it is one of those that come every few seconds and it found nothing."""
        tally = finished.tally
        say = self._log.debug if finished.polled and not tally.differences else self._log.info
        say(
            "scan.finished",
            files=tally.files,
            directories=tally.directories,
            differences=tally.differences,
            unreadable=len(tally.unreadable),
            duration_ms=round(finished.seconds * 1000, 3),
        )
        self._tell_unreadable(tally.unreadable)
        if not finished.polled:
            self.metrics.scan.set(finished.seconds)
            self._closed_directories &= tally.unreadable.keys()

    def _tell_unreadable(self, directories: Mapping[bytes, str]) -> None:
        """Say of each directory that cannot be looked through that nothing in there is signed; once, until it can."""
        for directory in directories.keys() - self._closed_directories:
            self._log.warning(
                "watch.degraded",
                path=path_text(directory),
                reason="unreadable",
                error=f"cannot be looked through: {directories[directory]}",
                remedy="let the daemon's user read and search it, or exclude it; it is tried again at every scan",
            )
            self._closed_directories.add(directory)

    def gate_closed(self, closed: Closed) -> None:
        """Say that the gate closed, and why."""
        self._log.warning("gate.closed", reason=closed.reason, error=closed.detail)

    def gate_waiting(self, closed: Closed, waiting: int) -> None:
        """Say, once a minute, that the gate is still closed."""
        seconds = max(0, round(time.time() - closed.since))
        self._log.warning("gate.waiting", reason=closed.reason, error=closed.detail, seconds=seconds, waiting=waiting)

    def gate_opened(self, closed: Closed, seconds: float, waiting: int) -> None:
        """Say that the gate opened."""
        self._log.info("gate.opened", reason=closed.reason, seconds=round(seconds, 3), waiting=waiting)

    def _count(self, outcome: str) -> None:
        self.metrics.files.labels(outcome=outcome).inc()

    def _forgive(self, path: bytes) -> None:
        if self._unreadable:
            self._unreadable = {known for known in self._unreadable if known[0] != path}
