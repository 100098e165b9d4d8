"""The Prometheus metrics, under the names of the contract (section 7)."""

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)

GATE_REASONS: Final = (
    "unreachable",
    "tls",
    "credentials",
    "clock_skew",
    "overloaded",
    "rejecting",
    "disk",
    "journal",
    "outbox",
    "resources",
)
"""Why the gate may be closed; docs/why-not-signed.md says what to do about each."""

_OUTCOMES: Final = (
    "signed",
    "adopted",
    "republished",
    "deferred",
    "failed",
    "refused",
    "changed",
    "withdrawn",
    "gone",
)

disable_created_metrics()  # type: ignore[no-untyped-call]  # names that nobody was promised


class Metrics:
    """All that is counted, in a registry of its own.

    What can be foreseen begins at 0: Prometheus sees no increase in a series that begins with its first event.
    """

    def __init__(self, version: str) -> None:
        self.registry = registry = CollectorRegistry()
        self.files = Counter("dropsign_files", "Files by what became of them.", ["outcome"], registry=registry)
        self.bytes = Counter("dropsign_bytes", "Bytes of signed files.", registry=registry)
        self.requests = Counter("dropsign_requests", "Requests by result.", ["result"], registry=registry)
        self.signing = Histogram("dropsign_signing_seconds", "Time of a request.", buckets=_BUCKETS, registry=registry)
        self.drop_to_sign = Histogram(
            "dropsign_drop_to_sign_seconds", "Time from settled to published.", buckets=_BUCKETS, registry=registry
        )
        self.overflows = Counter("dropsign_watch_overflows", "Times that notices were lost.", registry=registry)
        self.scan_found = Counter("dropsign_scan_found", "Drops that only a scan found.", registry=registry)
        self.scan = Gauge("dropsign_scan_seconds", "Duration of the last full scan.", registry=registry)
        self.gate_closed = Gauge(
            "dropsign_gate_closed", "1 for the reason that keeps the gate closed.", ["reason"], registry=registry
        )
        self.expiry = Gauge(
            "dropsign_certificate_expiry_timestamp_seconds", "When it expires.", ["which"], registry=registry
        )
        self.backlog = self._gauge("dropsign_backlog_files", "Files that wait for their signature.")
        self.limit = self._gauge("dropsign_concurrency_limit", "Requests at a time that the service bears just now.")
        self.ceiling = self._gauge("dropsign_concurrency_ceiling", "Requests at a time at most, as configured.")
        self.in_flight = self._gauge("dropsign_in_flight_requests", "Requests on their way.")
        self.oldest = self._gauge("dropsign_oldest_waiting_seconds", "Age of the oldest waiting file.")
        self.failed = self._gauge("dropsign_failed_files", "Files given up.")
        self.watcher_alive = self._gauge("dropsign_watcher_alive", "1 while the watcher lives.")
        build = Gauge("dropsign_build_info", "The program.", ["version"], registry=registry)
        build.labels(version=version).set(1)
        for outcome in _OUTCOMES:
            self.files.labels(outcome=outcome)
        self.tell_gate(None)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, registry=self.registry)

    def watch(self, gauge: Gauge, value: Callable[[], float]) -> None:
        """Have a gauge ask for its value whenever it is read."""
        gauge.set_function(value)

    def tell_gate(self, closed: str | None) -> None:
        """Take in for which reason the gate is closed; None while it is open."""
        for reason in GATE_REASONS:
            self.gate_closed.labels(reason=reason).set(reason == closed)

    def exposition(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)
