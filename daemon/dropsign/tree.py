"""Walks a directory by names: what in it is a drop, what the filters leave out, and what can be no drop."""

import os
import stat
from collections.abc import Iterator
from enum import Enum, auto
from typing import NamedTuple

from dropsign.filters import Filters, is_ours


class Kind(Enum):
    """What a name in a directory stands for."""

    DROP = auto()
    LEFT_OUT = auto()
    """Excluded, or not included; a directory of this kind is not entered."""
    SPECIAL = auto()
    """A link, FIFO, socket or device that no filter leaves out."""
    UNREADABLE = auto()
    """A directory."""


class Found(NamedTuple):
    """One name.

    Attributes:
        name: relative to the directory that was walked; b"" for that itself.
        kind: what it stands for.
        detail: what it is, or why it cannot be read.
    """

    name: bytes
    kind: Kind
    detail: str = ""


_SPECIAL = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def walk(top: bytes, filters: Filters, prefix: bytes = b"", *, recursive: bool = True) -> Iterator[Found]:
    """Yield all that is below a directory, but for what dropsign itself wrote; sorted within each directory.

    Args:
        top: the directory.
        filters: tell what is left out.
        prefix: what names begin with as the filters see them: where the directory lies in its outbox, with a slash
            at the end.
        recursive: enter sub-directories.
    """
    waiting = [b""]  # instead of recursion: trees may be deeper than Python's stack
    while waiting:
        directory = waiting.pop()
        try:
            with os.scandir(top + b"/" + directory if directory else top) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            yield Found(directory.removesuffix(b"/"), Kind.UNREADABLE, error.strerror or "")
            continue
        below = []
        for entry in found:
            name = directory + entry.name
            if entry.is_dir(follow_symlinks=False):
                if recursive and filters.enters(prefix + name):
                    below.append(name + b"/")
                else:
                    yield Found(name, Kind.LEFT_OUT)
            elif not filters.accepts(prefix + name):
                if not is_ours(entry.name):
                    yield Found(name, Kind.LEFT_OUT)
            elif entry.is_file(follow_symlinks=False):
                yield Found(name, Kind.DROP)
            else:
                yield Found(name, Kind.SPECIAL, _describe(entry))
        waiting.extend(reversed(below))


def prefix_in(root: bytes | None, directory: bytes) -> bytes:
    """Return what names in a directory begin with, seen from the outbox; b"" for one that lies elsewhere."""
    if root is None:
        return b""
    root, real = os.path.realpath(root), os.path.realpath(directory)
    return real[len(root) + 1 :] + b"/" if real.startswith(root + b"/") else b""


def _describe(entry: "os.DirEntry[bytes]") -> str:
    try:
        return _SPECIAL.get(stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode), "no regular file")
    except OSError as error:
        return error.strerror or ""
