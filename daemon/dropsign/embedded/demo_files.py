"""The files that the demo drops: hostile names, sizes from nothing to 100 MiB, all ways into an outbox."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import cycle
from pathlib import Path
from typing import Final

from dropsign.model import SIGN_SUFFIX

_KIB: Final = 1024
_MIB: Final = 1024 * _KIB

SMALL: Final = _MIB
"""Up to this size a file is one to change afterwards."""

PIECES: Final = 3
"""In so many pieces a file is written slowly."""


class Way(StrEnum):
    """How a file comes into the outbox."""

    WRITTEN = "written"
    RENAMED = "renamed in"
    LINKED = "hard-linked in"
    SLOWLY = "written slowly"


@dataclass(frozen=True, slots=True)
class DemoFile:
    """A file to drop.

    Attributes:
        name: relative to the outbox, as bytes.
        size: in bytes.
        way: see `Way`.
    """

    name: bytes
    size: int
    way: Way

    def at(self, outbox: Path) -> Path:
        """Return where it lies."""
        return outbox / os.fsdecode(self.name)

    def sign_at(self, outbox: Path) -> Path:
        """Return where its signature belongs."""
        return outbox / os.fsdecode(self.name + SIGN_SUFFIX)


_NAMED: Final = (
    DemoFile(b"hello.txt", 1 * _KIB, Way.WRITTEN),
    DemoFile(b"images/disk.img", 100 * _MIB, Way.WRITTEN),
    DemoFile("смета на май.xlsx".encode(), 48 * _KIB, Way.RENAMED),
    DemoFile("見積書.docx".encode(), 96 * _KIB, Way.LINKED),
    DemoFile(b"recording.log", 300 * _KIB, Way.SLOWLY),
    DemoFile(b"empty", 0, Way.WRITTEN),
    DemoFile(b"two\nlines.txt", 2 * _KIB, Way.WRITTEN),
    DemoFile(b"not-utf-8-caf\xe9.txt", 3 * _KIB, Way.RENAMED),
    DemoFile(b"-rf", 64, Way.LINKED),
    DemoFile("rocket \N{ROCKET}.bin".encode(), 20 * _KIB, Way.WRITTEN),
    DemoFile(b"a/b/c/d/nested.tar", 5 * _MIB, Way.RENAMED),
    DemoFile(b'it\'s "quoted" & $HOME.pdf', 7 * _KIB, Way.WRITTEN),
)
"""Dropped first of all."""

_SIZES: Final = (100, 4 * _KIB, 70 * _KIB, 600 * _KIB, 3 * _MIB)
_WAYS: Final = (Way.WRITTEN, Way.RENAMED, Way.WRITTEN, Way.LINKED, Way.RENAMED, Way.WRITTEN, Way.SLOWLY, Way.LINKED)
_BATCH: Final = 8


def plan(number: int) -> list[DemoFile]:
    """Return so many files to drop, the remarkable ones first."""
    plain = (
        DemoFile(f"batch-{index // _BATCH:02}/part-{index:03}.bin".encode(), size, way)
        for index, size, way in zip(range(number - len(_NAMED)), cycle(_SIZES), cycle(_WAYS))
    )
    return [*_NAMED[:number], *plain]


def ways(files: Sequence[DemoFile]) -> str:
    """Say how many come in which way."""
    counts = Counter(file.way for file in files)
    return ", ".join(f"{counts[way]} {way}" for way in Way if counts[way])


def dropping(file: DemoFile, outbox: Path, outside: Path) -> Iterator[None]:
    """Drop a file; whoever iterates rests between the steps, of which a file written slowly has some.

    Args:
        file: what to drop.
        outbox: where to.
        outside: a directory on the same file system.
    """
    target = file.at(outbox)
    target.parent.mkdir(parents=True, exist_ok=True)
    match file.way:
        case Way.WRITTEN:
            _write(target, file.size)
        case Way.RENAMED:
            _write(outside / "renamed", file.size).rename(target)
        case Way.LINKED:
            target.hardlink_to(_write(outside / f"linked-{target.name}", file.size))
        case Way.SLOWLY:
            with target.open("wb", buffering=0) as opened:
                for piece in range(PIECES):
                    if piece:
                        yield
                    opened.write(os.urandom(file.size // PIECES))


def change(path: Path, outside: Path, manner: int) -> None:
    """Give a file other content.

    Args:
        path: which file.
        outside: a directory on the same file system.
        manner: counted through: appended to, written anew in place, replaced by another file.
    """
    match manner % 3:
        case 0:
            with path.open("ab") as opened:
                opened.write(b"and one line more\n")
        case 1:
            _write(path, 5 * _KIB)
        case _:
            _write(outside / "replacement", 6 * _KIB).replace(path)


def _write(path: Path, size: int) -> Path:
    """Create, write, close; the content is no other file's."""
    with path.open("wb") as opened:
        for start in range(0, size, _MIB):
            opened.write(os.urandom(min(_MIB, size - start)))
    return path
