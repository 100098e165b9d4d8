"""Which signatures are written over again and again: pure bookkeeping, so that no two programs fight for ever."""

from collections import OrderedDict
from typing import Final

UNCONTESTED_SECONDS: Final = 60.0
"""A FILE.sign that is written over again within this time of being put back is left to the next scan."""

REMEMBERED_MOST: Final = 100_000
"""Paths; while there are so many, all are left to scans."""


class Contention:
    """When each FILE.sign was last put back that somebody had written over; times are monotonic seconds."""

    def __init__(self) -> None:
        self._mended: OrderedDict[bytes, float] = OrderedDict()  # in the order of time; a dict's first is slow to find

    def mended(self, path: bytes, now: float) -> None:
        """Remember that a drop's FILE.sign was put back."""
        self._mended[path] = now
        self._mended.move_to_end(path)
        self._forget(now)

    def is_on(self, path: bytes, now: float) -> bool:
        """Tell whether a notice of a drop's FILE.sign is to be left to a scan."""
        self._forget(now)
        return path in self._mended or len(self._mended) >= REMEMBERED_MOST

    def _forget(self, now: float) -> None:
        while self._mended:
            path = next(iter(self._mended))
            if now - self._mended[path] < UNCONTESTED_SECONDS and len(self._mended) <= REMEMBERED_MOST:
                return
            self._mended.popitem(last=False)
