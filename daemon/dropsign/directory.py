"""Directories and files by descriptor: opened relative to one another, never through a link, never by a full path."""

import errno
import fcntl
import os
import re
import stat
import threading
from pathlib import Path
from typing import Final, Self

from dropsign.errors import OutboxError, is_shortage
from dropsign.model import Fingerprint, SignFile, Stamp

READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""What a look at a path gives that is not there, or leads through something that is no directory."""


_NO_NAMES: Final = frozenset({b"", b".", b".."})
"""What in a path leads nowhere, or up; no name in a directory."""


SIGNATURE_MAX: Final = 64 * 1024
"""No signature is longer; a FILE.sign that is, is none."""


class MovedOnError(OutboxError):
    """The file is no longer the version it was: changed, replaced or gone."""


KEPT: Final = 8
"""Directories that are kept open while a group of paths is looked at or read."""


class Directories:
    """Directories opened for one group of paths; closed together, so that none outlives a rename for long."""

    def __init__(self, root: int, *, most: int | None = KEPT) -> None:
        """Begin with the root alone.

        Args:
            root: its descriptor, which stays open.
            most: so many directories are kept open at a time, and a descriptor is good until the next `of`; None
                keeps all.
        """
        self._open = {b"": root}
        self._most = most

    def of(self, path: bytes) -> tuple[int, bytes]:
        """Return the descriptor of a path's directory, and its name in there."""
        directory, _, name = path.rpartition(b"/")
        descriptor = self._open.get(directory)
        if descriptor is None:
            if self._most is not None and len(self._open) > self._most:
                self.close()
            descriptor = self._open[directory] = self._descend(directory)
        return descriptor, name

    def close(self) -> None:
        """Close them all, but the root."""
        for directory in [directory for directory in self._open if directory]:
            os.close(self._open.pop(directory))

    def _descend(self, directory: bytes) -> int:
        at = self._open[b""]
        for part in directory.split(b"/"):
            if part in _NO_NAMES:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), directory)
            try:
                below = os.open(part, DIRECTORY, dir_fd=at)
            finally:
                if at != self._open[b""]:
                    os.close(at)
            at = below
        return at


class OpenDrop:
    """One version of a file, open for reading; safe to close while a thread reads."""

    def __init__(self, fd: int, path: bytes, fingerprint: Fingerprint) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self._fd = fd
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read_at(self, offset: int, length: int) -> bytes:
        """Read `length` bytes from an offset; fewer only at the end of the file.

        Raises:
            OSError: they cannot be read, or the file was closed.
        """
        pieces = []
        while length:
            with self._lock:
                if self._fd < 0:
                    raise OSError(errno.EBADF, "closed")
                piece = os.pread(self._fd, length, offset)
            if not piece:
                break
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def check(self) -> None:
        """Check that the file still is the version it was.

        Raises:
            MovedOnError: it is not.
        """
        if Fingerprint.of(os.fstat(self._fd)) != self.fingerprint:
            raise MovedOnError(os.fsdecode(self.path))

    @property
    def is_closed(self) -> bool:
        """Tell whether it was closed."""
        return self._fd < 0

    def close(self) -> None:
        """Close it; reads fail from now on."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1


def mount_point(path: bytes) -> bytes:
    """Return where the file system is mounted that an absolute path without links leads to; `/` where that is unknown.

    os.path.ismount does not see bind mounts within one file system, the kernel's table (proc(5), mountinfo) does.
    """
    try:
        table = Path("/proc/self/mountinfo").read_bytes()
    except OSError:
        return b"/"
    mounts = {_UNUSUAL.sub(_as_byte, line.split(b" ")[4]) for line in table.splitlines()}
    while path not in mounts and path != b"/":
        path = os.path.dirname(path)  # noqa: PTH120 - bytes
    return path


def mounts_below(top: bytes) -> dict[bytes, bytes]:
    """Return what is mounted below a directory: for each path, relative to it, what is another for another mount.

    Of several mounts at one path the last counts, which is the one that shows; nothing where that is unknown.
    """
    try:
        table = Path("/proc/self/mountinfo").read_bytes()
    except OSError:
        return {}
    prefix = top.rstrip(b"/") + b"/"
    below = {}
    for line in table.splitlines():
        fields = line.split(b" ")
        place = _UNUSUAL.sub(_as_byte, fields[4])
        if place.startswith(prefix) and place != prefix:
            below[place.removeprefix(prefix)] = b" ".join(fields[:4])
    return below


_UNUSUAL: Final = re.compile(rb"\\([0-7]{3})")
"""How the kernel writes blanks and the like in the table."""


def _as_byte(escape: re.Match[bytes]) -> bytes:
    return bytes([int(escape[1], 8)])


def sign_status(directory: int, name: bytes) -> os.stat_result | None:
    """Return how whatever has a signature's name looks; None where nothing has."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return None


def read_signature(directory: int, name: bytes) -> SignFile | None:
    """Return a FILE.sign; None where there is none that could be a signature."""
    seen = sign_status(directory, name)
    if seen is None or not stat.S_ISREG(seen.st_mode):  # to open a device may do something to it
        return None
    try:
        fd = os.open(name, READ, dir_fd=directory)
    except OSError:
        return None
    try:
        status = os.fstat(fd)  # before it is read: what is written to it meanwhile shows at the next look
        if not stat.S_ISREG(status.st_mode):
            return None
        text = os.read(fd, SIGNATURE_MAX + 1)
        os.fsync(fd)
        os.fsync(directory)
    except OSError:
        return None
    finally:
        os.close(fd)
    return SignFile(text, Stamp.of(status)) if 0 < len(text) <= SIGNATURE_MAX else None


def has_writer(directory: int, name: bytes) -> bool | None:
    """Tell whether any process has a file open for writing; None where the kernel won't say.

    A read lease is granted only if nobody has (fcntl(2), F_SETLEASE); it is given back at once. It takes ownership
    of the file or CAP_LEASE, and a local file system.

    Raises:
        OSError: this process has no more descriptors to ask with.
    """
    try:
        fd = os.open(name, READ, dir_fd=directory)
    except OSError as error:
        if is_shortage(error):
            raise
        return None
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return True if error.errno == errno.EAGAIN else None
    finally:
        os.close(fd)
    return False


def moved_if_absent(error: Exception, path: bytes) -> Exception:
    """Return what an error means for a version of a file: that it moved on, if nothing is there."""
    if isinstance(error, OSError) and error.errno in ABSENT:
        return MovedOnError(os.fsdecode(path))
    return error
