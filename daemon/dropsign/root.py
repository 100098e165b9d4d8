"""The outbox's own directory: opened, locked, and told from what else may come to lie at its path."""

import fcntl
import os
from pathlib import Path

from dropsign.directory import DIRECTORY, mount_point
from dropsign.errors import OutboxError, OutboxLockedError


def is_locked(root: Path) -> bool:
    """Tell whether a dropsign process works on a directory."""
    try:
        fd = os.open(os.path.realpath(root), DIRECTORY)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
    return False


class Root:
    """A directory that is kept open, whatever becomes of its path."""

    def __init__(self, root: Path) -> None:
        """Open the directory.

        Raises:
            OutboxError: it is missing, no directory, or may not be read or written.
        """
        self.root = root
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
