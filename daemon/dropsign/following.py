"""Follows a file that is written to, over rotations: by a new file in its place, or by being emptied."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

POLL_SECONDS: Final = 0.1

_LINGER_SECONDS: Final = 10.0
"""How long a file is still read after another took its place: its writer may not have noticed."""

_PIECE: Final = 256 * 1024
_LINE_MAX: Final = 1024 * 1024


class _Tail:
    """What one file brings; an unfinished last line waits for its end."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._rest = b""
        self.status = os.fstat(self._file.fileno())
        self.silent_since = time.monotonic()

    def lines(self) -> Iterator[bytes]:
        """Yield what is new."""
        if os.fstat(self._file.fileno()).st_size < self._file.tell():  # emptied
            self._file.seek(0)
            yield from self._last()
        while piece := self._file.read(_PIECE):
            self.silent_since = time.monotonic()
            *whole, self._rest = (self._rest + piece).split(b"\n")
            yield from whole
            if len(self._rest) > _LINE_MAX:
                yield from self._last()

    def close(self) -> Iterator[bytes]:
        """Yield what is left, and close it."""
        yield from self.lines()
        yield from self._last()
        self._file.close()

    def _last(self) -> Iterator[bytes]:
        if self._rest:
            yield self._rest
        self._rest = b""


def follow(path: Path, wait: Callable[[], None] = lambda: time.sleep(POLL_SECONDS)) -> Iterator[bytes]:
    """Yield the lines of a file and those that are yet to come, for ever.

    Args:
        path: of the file; whatever takes its place is followed next.
        wait: called when there is nothing new.

    Raises:
        OSError: it cannot be read at first.
    """
    tails = deque([_Tail(path)])
    while True:
        for tail in tails:
            yield from tail.lines()
        now = time.monotonic()
        while len(tails) > 1 and now - tails[0].silent_since > _LINGER_SECONDS:
            yield from tails.popleft().close()
        if not _replaced(path, tails):
            wait()


def _replaced(path: Path, tails: deque[_Tail]) -> bool:
    """Open what took the last file's place; return whether anything did."""
    try:
        if os.path.samestat(path.stat(), tails[-1].status):
            return False
        tails.append(_Tail(path))
    except OSError:  # between a rename and the new file
        return False
    return True
