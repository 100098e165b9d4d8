"""Why a file is signed, or not yet, in words: pure, from how it looks and what is known of it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from dropsign.model import Fingerprint, State

GATE_REMEDIES: Final = {
    "unreachable": "see that the service runs and that the network, DNS and firewall let us through: dropsign check",
    "tls": "the service's certificate must be valid, issued by tls.authority, and bear the name in service.url",
    "credentials": "renew the certificate, or correct app_key and app_secret; new files are taken up by themselves",
    "clock_skew": "set this machine's clock: timedatectl set-ntp true",
    "overloaded": "wait; if it stays so, lower service.concurrency or ask who runs the service",
    "rejecting": "is service.url with service.sign_path right? ask who runs the service",
    "disk": "make room in the outbox and beside the journal, or mount them writable again",
    "journal": "make the journal's directory writable; a damaged one is made anew: dropsign run --rebuild-journal",
    "outbox": "mount or create the outbox again",
    "resources": "raise the limit of open files: LimitNOFILE= in the unit",
}
"""What to do while the gate is closed, by its reason."""

_PUT_BACK: Final = "a scan puts it back, which asks the service for nothing; at once: dropsign sign FILE"

_ANY_GATE: Final = "see docs/why-not-signed.md"

_REFUSALS: Final = {
    "symbolic_link": ("it is a symbolic link, and links are never followed", "drop the file itself"),
    "name_too_long": ("with .sign its name would be longer than 255 bytes", "give it a shorter name"),
    "too_large": ("it is larger than outbox.max_file_mib", "raise that limit, if the service takes such files"),
}

_FAILURES: Final = {
    "bad_signature": "see that verify.key and verify.scheme are the service's (dropsign check --probe)",
}
"""What to do about a failed file whose error does not say it, by its reason."""


def start_remedy(unit: str) -> str:
    """Say what to do where no daemon runs."""
    return f"start the daemon: systemctl start {unit}; why it ended: journalctl -u {unit} -n 20"


@dataclass(frozen=True, slots=True)
class Sight:
    """How a file looks to whoever asks.

    Attributes:
        path: relative to the outbox.
        fingerprint: of what is there; None where nothing is.
        refusal: why it can't be signed for what it is, if so (admission.refusal_of).
        filtered: why its name is no drop's, if so (Filters.why_not).
        has_sign: whether something has the name of its FILE.sign.
        displaced_by: what that is, if it is no file (admission.kind_of).
        sign_text: what that holds; None where it could not be read.
        writers: which processes hold it open for writing, as `name (pid)`.
        quiet_seconds: since its last change.
    """

    path: bytes
    fingerprint: Fingerprint | None = None
    refusal: str | None = None
    filtered: str | None = None
    has_sign: bool = False
    displaced_by: str | None = None
    sign_text: bytes | None = None
    writers: Sequence[str] = ()
    quiet_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is to be said of one file.

    Attributes:
        state: one word.
        cause: why it is so.
        remedy: what to do about it; "" for nothing.
    """

    state: str
    cause: str
    remedy: str = ""


def explain(sight: Sight, record: dict[str, Any], status: dict[str, Any], settings: Any, now: float) -> Explanation:
    """Say how it stands with one file.

    Args:
        sight: how it looks now.
        record: what the daemon or the journal knows of it (status.describe, with `settling`).
        status: how things are (status.Status).
        settings: the configuration's section `outbox`.
        now: seconds since the epoch.
    """
    if sight.fingerprint is None:
        if record["state"] is None:
            return Explanation(
                "unknown",
                "there is no such file, and nothing is known of one",
                "see that its name is right, or drop it",
            )
        return Explanation("gone", f"it is no longer there; it was {record['state']} when last seen")
    if sight.filtered is not None:
        return Explanation("ignored", f"its name {sight.filtered}", "rename it, or change the patterns of [outbox]")
    if sight.refusal is not None:
        cause, remedy = _REFUSALS.get(
            sight.refusal,
            (
                f"it is a {sight.refusal.replace('_', ' ')}, and only regular files are signed",
                "drop a regular file, or exclude it",
            ),
        )
        return Explanation("refused", cause, remedy)
    is_known = record["state"] is not None and record["fingerprint"] == list(sight.fingerprint)
    if is_known and record["state"] == State.SIGNED and sight.has_sign:
        return _beside(sight, os.fsencode(record["signature"] or ""))
    if not status["running"]:
        return Explanation(record["state"] if is_known else "waiting", "no daemon runs", start_remedy(status["unit"]))
    if not is_known or record["settling"]:
        return _unsettled(sight, record, settings, status)
    return _recorded(record, status, settings, now)


