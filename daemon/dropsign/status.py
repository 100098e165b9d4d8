"""How things are, and what is known of one file, as values for people and JSON; from the daemon or its journal."""

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dropsign import schema
from dropsign.model import Entry, State


@dataclass(frozen=True, slots=True)
class GateStatus:
    """Whether requests may be made, and if not, why."""

    closed: bool = False
    reason: str | None = None
    detail: str | None = None
    closed_seconds: float | None = None
    next_probe_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """All that `dropsign status --json` prints; its keys are stable."""

    running: bool
    version: str
    outbox: str
    unit: str
    ready: bool = False
    not_ready_reasons: list[str] = field(default_factory=list)
    backlog: int = 0
    settling: int = 0
    in_flight: int = 0
    concurrency: int = 0
    concurrency_ceiling: int = 0
    signed: int = 0
    failed: int = 0
    refused: int = 0
    deferred: int = 0
    oldest_waiting_seconds: float | None = None
    signed_per_second: float | None = None
    signing_seconds: dict[str, float] | None = None
    drop_to_sign_seconds: dict[str, float] | None = None
    uptime_seconds: float | None = None
    gate: GateStatus = field(default_factory=GateStatus)
    certificates: dict[str, str] = field(default_factory=dict)
    certificates_days_left: dict[str, float] = field(default_factory=dict)
    credentials_refused: dict[str, Any] | None = None
    last_scan: dict[str, Any] | None = None
    counts_are_old: bool = False

    def as_line(self) -> str:
        """Return it as a line for systemd."""
        text = f"{self.backlog} waiting, {self.in_flight} in flight, {self.signed} signed, {self.failed} failed"
        return f"gate closed ({self.gate.reason}); {text}" if self.gate.closed else text

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON's kinds of values."""
        return asdict(self)


def from_journal(path: Path, version: str, outbox: str, unit: str, now: float) -> Status:
    """Return what the journal alone can tell, while no daemon runs.

    Raises:
        JournalError: there is none, or it cannot be read.
    """
    with schema.reading(path, thorough=True) as connection:
        counts = schema.counts(connection)
        oldest = schema.oldest_waiting(connection)
    return Status(
        running=False,
        version=version,
        outbox=outbox,
        unit=unit,
        not_ready_reasons=["no daemon runs"],
        backlog=counts[State.QUEUED] + counts[State.DEFERRED],
        signed=counts[State.SIGNED],
        failed=counts[State.FAILED],
        refused=counts[State.REFUSED],
        deferred=counts[State.DEFERRED],
        oldest_waiting_seconds=None if oldest is None else max(0.0, now - oldest),
    )


def describe(entry: Entry) -> dict[str, Any]:
    """Return an entry as JSON's kinds of values."""
    return {
        "path": os.fsdecode(entry.path),
        "state": str(entry.state),
        "size": entry.fingerprint.size,
        "since": entry.since,
        "attempts": entry.attempts,
        "not_before": entry.not_before or None,
        "reason": entry.reason,
        "error": entry.error,
        "sha256": entry.sha256.hex() if entry.sha256 else None,
        "signed_at": entry.signed_at,
        "service_certificate": entry.service.hex() if entry.service else None,
        "client_certificate": entry.client,
        "signature": entry.text.decode("utf-8", "surrogateescape") if entry.text else None,
        "fingerprint": list(entry.fingerprint),
    }
