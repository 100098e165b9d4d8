"""The directory: looks, reads, publishes, withdraws. All access is by descriptor and never follows a link.

What lies on disk if the process dies in `publish`, step by step:

    1. temporary written       a temporary of ours, whole or not; the next start's scan removes it
    2. temporary fsynced       the same
    3. renamed to FILE.sign    the signature, whole; the journal says 'queued', so it is made again at worst
    4. directory fsynced       the same, and it survives a power cut

In `withdraw` there is one step: the journal still says 'signed' with the old fingerprint, and as the file has
another, the next scan finds it changed.
"""

import fcntl
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

from dropsign.directory import (
    ABSENT,
    DIRECTORY,
    READ,
    Directories,
    MovedOnError,
    OpenDrop,
    has_writer,
    mount_point,
    moved_if_absent,
    read_signature,
    signed_at,
)
from dropsign.errors import OutboxError, OutboxLockedError
from dropsign.failpoints import reach
from dropsign.model import ERROR_SUFFIX, NAME_MAX, SIGN_SUFFIX, Fingerprint, Look

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_PIECE: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Publication:
    """A signature to put beside its file, if the file still is that version."""

    path: bytes
    fingerprint: Fingerprint
    text: bytes


class Outbox:
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
        self.root = root
        self.sign_mode = sign_mode
        self.max_bytes = max_bytes
        self.instance = secrets.token_hex(6).encode()
        self._numbers = count()
        self._fd = self._open_root()
        self._place = self._find()

    def _find(self) -> tuple[bytes, bytes]:
        """Return where the path leads to, and where the file system there is mounted."""
        path = os.fsencode(os.path.realpath(self.root))
        return path, mount_point(path)

    def _open_root(self) -> int:
        try:
            fd = os.open(os.path.realpath(self.root), DIRECTORY)
        except FileNotFoundError:
            msg = f"outbox.path: {self.root} does not exist; create it, owned by or writable for this user"
            raise OutboxError(msg) from None
        except NotADirectoryError:
            msg = f"outbox.path: {self.root} is not a directory"
            raise OutboxError(msg) from None
        except OSError as error:
            msg = f"outbox.path: {self.root} cannot be opened: {error.strerror}"
            raise OutboxError(msg) from None
        if not os.access(self.root, os.W_OK | os.X_OK, effective_ids=True):
            os.close(fd)
            msg = f"outbox.path: {self.root} is not writable for this user; signatures are written beside the files"
            raise OutboxError(msg)
        return fd

    def lock(self) -> None:
        """Keep other dropsign processes off this directory until this one ends.

        Raises:
            OutboxLockedError: another one has it.
        """
        self._lock(self._fd)

    def _lock(self, fd: int) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            msg = f"outbox.path: another dropsign works on {self.root}; stop it first, or ask it: dropsign status"
            raise OutboxLockedError(msg) from None
        except OSError:  # a file system without locks: the journal's lock has to do
            return

    def is_there(self) -> bool:
        """Tell whether the path still leads to the directory that was opened."""
        return self.absence() is None

    def absence(self) -> str | None:
        """Say why the path does not lead to the directory that was opened; None if it does."""
        try:
            if os.path.samestat(os.stat(os.path.realpath(self.root)), os.fstat(self._fd)):
                return None
        except OSError as error:
            return f"{self.root}: {error.strerror}"
        path, mount = self._place
        if self._is_unmounted():
            return f"the file system at {os.fsdecode(mount)} is not mounted"
        return f"another directory lies at {os.fsdecode(path)}"

    def _is_unmounted(self) -> bool:
        """Tell whether what lies at the path is only what the file system was mounted over."""
        (path, mount), (old_path, old_mount) = self._find(), self._place
        return path == old_path and len(mount) < len(old_mount)

    def reopen(self) -> None:
        """Open the directory that now lies at the path, and lock it.

        Raises:
            OutboxError: there is none, or only what the outbox's file system was mounted over.
        """
        if self._is_unmounted():
            msg = f"outbox.path: {self.absence()}; mount it, or restart dropsign to serve what lies there without it"
            raise OutboxError(msg)
        fd = self._open_root()
        try:
            self._lock(fd)
        except OutboxLockedError:
            os.close(fd)
            raise
        os.dup2(fd, self._fd, inheritable=False)  # the number stays: threads may be about to use it
        os.close(fd)
        self._place = self._find()

    def close(self) -> None:
        """Let go of the directory and its lock."""
        os.close(self._fd)

    @contextmanager
    def directories(self) -> Iterator[Directories]:
        """Give access to the directories below the root while one group of paths is worked on."""
        opened = Directories(self._fd)
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
            if (refusal := self._refusal(status, name)) is not None:
                return Look(path, None if stat.S_ISDIR(status.st_mode) else fingerprint, refusal)
            writer = has_writer(directory, name) if closely else None
            return Look(path, fingerprint, None, writer, signed_at(directory, name + SIGN_SUFFIX))
        except OSError as error:
            return Look(path) if error.errno in ABSENT else error

    def _refusal(self, status: os.stat_result, name: bytes) -> str | None:
        if not stat.S_ISREG(status.st_mode):
            return _KINDS.get(stat.S_IFMT(status.st_mode), "special_file")
        if len(name) + len(SIGN_SUFFIX) > NAME_MAX:
            return "name_too_long"
        if self.max_bytes and status.st_size > self.max_bytes:
            return "too_large"
        return None

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

    def read_sign(self, path: bytes, beside: Fingerprint | None = None) -> bytes | None:
        """Return the content of a drop's FILE.sign; None where there is none that could be a signature.

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
            text = read_signature(directory, name + SIGN_SUFFIX)
            if text is None and beside is not None:  # by one descriptor, wherever the directory is moved meanwhile
                self._same(directory, name, path, beside)
            return text

    def withdraw(self, path: bytes) -> bool:
        """Remove a stale FILE.sign; return whether there was one."""
        return self._unlink(path, SIGN_SUFFIX)

    def publish(self, group: Sequence[Publication]) -> list[Exception | None]:
        """Put signatures beside their files, whole or not at all: the one function that writes FILE.sign.

        Returns:
            For each, None once it is on disk for good, or what kept it from there: MovedOnError or OSError.
        """
        results: list[Exception | None] = [None] * len(group)
        with self.directories() as opened:
            written = self._write(opened, group, results)
            touched = set()
            for index, (directory, name, temporary) in written.items():
                try:
                    self._same(directory, name, group[index].path, group[index].fingerprint)
                    os.rename(temporary, name + SIGN_SUFFIX, src_dir_fd=directory, dst_dir_fd=directory)
                    reach("renamed")
                    touched.add(directory)
                except (OSError, MovedOnError) as error:
                    _discard(directory, temporary)
                    results[index] = _explained(error)
            for directory in touched:
                try:
                    os.fsync(directory)
                    reach("directory_synced")
                except OSError as error:
                    for index in written:
                        if written[index][0] == directory and results[index] is None:
                            results[index] = error
        return results

    def _write(
        self, opened: Directories, group: Sequence[Publication], results: list[Exception | None]
    ) -> dict[int, tuple[int, bytes, bytes]]:
        """Write and fsync a temporary for each; return where those that worked lie: directory, name, temporary."""
        written: dict[int, tuple[int, int, bytes, bytes]] = {}
        for index, publication in enumerate(group):
            try:
                directory, name = opened.of(publication.path)
                self._same(directory, name, publication.path, publication.fingerprint)
                temporary = b".dropsign-%s-%x.tmp" % (self.instance, next(self._numbers))
                fd = os.open(temporary, _CREATE, 0o600, dir_fd=directory)
            except (OSError, MovedOnError) as error:
                results[index] = moved_if_absent(error, publication.path)
                continue
            written[index] = fd, directory, name, temporary
            try:
                os.fchmod(fd, self.sign_mode)
                _write_all(fd, publication.text)
                # Starts writing all of the group out, so that the fsyncs below wait for one flush, not one each.
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                reach("temporary_written")
            except OSError as error:
                results[index] = error
        for index, (fd, directory, _, temporary) in written.items():
            try:
                if results[index] is None:
                    os.fsync(fd)
                    reach("temporary_synced")
            except OSError as error:
                results[index] = error
            finally:
                os.close(fd)
            if results[index] is not None:
                _discard(directory, temporary)
        return {index: where[1:] for index, where in written.items() if results[index] is None}

    @staticmethod
    def _same(directory: int, name: bytes, path: bytes, fingerprint: Fingerprint) -> None:
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except OSError as error:
            raise moved_if_absent(error, path) from None
        if Fingerprint.of(status) != fingerprint:
            raise MovedOnError(os.fsdecode(path))

    def write_error(self, path: bytes, text: str) -> None:
        """Put a FILE.sign-error beside a failed drop, for people who see only the folder; best effort."""
        with suppress(OSError), self.directories() as opened:
            directory, name = opened.of(path)
            temporary = b".dropsign-%s-%x.tmp" % (self.instance, next(self._numbers))
            fd = os.open(temporary, _CREATE, 0o600, dir_fd=directory)
            try:
                os.fchmod(fd, self.sign_mode)
                _write_all(fd, text.encode("utf-8", "replace"))
                os.rename(temporary, name + ERROR_SUFFIX, src_dir_fd=directory, dst_dir_fd=directory)
            except OSError:
                _discard(directory, temporary)
            finally:
                os.close(fd)

    def remove_error(self, path: bytes) -> None:
        """Remove a drop's FILE.sign-error, if there is one."""
        self._unlink(path, ERROR_SUFFIX)

    def _unlink(self, path: bytes, suffix: bytes) -> bool:
        try:
            with self.directories() as opened:
                directory, name = opened.of(path)
                os.unlink(name + suffix, dir_fd=directory)
        except OSError:
            return False
        return True


_KINDS: Final = {
    stat.S_IFLNK: "symbolic_link",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
    stat.S_IFDIR: "directory",
}


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
