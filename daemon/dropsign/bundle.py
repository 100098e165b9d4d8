"""Packs a directory's files with their signatures and a manifest for whoever gets them, if every signature matches."""

import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from dropsign import archive, manifest
from dropsign.errors import DropsignError, ExitCode, OutboxError
from dropsign.filters import Filters
from dropsign.model import SIGN_SUFFIX, Signature
from dropsign.tree import Kind, prefix_in, walk
from dropsign.verifying import Finding, Proof, Verdict, Verification

_PIECE: Final = 1024 * 1024
_GROUP: Final = 500
"""Files judged together."""

_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class ChangedError(DropsignError):
    """A file is no longer what was verified."""

    exit_code = ExitCode.SOME_FAILED


class Member(NamedTuple):
    """A file that goes into the bundle.

    Attributes:
        name: relative to the directory.
        signature: which was found to fit, with digest and size of what it fits.
    """

    name: bytes
    signature: Signature


class Survey:
    """What of a directory goes into its bundle, and what keeps it from being made.

    Attributes:
        members: what goes in.
        left_out: how many names the filters leave out.
    """

    def __init__(self, directory: Path, out: Path, proof: Proof, filters: Filters) -> None:
        """Prepare.

        Args:
            directory: whose files are to be packed.
            out: the bundle; its name tells its kind. An earlier one is no part of a later one.
            proof: decides whether a signature fits.
            filters: which names are drops.
        """
        self._top = os.fsencode(directory)
        self._out = os.path.join(os.path.realpath(os.fsencode(out.parent)), os.fsencode(out.name))
        self._is_zip = out.name.endswith(".zip")
        self._proof = proof
        self._verification = Verification(proof, filters)
        self._filters = filters
        self.members: list[Member] = []
        self.left_out = 0

    def flaws(self, root: bytes | None, *, recursive: bool) -> Iterator[Verdict]:
        """Look at everything; yield what is wrong.

        Args:
            root: the outbox, to whose files the filters' patterns are relative, if the directory lies in there.
            recursive: sub-directories too.
        """
        top = os.path.realpath(self._top)
        drops: list[bytes] = []
        for found in walk(self._top, self._filters, prefix_in(root, self._top), recursive=recursive):
            if found.kind is Kind.LEFT_OUT:
                self.left_out += 1
            elif found.kind is not Kind.DROP:
                yield Verdict(os.path.join(self._top, found.name), Finding.UNREADABLE, found.detail)
            elif os.path.join(top, found.name) != self._out:
                drops.append(found.name)
            if len(drops) >= _GROUP:
                yield from self._judge_all(drops)
                drops.clear()
        yield from self._judge_all(drops)
        self.members.sort(key=lambda member: member.name)

    def _judge_all(self, names: Sequence[bytes]) -> Iterator[Verdict]:
        """Take the good ones as members; yield what is wrong with the others."""
        paths = [os.path.join(self._top, name) for name in names]
        self._proof.expect(paths)
        for path, name in zip(paths, names, strict=True):
            verdict = self._judge(path, name)
            if verdict.signature is not None:
                self.members.append(Member(name, verdict.signature))
            else:
                yield verdict

    def _judge(self, path: bytes, name: bytes) -> Verdict:
        if name == manifest.NAME:
            return Verdict(path, Finding.UNREADABLE, "the bundle's own list has this name; rename or exclude it")
        if self._is_zip and not _is_utf8(name):
            return Verdict(path, Finding.UNREADABLE, "a .zip holds names in UTF-8 only; make a .tar.gz")
        return self._verification.file(path)


def write(directory: Path, out: Path, members: Sequence[Member]) -> int:
    """Write a bundle; it is there whole, or not at all.

    Args:
        directory: where the members are.
        out: the bundle.
        members: sorted by name.

    Returns:
        Its size, in bytes.

    Raises:
        ChangedError: a file is not what was verified any more.
        OutboxError: the bundle cannot be written.
    """
    temporary = out.with_name(f".dropsign-bundle-{secrets.token_hex(8)}.part")
    try:
        with open(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), "w+b") as file:
            with closing(archive.create(next(filter(out.name.endswith, archive.SUFFIXES)), file)) as packed:
                _add(packed, manifest.NAME, list(_listing(members)))
                for member in members:
                    path = os.path.join(os.fsencode(directory), member.name)
                    packed.add(member.name, member.signature.size, _content(path, member.signature))
                    _add(packed, member.name + SIGN_SUFFIX, [member.signature.text])
            file.flush()
            os.fsync(file.fileno())
            size = file.seek(0, os.SEEK_END)
        temporary.rename(out)
        _sync(out.parent)
    except OSError as error:
        msg = f"{out}: cannot be written: {error.strerror or error}"
        raise OutboxError(msg) from None
    finally:
        temporary.unlink(missing_ok=True)
    return size


def _add(packed: archive.Archive, name: bytes, pieces: list[bytes]) -> None:
    packed.add(name, sum(map(len, pieces)), pieces)


def _listing(members: Iterable[Member]) -> Iterator[bytes]:
    for name, signature in members:
        yield manifest.line(signature.sha256, name)
        yield manifest.line(hashlib.sha256(signature.text).digest(), name + SIGN_SUFFIX)


def _content(path: bytes, signature: Signature) -> Iterator[bytes]:
    """Yield a file's content, and prove at its end that it is what was verified."""
    digest = hashlib.sha256()
    rest = signature.size
    try:
        with open(os.open(path, _OPEN), "rb", buffering=0) as file:
            while rest and (piece := file.read(min(rest, _PIECE))):
                rest -= len(piece)
                digest.update(piece)
                yield piece
            more = file.read(1)
    except OSError as error:
        msg = f"{os.fsdecode(path)}: cannot be read any more: {error.strerror}"
        raise ChangedError(msg) from None
    if rest or more or digest.digest() != signature.sha256:
        msg = f"{os.fsdecode(path)}: changed while it was packed"
        raise ChangedError(msg)


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
