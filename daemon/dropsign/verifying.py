"""Checks signatures without a daemon: files and directories -> one verdict for each file."""

import hashlib
import io
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from dropsign import manifest
from dropsign.filters import Filters
from dropsign.model import SIGN_SUFFIX, Signature
from dropsign.tree import Kind, prefix_in, walk

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
        signature: what was found to fit, if it did.
    """

    path: bytes
    finding: Finding
    detail: str = ""
    signature: Signature | None = None


class Proof(Protocol):
    """Decides whether a signature belongs to some content: by a key, or by what is recorded."""

    def expect(self, paths: Sequence[bytes]) -> None:
        """Be told which files will be asked about next, so that they can be looked up together."""

    def fits(self, path: bytes, file: io.BufferedReader, signature: Signature) -> bool:
        """Tell whether it does.

        Args:
            path: of the file, as the caller would reach it.
            file: the content.
            signature: what FILE.sign holds, with the content's digest and size.

        Raises:
            OSError: the file cannot be read.
        """


class Verification:
    """Checks whatever it is given by one kind of proof.

    Names in a directory are filtered as in an outbox; a file that is named itself is checked in any case.
    """

    def __init__(
        self,
        proof: Proof,
        filters: Filters,
        *,
        recursive: bool = True,
        root: bytes | None = None,
        names_special: bool = False,
    ) -> None:
        """Prepare.

        Args:
            proof: decides whether a signature fits.
            filters: which names in a directory count.
            recursive: sub-directories too.
            root: the outbox, to whose files the filters' patterns are relative; elsewhere they are relative to the
                directory that is given.
            names_special: give a verdict for links, FIFOs and the like too, instead of passing them over.
        """
        self._proof = proof
        self._filters = filters
        self._recursive = recursive
        self._root = root
        self._names_special = names_special

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
        sha256 = hashlib.file_digest(file, "sha256").digest()
        signature = Signature(text, sha256, file.tell())
        if self._proof.fits(path, file, signature):
            return Verdict(path, Finding.OK, signature=signature)
        if signed_at < os.fstat(file.fileno()).st_mtime_ns:
            return Verdict(path, Finding.STALE, "the file is newer than its signature")
        return Verdict(path, Finding.WRONG, "the signature does not fit")

    def _directory(self, top: bytes) -> Iterator[bytes | Verdict]:
        for found in walk(top, self._filters, prefix_in(self._root, top), recursive=self._recursive):
            path = top + b"/" + found.name if found.name else top
            if found.kind is Kind.UNREADABLE:
                yield Verdict(path, Finding.UNREADABLE, found.detail)
            elif found.kind is Kind.SPECIAL and self._names_special:
                yield Verdict(path, Finding.UNREADABLE, f"{found.detail}, which is never signed")
            elif found.kind is Kind.DROP:
                if found.name == manifest.NAME and (listed := _bundled(path)) is not None:
                    yield from _absent(top, listed)
                else:
                    yield path


def _bundled(path: bytes) -> list[bytes] | None:
    """Return what a bundle's manifest says the bundle holds; None if that is no manifest but a drop."""
    if os.path.lexists(path + SIGN_SUFFIX):
        return None
    try:
        with open(os.open(path, _OPEN), "rb") as file:
            return manifest.drops_in(file)
    except OSError:
        return None


def _absent(top: bytes, names: Iterable[bytes]) -> Iterator[Verdict]:
    for name in names:
        if not os.path.lexists(path := top + b"/" + name):
            yield Verdict(path, Finding.MISSING, f"{manifest.NAME.decode()} lists it")


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
