"""The directory: looks, reads, publishes, withdraws. All access is by descriptor and never follows a link.

What lies on disk if the process dies in `publish`, step by step:

    1. temporary written       a temporary of ours, whole or not; the next start's scan removes it
    2. temporary fsynced       the same
    3. renamed to FILE.sign    the signature, whole; the journal says 'queued', so it is made again at worst
    4. directory fsynced       the same, and it survives a power cut

An fsync that fails is not tried again on the same file, which the kernel takes for clean from then on: the next
`publish` writes a new temporary, and renames it over what is there.

In `withdraw`, the journal still says 'signed' with the old fingerprint, and as the file has another, the next scan
finds it changed. The directory is fsynced before anything is recorded of the new version: else a power cut could bring
a stale FILE.sign back beside a file that the journal already says is queued or failed, where no scan looks for it.
"""

import hashlib
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count, groupby
from pathlib import Path
from typing import Final

from dropsign.admission import refusal_of
from dropsign.directory import (
    ABSENT,
    KEPT,
    READ,
    Directories,
    MovedOnError,
    OpenDrop,
    has_writer,
    moved_if_absent,
    read_signature,
    sign_status,
)
from dropsign.failpoints import reach
from dropsign.model import ERROR_SUFFIX, SIGN_SUFFIX, Fingerprint, Look, SignFile, Stamp
from dropsign.root import Root

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_PIECE: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Publication:
    """A signature to put beside its file, if the file still is that version."""

    path: bytes
    fingerprint: Fingerprint
    text: bytes


