"""When a drop has come to rest: pure bookkeeping of notices and looks, with time as an argument.

A notice only means 'look here' (contract, section 1, 'Settling'). A path is due once no notice came for its quiet
time; then one look at the file tells whether it rests. Times are monotonic seconds, but for the wall clock that is
compared with the kernel's change times.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from dropsign.model import Fingerprint, Notice

CLOCK_TICK_SECONDS: Final = 0.02
"""How coarse a file system's timestamps may be: the kernel's tick is 10 ms at most. Content that changed within one
tick of a look can change again without its change time showing it."""

PATIENCE_SECONDS: Final = 1.0
"""How often a file that a writer holds open is looked at again, should its closing go unnoticed."""

_FINISHED: Final = frozenset({Notice.CLOSED, Notice.MOVED})
"""Notices after which the short quiet time is enough."""

_NOTHING_NEW: Final = frozenset({Notice.FOUND, Notice.BESIDE})
"""Notices that add nothing to what events told of the file itself."""


def is_young(fingerprint: Fingerprint, wall: float) -> bool:
    """Tell whether a file changed so shortly ago that a further change might not show in its fingerprint.

    Args:
        fingerprint: how it looks.
        wall: seconds since the epoch now, by the clock that stamps changes.
    """
    return abs(wall - fingerprint.ctime_ns / 1e9) < CLOCK_TICK_SECONDS


@dataclass(slots=True)
class Restless:
    """What is known of one path that has not come to rest.

    Attributes:
        notice: the last one.
        first: when the first notice came.
        due: when to look.
        fingerprint: the last one seen, and since when it has been the same.
        found: only scans told of it.
        written: a notice said that content was written, whatever notices came after it.
        warned: that it never rests was said.
        held_open: at the last look, a process held it open for writing.
    """

    notice: Notice
    first: float
    due: float
    fingerprint: Fingerprint | None = None
    since: float = 0.0
    found: bool = True
    written: bool = False
    warned: bool = False
    held_open: bool = False
    queued: float | None = None
    """The time under which it stands in the queue; an entry with another time is a left-over."""


class Settling:
    """All paths that have not come to rest, in the order in which they are due."""

    def __init__(self, quiet_seconds: float, quiet_after_close_seconds: float, warning_seconds: float) -> None:
        self.quiet_seconds = quiet_seconds
        self.quiet_after_close_seconds = quiet_after_close_seconds
        self.warning_seconds = warning_seconds
        self._restless: dict[bytes, Restless] = {}
        self._queue: list[tuple[float, bytes]] = []

    def __len__(self) -> int:
        return len(self._restless)

    def __contains__(self, path: bytes) -> bool:
        return path in self._restless

    def get(self, path: bytes) -> Restless | None:
        """Return what is known of a path, if it is restless."""
        return self._restless.get(path)

    def paths(self) -> list[bytes]:
        """Return all of them, in the order in which they were noticed."""
        return list(self._restless)

    def touch(self, path: bytes, notice: Notice, now: float) -> bool:
        """Take a notice in; return whether the path was at rest before."""
        restless = self._restless.get(path)
        new = restless is None
        if restless is None:
            restless = self._restless[path] = Restless(notice, now, now)
        elif notice in _NOTHING_NEW:
            return False
        restless.notice = notice
        restless.found = restless.found and notice is Notice.FOUND
        if notice is Notice.MODIFIED:
            restless.fingerprint = None
            restless.written = True
        self._put(path, restless, now + (self.quiet_after_close_seconds if notice in _FINISHED else self.quiet_seconds))
        return new

    def observe(self, path: bytes, fingerprint: Fingerprint, now: float) -> None:
        """Remember how the file looked, so that a later look can tell whether it changed."""
        restless = self._restless.get(path)
        if restless is not None and restless.fingerprint != fingerprint:
            restless.fingerprint = fingerprint
            restless.since = now

    def due(self, now: float, limit: int) -> list[bytes]:
        """Return up to `limit` paths whose quiet time has passed; each must then be judged or dropped."""
        paths: list[bytes] = []
        while self._queue and self._queue[0][0] <= now and len(paths) < limit:
            when, path = heapq.heappop(self._queue)
            restless = self._restless.get(path)
            if restless is None or restless.queued != when:
                continue
            restless.queued = None
            if restless.due > now:  # notices came since; one entry in the queue stands for them all
                self._put(path, restless, restless.due)
            else:
                paths.append(path)
        return paths

    def next_due(self) -> float | None:
        """Return when the next path may be due."""
        return self._queue[0][0] if self._queue else None

    def rests(self, path: bytes, fingerprint: Fingerprint, *, writer: bool | None, now: float, wall: float) -> bool:
        """Judge a due path by a look at its file; one that rests is dropped from here, one that does not stays.

        Args:
            path: what was due.
            fingerprint: how it looks now.
            writer: whether someone holds it open for writing; None where the kernel can't tell.
            now: monotonic seconds at the look.
            wall: seconds since the epoch at the look, by the clock that stamps changes.
        """
        restless = self._restless.get(path)
        if restless is None or restless.due > now:
            return False
        self.observe(path, fingerprint, now)
        restless.held_open = bool(writer)
        if writer:
            self._put(path, restless, now + max(self.quiet_seconds, PATIENCE_SECONDS))
            return False
        if is_young(fingerprint, wall):
            self._put(path, restless, now + CLOCK_TICK_SECONDS)
            return False
        # A close, or a rename with no writer left, is evidence; everything else needs two looks that agree.
        finished = restless.notice is Notice.CLOSED or (restless.notice is Notice.MOVED and writer is False)
        missing = 0 if finished else self.quiet_seconds - (now - restless.since)
        if missing > 0:
            self._put(path, restless, now + missing)
            return False
        del self._restless[path]
        return True

    def drop(self, path: bytes) -> None:
        """Forget a path: it is gone, or nothing is to be done about it."""
        self._restless.pop(path, None)

    def never_resting(self, now: float) -> Iterator[tuple[bytes, float]]:
        """Yield each path that has been restless for too long, with the seconds, once."""
        for path, restless in self._restless.items():
            if not restless.warned and now - restless.first >= self.warning_seconds:
                restless.warned = True
                yield path, now - restless.first

    def _put(self, path: bytes, restless: Restless, due: float) -> None:
        restless.due = due
        if restless.queued is None or due < restless.queued:
            restless.queued = due
            heapq.heappush(self._queue, (due, path))
