"""Where the daemon works: outbox, journal, socket and log; whether they can be written, and have room."""

import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dropsign.errors import ConfigurationError, OutboxError
from dropsign.filters import Filters
from dropsign.model import NAME_MAX, SIGN_SUFFIX
from dropsign.outbox import Outbox
from dropsign.preflight.finding import Finding, Setup, fail, mistake, ok, warn

LITTLE_SPACE: Final = 100 * 2**20
NO_SPACE: Final = 2**20

SOCKET_PATH_MAX: Final = 107
"""Bytes, without the closing NUL (unix(7))."""

_REMOTE: Final = frozenset(
    ("9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "lustre", "nfs", "nfs4", "smb3", "vboxsf", "virtiofs")
)


def outbox(setup: Setup) -> Iterator[Finding]:
    """Check that signatures can be put beside their files, and that changes will be noticed."""
    given = setup.configuration.outbox
    try:
        Filters(given.include, given.exclude)
        Outbox(given.path).close()
    except ConfigurationError as error:
        yield from map(mistake, error.mistakes)
    except OutboxError as error:
        yield mistake(str(error))
    else:
        yield _writable("outbox.path", given.path)
        yield from _space("outbox.path", given.path)
        yield names(os.pathconf(given.path, "PC_NAME_MAX"))
        kind = file_system(given.path)
        if given.watcher == "poll" or not is_deaf(kind):
            yield ok("outbox.watcher", f'"{given.watcher}" suits {kind}')
        else:
            remedy = 'set outbox.watcher = "poll", unless every change is made on this machine, through this mount'
            yield warn("outbox.watcher", f"{kind} does not tell of changes made elsewhere", remedy)


def names(longest: int) -> Finding:
    """Hold the file system's longest name, in bytes, against what signatures and temporaries need."""
    message = f"names of {longest} bytes"
    if longest < NAME_MAX:
        remedy = f"keep names of drops within {longest - len(SIGN_SUFFIX)} bytes, or use a file system with longer ones"
        return warn("outbox.path", f"{message} are the longest here; NAME.sign must fit", remedy)
    return ok("outbox.path", f"{message} fit, so drops may have {longest - len(SIGN_SUFFIX)}")


def state(setup: Setup) -> Iterator[Finding]:
    """Check the journal's directory, which the daemon makes itself where it may."""
    journal = setup.configuration.journal.path
    if journal.is_dir():
        yield fail("journal.path", f"{journal} is a directory", f"name a file in it: {journal / 'journal.sqlite3'}")
        return
    if journal.resolve().is_relative_to(setup.configuration.outbox.path.resolve()):
        remedy = "choose a directory of its own; whoever clears the outbox would clear it as well"
        yield warn("journal.path", f"{journal} lies in the outbox", remedy)
    directory = next(above for above in journal.parents if above.exists())
    if directory != journal.parent and not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        remedy = f"install -d -m 0700 -o dropsign {journal.parent} (systemd's StateDirectory= does it)"
        yield fail("journal.path", f"{journal.parent} does not exist and cannot be made by this user", remedy)
        return
    yield _writable("journal.path", directory)
    yield from _space("journal.path", directory)
    if journal.exists() and not os.access(journal, os.R_OK | os.W_OK, effective_ids=True):
        yield fail("journal.path", f"{journal} belongs to someone else", f"chown dropsign {journal}*")
    if (kind := file_system(directory)) in _REMOTE:
        yield warn("journal.path", f"SQLite's WAL does not work over {kind}", "choose a directory on a local disk")


def others(setup: Setup) -> Iterator[Finding]:
    """Check where the control socket and the log will lie."""
    socket, log = setup.configuration.http.socket, setup.configuration.log.file
    if socket is not None:
        if len(os.fsencode(socket)) > SOCKET_PATH_MAX:
            yield fail("http.socket", f"{socket} is longer than {SOCKET_PATH_MAX} bytes", "choose a shorter path")
        elif not os.access(socket.parent, os.W_OK | os.X_OK, effective_ids=True):
            remedy = "create it for the daemon's user (systemd's RuntimeDirectory= does)"
            yield warn("http.socket", f"{socket.parent} is missing, or not writable for this user", remedy)
        else:
            yield ok("http.socket", f"{socket.parent} is writable")
    if log is not None:
        yield _writable("log.file", log.parent)


def _writable(key: str, directory: Path) -> Finding:
    """Try what publishing does: make, fill and remove a temporary file of ours."""
    temporary = directory / f".dropsign-{secrets.token_hex(6)}-0.tmp"
    try:
        with temporary.open("xb", buffering=0) as file:
            try:
                file.write(b"dropsign check")
                os.fsync(file.fileno())
            finally:
                temporary.unlink()
    except OSError as error:
        remedy = {
            errno.EROFS: "mount it for writing, or name it in the unit's ReadWritePaths=",
            errno.ENOSPC: "make room",
            errno.EDQUOT: "raise the quota",
            errno.ENOENT: "create it",
        }.get(error.errno or 0, f"make it writable for user {os.geteuid()}, by owner or group")
        return fail(key, f"nothing can be written to {directory}: {error.strerror}", remedy)
    return ok(key, f"{directory} is writable")


def _space(key: str, directory: Path) -> Iterator[Finding]:
    status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    message = f"{free / 2**20:,.0f} MiB free"
    if free < NO_SPACE or (status.f_files and not status.f_favail):
        yield fail(key, f"no space on {directory}: {message}, {status.f_favail} inodes", "make room")
    elif free < LITTLE_SPACE:
        yield warn(key, f"little space on {directory}: {message}", "make room")
    else:
        yield ok(key, message)


def file_system(path: Path) -> str:
    """Return the kind of file system that holds a path."""
    return mounted_at(Path("/proc/self/mountinfo").read_bytes(), os.fsencode(os.path.realpath(path)))


def mounted_at(mountinfo: bytes, path: bytes) -> str:
    """Return the kind of the file system that holds an absolute path, by the longest mount point above it."""
    kind, longest = "unknown", -1
    for line in mountinfo.splitlines():
        before, _, after = line.partition(b" - ")
        point = before.split(b" ")[4].decode("unicode_escape").encode("latin-1")  # spaces are written as \040
        if len(point) >= longest and (path + b"/").startswith(point.rstrip(b"/") + b"/"):
            kind, longest = after.split(b" ")[0].decode("ascii"), len(point)
    return kind


def is_deaf(kind: str) -> bool:
    """Tell whether a kind of file system hides changes from inotify that are made elsewhere."""
    return kind in _REMOTE or kind in {"overlay", "fuse"} or kind.startswith("fuse.")
