"""A steady stream of files into an outbox, as other programs make it: dropped, rewritten, picked up, removed."""

import heapq
import os
import random
import time
from collections import Counter
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

from tests.support.sandbox import Sandbox

_SIZES: Final = (
    (0.70, 1024, 4 * 1024),
    (0.20, 4 * 1024, 32 * 1024),
    (0.08, 32 * 1024, 256 * 1024),
    (0.02, 256 * 1024, 1024 * 1024),
)
"""Which share of the files is how large, in bytes."""

_REWRITTEN: Final = 0.10
_TAKEN_BACK: Final = 0.03
"""Shares of the files that are written again, and that are removed before anybody picks them up."""

PICKUP_SECONDS: Final = (10.0, 40.0)
"""How old files are when they are picked up."""

_PATIENCE_SECONDS: Final = 180.0
"""After this time, a signature of other content is wrong, and a directory may be removed."""

_DIRECTORIES: Final = 40
"""As many lie beside each other; now and then the oldest, empty by then, is removed and one of a new name made."""

_FILES_A_DIRECTORY: Final = 500
"""So many drops go by until there is a new one."""


@dataclass(slots=True)
class _Lying:
    """A file in the outbox, and when it was written."""

    path: Path
    since: float


class Traffic:
    """Drops files at a steady rate and picks them up once they are signed.

    Attributes:
        counts: `dropped`, `rewritten`, `taken_back`, `picked_up`, and what must not be: `lost`, `wrong`.
    """

    def __init__(self, box: Sandbox, rate: float, chance: random.Random) -> None:
        """Prepare it.

        Args:
            box: whose outbox it goes to.
            rate: files a second.
            chance: decides what happens to which file.
        """
        self._box = box
        self._rate = rate
        self._chance = chance
        self._started = self._next = time.monotonic()
        self._number = count()
        self._noise = chance.randbytes(1024 * 1024)
        self._due: list[tuple[float, int, str, _Lying]] = []
        self.counts: Counter[str] = Counter()

    @property
    def lying(self) -> int:
        """How many files lie in the outbox and are to be picked up."""
        return sum(1 for due in self._due if due[2] == "pick up")

    def go_on(self) -> None:
        """Do what is due, and return soon."""
        now = time.monotonic()
        while self._next <= now:
            self._drop()
            self._next += 1 / self._rate
        self._carry_out(now)

    def end(self, seconds: float) -> None:
        """Drop no more; pick up what still lies there, as soon as it is signed; what is not by then is lost."""
        end = time.monotonic() + seconds
        while self._due and time.monotonic() < end:
            self._due = [(0.0, number, what, lying) for _, number, what, lying in self._due if what == "pick up"]
            self._carry_out(time.monotonic())
            time.sleep(0.2)
        self.counts["lost"] += self.lying

    def _carry_out(self, now: float) -> None:
        while self._due and self._due[0][0] <= now:
            _, _, what, lying = heapq.heappop(self._due)
            match what:
                case "rewrite":
                    self._write(lying.path)
                    lying.since = now
                    self.counts["rewritten"] += 1
                case "take back":
                    self._remove(lying.path)
                    self.counts["taken_back"] += 1
                case "remove directory":
                    _remove_empty(lying.path)
                case "pick up":
                    self._pick_up(lying, now)

    def _plan(self, when: float, what: str, lying: _Lying) -> None:
        heapq.heappush(self._due, (when, next(self._number), what, lying))

    def _drop(self) -> None:
        number, chance, now = self.counts["dropped"], self._chance, time.monotonic()
        block, place = divmod(number, _FILES_A_DIRECTORY)
        directory = self._box.outbox / f"d{block + place % _DIRECTORIES}"
        directory.mkdir(exist_ok=True)
        if place == 0 and block:
            gone = _Lying(self._box.outbox / f"d{block - 1}", now)
            self._plan(now + _PATIENCE_SECONDS, "remove directory", gone)
        path = directory / f"file{number}"
        self._write(path)
        lying = _Lying(path, now)
        self.counts["dropped"] += 1
        pickup = now + chance.uniform(*PICKUP_SECONDS)
        if chance.random() < _TAKEN_BACK:
            self._plan(now + chance.uniform(0, 5), "take back", lying)
            return
        if chance.random() < _REWRITTEN:
            self._plan(now + chance.uniform(0, 8), "rewrite", lying)
        self._plan(pickup, "pick up", lying)

    def _write(self, path: Path) -> None:
        """Write a file in one of the ways in which that is done."""
        chance = self._chance
        (low, high), share = _SIZES[-1][1:], chance.random()
        for part, *size in _SIZES:
            if share < part:
                low, high = size
                break
            share -= part
        length = chance.randrange(low, high)
        content = b"%d:" % time.time_ns() + self._noise[:length]
        match chance.randrange(3):
            case 0:
                path.write_bytes(content)
            case 1:
                with path.open("wb", buffering=0) as file:
                    for start in range(0, len(content), 64 * 1024):
                        file.write(content[start : start + 64 * 1024])
            case _:
                hidden = path.with_name(f".{path.name}.hidden")
                hidden.write_bytes(content)
                hidden.rename(path)

    def _pick_up(self, lying: _Lying, now: float) -> None:
        """Take a signed file away, with its signature; one that is not yet signed later."""
        box, path = self._box, lying.path
        try:
            text = box.sign_of(path).read_bytes()
        except FileNotFoundError:
            self._plan(now + 1, "pick up", lying)
            return
        if box.verifies(text, path.read_bytes()):
            self.counts["picked_up"] += 1
        elif now - lying.since > _PATIENCE_SECONDS:
            self.counts["wrong"] += 1
        else:
            self._plan(now + 1, "pick up", lying)
            return
        self._remove(path)

    def _remove(self, path: Path) -> None:
        """Remove a file and its signature, in either order, with a moment in between for both to be seen."""
        pair = [path, self._box.sign_of(path)]
        self._chance.shuffle(pair)
        for one in pair:
            one.unlink(missing_ok=True)


def _remove_empty(directory: Path) -> None:
    """Remove a directory that nothing is dropped into any more, unless somebody's signature came late."""
    for late in directory.glob("*.sign"):
        late.unlink(missing_ok=True)
    try:
        os.rmdir(directory)  # noqa: PTH106 - as it is
    except OSError:
        return
