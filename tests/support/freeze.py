"""Stops one thread of another process, and no other, as a hang in it would."""

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SEIZE, _INTERRUPT, _DETACH = 0x4206, 0x4207, 17
"""Of ptrace(2)."""

_WALL = 0x40000000
"""Of waitpid(2): threads too."""

_libc = ctypes.CDLL(None, use_errno=True)


def thread(pid: int, name: str) -> int:
    """Return the number of a process's thread that has a name."""
    tasks = Path(f"/proc/{pid}/task")
    found = [int(task.name) for task in tasks.iterdir() if (task / "comm").read_text().strip() == name]
    assert len(found) == 1, [(task / "comm").read_text() for task in tasks.iterdir()]
    return found[0]


@contextmanager
def frozen(tid: int) -> Iterator[None]:
    """Keep one thread from running, for as long as the block lasts or until the process is killed."""
    _ptrace(_SEIZE, tid)
    _ptrace(_INTERRUPT, tid)
    os.waitpid(tid, _WALL)
    try:
        yield
    finally:
        if Path(f"/proc/{tid}").exists():
            _libc.ptrace(_DETACH, tid, 0, signal.SIG_DFL)  # or it is dead by now


def _ptrace(request: int, tid: int) -> None:
    if _libc.ptrace(request, tid, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