class Outbox(Root):
    """One directory with its drops; methods block and are for threads."""

    def __init__(self, root: Path, *, sign_mode: int = 0o644, max_bytes: int = 0) -> None:
        """Open the directory.

        Args:
            root: it.
            sign_mode: permission bits of every FILE.sign.
            max_bytes: larger files are refused; 0 for no limit.

        Raises:
            OutboxError: it is missing, no directory, or may not be read or written.
        """
        super().__init__(root)
        self.sign_mode = sign_mode
        self.max_bytes = max_bytes
        self.instance = secrets.token_hex(6).encode()
        self._numbers = count()

    @contextmanager
    def directories(self, *, most: int | None = KEPT) -> Iterator[Directories]:
        """Give access to the directories below the root while one group of paths is worked on; see Directories."""
        opened = Directories(self._fd, most=most)
        try:
            yield opened
        finally:
            opened.close()

    def look(self, paths: Sequence[bytes], *, closely: bool) -> list[Look | Exception]:
        """See what is at some paths.

        Args:
            paths: relative to the root.
            closely: also ask the kernel whether someone has the file open for writing.
        """
        with self.directories() as opened:
            return [self._look(opened, path, closely=closely) for path in paths]

    def _look(self, opened: Directories, path: bytes, *, closely: bool) -> Look | Exception:
        try:
            directory, name = opened.of(path)
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            fingerprint = Fingerprint.of(status)
            if (refusal := refusal_of(status, name, self.max_bytes)) is not None:
                return Look(path, None if stat.S_ISDIR(status.st_mode) else fingerprint, refusal)
            writer = has_writer(directory, name) if closely else None
            sign = sign_status(directory, name + SIGN_SUFFIX)
            if sign is None:
                return Look(path, fingerprint, None, writer)
            written_at = None if stat.S_ISDIR(sign.st_mode) else sign.st_mtime_ns
            return Look(path, fingerprint, None, writer, written_at, Stamp.of(sign))
        except OSError as error:
            return Look(path) if error.errno in ABSENT else error

    def open(self, path: bytes, fingerprint: Fingerprint) -> "OpenDrop":
        """Open one version of a file for reading.

        Raises:
            MovedOnError: the file is not that version any more.
            OSError: it cannot be read.
        """
        with self.directories() as opened:
            return self.open_in(opened, path, fingerprint)

    @staticmethod
    def open_in(opened: "Directories", path: bytes, fingerprint: Fingerprint) -> "OpenDrop":
        """Do the same as `open`, as one of a group."""
        try:
            directory, name = opened.of(path)
            drop = OpenDrop(os.open(name, READ, dir_fd=directory), path, fingerprint)
        except OSError as error:
            raise moved_if_absent(error, path) from None
        try:
            drop.check()
        except BaseException:
            drop.close()
            raise
        return drop

    def digest(self, path: bytes, fingerprint: Fingerprint) -> bytes:
        """Return the SHA-256 of one version of a file.

        Raises:
            MovedOnError: the file is not that version any more.
            OSError: it cannot be read.
        """
        hashed = hashlib.sha256()
        with self.open(path, fingerprint) as drop:
            offset = 0
            while piece := drop.read_at(offset, _PIECE):
                hashed.update(piece)
                offset += len(piece)
            drop.check()
        return hashed.digest()

    def read_sign(self, path: bytes, beside: Fingerprint | None = None) -> SignFile | None:
        """Return a drop's FILE.sign; None where there is none that could be a signature.

        Somebody else may have written it, or we, shortly before we were killed. It is fsynced, with its directory, as
        the journal is to rely on it.

        Args:
            path: the drop's, relative to the root.
            beside: the version of the drop that must lie there too, if anything is to be concluded from an absence.

        Raises:
            MovedOnError: there is neither that version nor a signature.
            OSError: the directory cannot be searched, where `beside` is given.
        """
        with self.directories() as opened:
            try:
                directory, name = opened.of(path)
            except OSError as error:
                if beside is None:
                    return None
                raise moved_if_absent(error, path) from None
            found = read_signature(directory, name + SIGN_SUFFIX)
            if found is None and beside is not None:  # by one descriptor, wherever the directory is moved meanwhile
                self._same(directory, name, path, beside)
            return found

    def withdraw(self, paths: Sequence[bytes]) -> list[bytes]:
        """Remove stale FILE.sign, for good as far as the disk lets us; return those drops that had one."""
        withdrawn: list[bytes] = []
        with self.directories() as opened:
            for _, group in groupby(sorted(paths, key=os.path.dirname), key=os.path.dirname):
                withdrawn += self._withdraw_beside(opened, group)
        return withdrawn

    @staticmethod
    def _withdraw_beside(opened: Directories, paths: Iterable[bytes]) -> list[bytes]:
        """Do so in one directory; its descriptor is good for as long as no other is asked for."""
        withdrawn, touched = [], None
        for path in paths:
            with suppress(OSError):
                directory, name = opened.of(path)
                os.unlink(name + SIGN_SUFFIX, dir_fd=directory)
                reach("withdrawn")
                withdrawn.append(path)
                touched = directory
        if touched is not None:
            with suppress(OSError):
                os.fsync(touched)
                reach("withdrawal_synced")
        return withdrawn

    def publish(self, group: Sequence[Publication]) -> list[Stamp | Exception | None]:
        """Put signatures beside their files, whole or not at all: the one function that writes FILE.sign.

        Returns:
            For each, its stamp once it is on disk for good (None if somebody wrote over it just then), or what kept
            it from there: MovedOnError or OSError.
        """
        results: list[Stamp | Exception | None] = [None] * len(group)
        with self.directories(most=None) as opened:
            written = self._write(opened, group, results)
            touched = set()
            for index, (directory, name, temporary, status) in written.items():
                try:
                    self._same(directory, name, group[index].path, group[index].fingerprint)
                    reach("compared")
                    os.rename(temporary, name + SIGN_SUFFIX, src_dir_fd=directory, dst_dir_fd=directory)
                    reach("renamed")
                    touched.add(directory)
                    results[index] = _stamp(directory, name + SIGN_SUFFIX, status)
                except (OSError, MovedOnError) as error:
                    _discard(directory, temporary)
                    results[index] = _explained(error)
            for directory in touched:
                try:
                    os.fsync(directory)
                    reach("directory_synced")
                except OSError as error:
                    for index in written:
                        if written[index][0] == directory and not isinstance(results[index], Exception):
                            results[index] = error
        return results

    def _write(
        self, opened: Directories, group: Sequence[Publication], results: list[Stamp | Exception | None]
    ) -> dict[int, tuple[int, bytes, bytes, os.stat_result]]:
        """Write and fsync a temporary for each; return those that worked: directory, name, temporary, its status."""
        opened_files: dict[int, tuple[int, int, bytes, bytes]] = {}
        written: dict[int, tuple[int, bytes, bytes, os.stat_result]] = {}
        for index, publication in enumerate(group):
            try:
                directory, name = opened.of(publication.path)
                self._same(directory, name, publication.path, publication.fingerprint)
                temporary = b".dropsign-%s-%x.tmp" % (self.instance, next(self._numbers))
                fd = os.open(temporary, _CREATE, 0o600, dir_fd=directory)
            except (OSError, MovedOnError) as error:
                results[index] = moved_if_absent(error, publication.path)
                continue
            opened_files[index] = fd, directory, name, temporary
            reach("temporary_created")
            try:
                os.fchmod(fd, self.sign_mode)
                _write_all(fd, publication.text)
                # Starts writing all of the group out, so that the fsyncs below wait for one flush, not one each.
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                reach("temporary_written")
            except OSError as error:
                results[index] = error
        for index, (fd, directory, name, temporary) in opened_files.items():
            try:
                if results[index] is None:
                    os.fsync(fd)
                    reach("temporary_synced")
                    written[index] = directory, name, temporary, os.fstat(fd)
            except OSError as error:
                results[index] = error
            finally:
                os.close(fd)
            if results[index] is not None:
                _discard(directory, temporary)
        return written

    @staticmethod
    def _same(directory: int, name: bytes, path: bytes, fingerprint: Fingerprint) -> None:
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except OSError as error:
            raise moved_if_absent(error, path) from None
        if Fingerprint.of(status) != fingerprint:
            raise MovedOnError(os.fsdecode(path))

    def write_error(self, path: bytes, reason: str, error: str) -> None:
        """Put a FILE.sign-error beside a failed drop, for people who see only the folder; best effort."""
        with suppress(OSError), self.directories() as opened:
            directory, name = opened.of(path)
            temporary = b".dropsign-%s-%x.tmp" % (self.instance, next(self._numbers))
            fd = os.open(temporary, _CREATE, 0o600, dir_fd=directory)
            try:
                os.fchmod(fd, self.sign_mode)
                _write_all(fd, f"{reason}: {error}\n".encode("utf-8", "replace"))
                reach("note_written")
                os.rename(temporary, name + ERROR_SUFFIX, src_dir_fd=directory, dst_dir_fd=directory)
                reach("note_renamed")
            except OSError:
                _discard(directory, temporary)
            finally:
                os.close(fd)

    def remove_error(self, path: bytes) -> None:
        """Remove a drop's FILE.sign-error, if there is one."""
        with suppress(OSError), self.directories() as opened:
            directory, name = opened.of(path)
            os.unlink(name + ERROR_SUFFIX, dir_fd=directory)
            reach("note_removed")

    def has_error(self, path: bytes) -> bool:
        """Tell whether a drop's FILE.sign-error lies beside it, and says something."""
        try:
            with self.directories() as opened:
                directory, name = opened.of(path)
                return os.stat(name + ERROR_SUFFIX, dir_fd=directory, follow_symlinks=False).st_size > 0
        except OSError:
            return False


def _stamp(directory: int, name: bytes, published: os.stat_result) -> Stamp | None:
    """Return the stamp of a FILE.sign that was just renamed to its name; None if it is not what was written.

    Only the rename changes its ctime. It is looked at by name: its descriptor was closed before, so that nobody who
    watches the directory hears of a FILE.sign being closed after it was there.
    """
    now = sign_status(directory, name)
    if now is None:
        return None
    same = [getattr(now, key) == getattr(published, key) for key in ("st_ino", "st_size", "st_mtime_ns")]
    return Stamp.of(now) if all(same) else None


def _explained(error: Exception) -> Exception:
    """Return an error of a rename so that its text says what is to be done."""
    if isinstance(error, IsADirectoryError):
        return IsADirectoryError(error.errno, "a directory has the name of the signature; move it away")
    return error


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _discard(directory: int, temporary: bytes) -> None:
    with suppress(OSError):
        os.unlink(temporary, dir_fd=directory)
