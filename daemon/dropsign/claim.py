"""Who uses a journal: one process at a time, which says who it is and what for."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from dropsign.errors import JournalError, OutboxLockedError


class Holder(NamedTuple):
    """Which process said last that it uses a journal, and for which verb."""

    process: int
    purpose: str


def holder(path: Path) -> Holder | None:
    """Return who uses a journal, or did so last; None if that is not known."""
    try:
        process, purpose = _lock_file(path).read_text("ascii").split()
        return Holder(int(process), purpose)
    except (OSError, ValueError):
        return None


def _lock_file(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def lock(path: Path, purpose: str = "run") -> int:
    """Keep other processes off a journal, until the descriptor that is returned is closed.

    Args:
        path: of the journal.
        purpose: the verb that it is for.

    Raises:
        OutboxLockedError: another process has it.
        JournalError: the lock cannot be made, or the path is a directory.
    """
    if path.is_dir():
        msg = f"journal.path: {path} is a directory; name a file in it, such as {path / 'journal.sqlite3'}"
        raise JournalError(msg)
    name = _lock_file(path)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        msg = f"journal.path: {name} cannot be made: {error.strerror}; its directory must be writable"
        raise JournalError(msg) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        msg = f"journal.path: another dropsign uses {path}; give each outbox a journal of its own"
        raise OutboxLockedError(msg) from None
    with suppress(OSError):  # a full disk: then nobody knows who it is
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()} {purpose}\n".encode("ascii"), 0)
    return fd
