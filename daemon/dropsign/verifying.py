"""Checks signatures without a daemon: files and directories -> one verdict for each file."""

import io
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from dropsign.filters import Filters
from dropsign.model import SIGN_SUFFIX

Proof = Callable[[bytes, io.BufferedReader, bytes], bool]
"""Tells of a path, its file, open at the start, and the text of its FILE.sign, whether that is this content's."""

_SIGN_MAX: Final = 64 * 1024
"""Bytes; a FILE.sign that is longer is no signature."""

_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class Finding(StrEnum):
    """What is to be said of one file."""

    OK = "ok"
    UNSIGNED = "unsigned"
    STALE = "stale"
    """Its FILE.sign fits some older content."""
    WRONG = "wrong"
    MISSING = "missing"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be said of one file, and why.

    Attributes:
        path: of the file, as the caller would reach it.
        finding: what.
        detail: why, for people; empty if the finding says it all.
    """

    path: bytes
    finding: Finding
    detail: str = ""


class Verification:
    """Checks whatever it is given by one kind of proof.

    Names in a directory are filtered as in an outbox; a file that is named itself is checked in any case.
    """

    def __init__(self, proof: Proof, filters: Filters, *, recursive: bool = True, root: bytes | None = None) -> None:
        """Prepare.

        Args:
            proof: that a signature is a content's.
            filters: which names in a directory count.
            recursive: sub-directories too.
            root: the outbox, to whose files the filters' patterns are relative; elsewhere they are relative to the
                directory that is given.
        """
        self._proof = proof
        self._filters = filters
        self._recursive = recursive
        self._root = os.path.realpath(root) if root is not None else None

    def verify(self, paths: Iterable[bytes]) -> Iterator[Verdict]:
        """Yield a verdict for each file given, and for each drop in each directory given, in order of names."""
        for found in self.walk(paths):
            yield found if isinstance(found, Verdict) else self.file(found)

    def walk(self, paths: Iterable[bytes]) -> Iterator[bytes | Verdict]:
        """Yield each file that `verify` checks, and a verdict for what cannot be entered."""
        for path in paths:
            if os.path.isdir(path):
                yield from self._directory(path)
            else:
                yield path.removesuffix(SIGN_SUFFIX)

    def file(self, path: bytes) -> Verdict:
        """Check one file."""
        try:
            fd = os.open(path, _OPEN)
        except FileNotFoundError:
            return Verdict(path, Finding.MISSING)
        except OSError as error:
            link = os.path.islink(path)
            return Verdict(path, Finding.UNREADABLE, "a symbolic link" if link else error.strerror or "")
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return Verdict(path, Finding.UNREADABLE, "not a regular file")
            try:
                return self._compare(path, file)
            except OSError as error:
                return Verdict(path, Finding.UNREADABLE, error.strerror or "")

    def _compare(self, path: bytes, file: io.BufferedReader) -> Verdict:
        try:
            text, signed_at = _read_sign(path + SIGN_SUFFIX)
        except FileNotFoundError:
            return Verdict(path, Finding.UNSIGNED)
        except OSError as error:
            return Verdict(path, Finding.UNREADABLE, f"its signature: {error.strerror}")
        if self._proof(path, file, text):
            return Verdict(path, Finding.OK)
        if signed_at < os.fstat(file.fileno()).st_mtime_ns:
            return Verdict(path, Finding.STALE, "the file is newer than its signature")
        return Verdict(path, Finding.WRONG, "the signature does not fit")

    def _directory(self, top: bytes) -> Iterator[bytes | Verdict]:
        """Walk with a list instead of recursion: trees may be deeper than Python's stack."""
        prefix = self._prefix(top)
        waiting = [(top, prefix)]
        while waiting:
            directory, prefix = waiting.pop()
            try:
                with os.scandir(directory) as entries:
                    found = sorted(entries, key=lambda entry: entry.name)
            except OSError as error:
                yield Verdict(directory, Finding.UNREADABLE, error.strerror or "")
                continue
            below = []
            for entry in found:
                name = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    if self._recursive and self._filters.enters(name):
                        below.append((entry.path, name + b"/"))
                elif entry.is_file(follow_symlinks=False) and self._filters.accepts(name):
                    yield entry.path
            waiting.extend(reversed(below))

    def _prefix(self, directory: bytes) -> bytes:
        """Return what names in a directory begin with as the filters see them."""
        if self._root is None:
            return b""
        real = os.path.realpath(directory)
        return real[len(self._root) + 1 :] + b"/" if real.startswith(self._root + b"/") else b""


def _read_sign(path: bytes) -> tuple[bytes, int]:
    """Return a signature's text and when it was written, in nanoseconds since the epoch.

    Raises:
        OSError: it is not there, cannot be read, or is no regular file.
    """
    with open(os.open(path, _OPEN), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(0, "not a regular file")
        return file.read(_SIGN_MAX), status.st_mtime_ns
