"""Stops one thread of another process, and no other, as a hang in it would."""

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_SEIZE, _INTERRUPT, _CONTINUE, _DETACH = 0x4206, 0x4207, 7, 17
"""Of ptrace(2)."""

_WALL = 0x40000000
"""Of waitpid(2): threads too."""

_libc = ctypes.CDLL(None, use_errno=True)


def thread(pid: int, name: str) -> int:
    """Return the number of a process's thread that has a name; "main" is its first."""
    if name == "main":
        return pid
    names = {int(task.name): (task / "comm").read_text().strip() for task in Path(f"/proc/{pid}/task").iterdir()}
    found = [tid for tid, its in names.items() if its == name]
    assert len(found) == 1, names
    return found[0]


@contextmanager
def frozen(tid: int) -> Iterator[Callable[[], bool]]:
    """Keep one thread from running until the process is killed, or the block is over.

    Yields:
        What tells whether it is dead: to be asked, as the dead process stays until who holds the thread has looked.
    """
    _ptrace(_SEIZE, tid)
    _ptrace(_INTERRUPT, tid)
    os.waitpid(tid, _WALL)
    dead = False

    def is_dead() -> bool:
        nonlocal dead
        if not dead:
            number, status = os.waitpid(tid, _WALL | os.WNOHANG)
            dead = number == tid and (os.WIFSIGNALED(status) or os.WIFEXITED(status))
            if number == tid and os.WIFSTOPPED(status):
                _libc.ptrace(_CONTINUE, tid, 0, os.WSTOPSIG(status))  # the signal that is to kill it
        return dead

    try:
        yield is_dead
    finally:
        if not dead:
            _libc.ptrace(_DETACH, tid, 0, 0)


def _ptrace(request: int, tid: int) -> None:
    if _libc.ptrace(request, tid, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
