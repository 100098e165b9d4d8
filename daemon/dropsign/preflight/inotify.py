"""What the kernel's watch limits mean for this tree."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dropsign.errors import ConfigurationError
from dropsign.filters import Filters
from dropsign.preflight.finding import Finding, Setup, ok, warn

QUEUED_EVENTS: Final = 131_072
"""What a burst of 50,000 files with their events needs, twice over."""

MOST_DIRECTORIES: Final = 500_000
"""Where counting stops; by then every default limit is far behind."""


def tree(setup: Setup) -> Iterator[Finding]:
    """Count the tree's directories and hold the kernel's limits against them."""
    given = setup.configuration.outbox
    try:
        filters = Filters(given.include, given.exclude)
    except ConfigurationError:
        return  # directories.outbox said so
    if not given.path.is_dir():
        return
    directories, closed = _walk(given.path, filters, recursive=given.recursive)
    if closed:
        example = os.fsdecode(closed[0])
        remedy = "make them writable for the daemon's user, or exclude them"
        yield warn("outbox.path", f"{len(closed)} directories cannot be read or written, as {example!r}", remedy)
    if given.watcher == "inotify":
        kernel = Path("/proc/sys/fs/inotify")
        watches, queued = (int((kernel / name).read_bytes()) for name in ("max_user_watches", "max_queued_events"))
        yield from limits(directories, watches, queued)


def _walk(root: Path, filters: Filters, *, recursive: bool) -> tuple[int, list[bytes]]:
    """Count the directories that need a watch, and collect those that this user cannot work in."""
    top = os.fsencode(root)
    count, closed, waiting = 0, [], [b""]
    while waiting and count < MOST_DIRECTORIES:
        directory = waiting.pop()
        count += 1
        absolute = os.path.join(top, directory)  # noqa: PTH118 - bytes
        try:
            if directory and not os.access(absolute, os.W_OK | os.X_OK, effective_ids=True):
                closed.append(directory)
            if recursive:
                with os.scandir(absolute) as entries:
                    below = [os.path.join(directory, e.name) for e in entries if e.is_dir(follow_symlinks=False)]  # noqa: PTH118 - bytes
                waiting.extend(name for name in below if filters.enters(name))
        except OSError:
            closed.append(directory)
    return count, closed


def limits(directories: int, watches: int, queued: int) -> Iterator[Finding]:
    """Hold the kernel's limits against the tree.

    Args:
        directories: to be watched.
        watches: fs.inotify.max_user_watches.
        queued: fs.inotify.max_queued_events.
    """
    if watches < 2 * directories:
        yield warn(
            "inotify watches",
            f"{watches:,} for {directories:,} directories; what is not watched is polled",
            f"sysctl -w fs.inotify.max_user_watches={max(4 * directories, 65_536)} (and in /etc/sysctl.d)",
        )
    else:
        yield ok("inotify watches", f"{watches:,} for {directories:,} directories")
    if queued < QUEUED_EVENTS:
        yield warn(
            "inotify queue",
            f"{queued:,} events; a burst of more waits for a scan",
            f"sysctl -w fs.inotify.max_queued_events={QUEUED_EVENTS} (and in /etc/sysctl.d)",
        )
    else:
        yield ok("inotify queue", f"{queued:,} events")
