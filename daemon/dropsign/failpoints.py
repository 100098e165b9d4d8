"""Named points at which a test can have the process killed: inert unless the environment names one at start.

`DROPSIGN_FAILPOINT=NAME` or `NAME:N` kills the process with SIGKILL when it reaches the point for the Nth time. The
points stand between every two steps of a file's way; docs/architecture.md says what is on disk at each.
"""

import os
import signal
import threading
from typing import Final

WRITES: Final = ("queue", "defer", "fail", "refuse", "obtain", "sign", "keep", "forget")
"""What is written to the journal, each with a point before its commit (`queue_written`) and one after it
(`queue_committed`)."""

NAMES: Final = (
    # intake
    "noticed",
    "settled",
    "withdrawn",
    "withdrawal_synced",
    "examined",
    "adopted",
    "republished",
    "refused",
    "forgotten",
    "queued",
    "lined_up",
    "retried",
    # pool
    "taken",
    "loaded",
    "sending",
    "answered",
    "verified",
    # outbox
    "temporary_created",
    "temporary_written",
    "temporary_synced",
    "compared",
    "renamed",
    "directory_synced",
    # what became of it
    "recorded",
    "outdated",
    "deferred",
    "failed",
    "note_written",
    "note_renamed",
    "note_removed",
    # scan
    "leftover_found",
    "leftover_removed",
    # journal
    *(f"{write}_{step}" for write in WRITES for step in ("written", "committed")),
)
"""In the order of a file's way."""

_ARMED, _, _COUNT = os.environ.get("DROPSIGN_FAILPOINT", "").partition(":")
_lock = threading.Lock()
_left = int(_COUNT) if _COUNT.isdigit() else 1


def reach(name: str) -> None:
    """Pass a point, or die there."""
    if _ARMED and name == _ARMED:
        _die()


def _die() -> None:
    global _left  # noqa: PLW0603 - the one count of the one armed point
    with _lock:
        _left -= 1
        if _left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