def _beside(sight: Sight, text: bytes) -> Explanation:
    """Explain what has the name of the FILE.sign with a text that the journal has for just this version."""
    if sight.displaced_by == "directory":
        cause = "a directory has the name of its FILE.sign, and is not removed"
        return Explanation("wrong", cause, "move it away; then dropsign sign FILE")
    if sight.displaced_by is not None:
        return Explanation(
            "wrong", f"a {sight.displaced_by.replace('_', ' ')} has the name of its FILE.sign", _PUT_BACK
        )
    if sight.sign_text is not None and sight.sign_text != text:
        return Explanation("wrong", "somebody wrote another FILE.sign over the one made here", _PUT_BACK)
    return Explanation("signed", "FILE.sign lies beside it, and the file has not changed since it was signed")


def _unsettled(sight: Sight, record: dict[str, Any], settings: Any, status: dict[str, Any]) -> Explanation:
    if sight.writers:
        who = ", ".join(sight.writers)
        return Explanation("settling", f"{who} holds it open for writing", "it is taken once that is closed")
    if sight.quiet_seconds < max(1.0, 2 * settings.settle_seconds):
        cause = (
            f"it changed {max(0.0, sight.quiet_seconds):.1f} s ago and must be quiet for {settings.settle_seconds} s"
        )
        return Explanation("settling", cause)
    if record.get("settling_reason"):
        return Explanation("settling", str(record["settling_reason"]), "fuser -v FILE names who has it open")
    if status["not_ready_reasons"]:
        return Explanation("waiting", f"not looked at yet: {'; '.join(status['not_ready_reasons'])}")
    return Explanation(
        "settling",
        "it has been quiet, and no event told of it",
        f"the next scan, within {settings.rescan_seconds:g} s, finds it; "
        f"at once: systemctl kill -s USR1 {status['unit']}",
    )


def _recorded(record: dict[str, Any], status: dict[str, Any], settings: Any, now: float) -> Explanation:
    """Explain the state that the journal has for just this version."""
    why = f"{record['reason']}: {record['error']}" if record["error"] else str(record["reason"])
    match record["state"]:
        case State.SIGNED:
            cause = "its FILE.sign was removed"
            if not settings.republish_missing:
                return Explanation("signed", cause, "sign it again: dropsign sign --force FILE")
            return Explanation("signed", cause, f"the next scan, within {settings.rescan_seconds:g} s, puts it back")
        case State.QUEUED if status["gate"]["closed"]:
            gate = status["gate"]
            text = f"the gate is closed for all files: {gate['reason']}: {gate['detail']}"
            return Explanation("queued", text, gate_remedy(gate["reason"]))
        case State.QUEUED:
            return Explanation("queued", f"it waits for its turn, as one of {status['backlog']}")
        case State.DEFERRED:
            wait = max(0.0, (record["not_before"] or now) - now)
            return Explanation("deferred", why, f"it is tried again in {wait:.0f} s; at once: dropsign retry FILE")
        case State.FAILED:
            remedy = _FAILURES.get(str(record["reason"]), "put right what it names")
            return Explanation("failed", why, f"{remedy}; then dropsign retry FILE, or drop it again changed")
    return Explanation(str(record["state"]), why)


def gate_remedy(reason: str) -> str:
    """Say what to do while the gate is closed for a reason."""
    return GATE_REMEDIES.get(reason, _ANY_GATE)
