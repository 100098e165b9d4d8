"""The control socket as a file: made with its permissions from the first moment on, found again, removed."""

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

from dropsign.errors import ConfigurationError

SOCKET_MODE: Final = 0o660
_DIRECTORY_MODE: Final = 0o750


class SocketFile:
    """A unix socket at a path, which others may remove."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._status: os.stat_result | None = None

    def bind(self) -> socket.socket:
        """Return a socket that is bound to the path, and does not listen yet; one of a killed process is replaced.

        Raises:
            ConfigurationError: it cannot be made there, or another daemon answers there: one on some other outbox,
                as this one's is locked.
        """
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._make_room()
            old = os.umask(0o777 & ~SOCKET_MODE)  # nobody else may connect, not even between bind and chmod
            try:
                bound.bind(str(self.path))
            finally:
                os.umask(old)
            self._status = self.path.stat()
        except OSError as error:
            bound.close()
            text = error.strerror or error
            msg = f"http.socket: {self.path} cannot be made: {text} (107 bytes is the longest path)"
            raise ConfigurationError(msg) from None
        except BaseException:
            bound.close()
            raise
        return bound

    @property
    def is_there(self) -> bool:
        """Whether what was bound last is what lies at the path."""
        try:
            status = self.path.stat()
        except OSError:
            return False
        # The number of a removed socket may be given to the file that is made in its place.
        same = self._status is not None and os.path.samestat(status, self._status)
        return same and stat.S_ISSOCK(status.st_mode)

    def remove(self) -> None:
        """Remove it, unless it is another's by now."""
        if self.is_there:
            with suppress(OSError):
                self.path.unlink()

    def _make_room(self) -> None:
        self.path.parent.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
        if _answers(self.path):
            msg = f"http.socket: another daemon answers at {self.path}; give each outbox a socket of its own"
            raise ConfigurationError(msg)
        with suppress(FileNotFoundError):
            self.path.unlink()


def _answers(path: Path) -> bool:
    """Tell whether a process listens on a unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except (OSError, ValueError):
            return False
    return True
