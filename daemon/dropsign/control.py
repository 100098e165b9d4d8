"""Asks a running daemon, over its control socket."""

import http.client
import json
import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from dropsign.errors import UnreachableError
from dropsign.units import unit_of

_TIMEOUT_SECONDS: Final = 30.0


_PAGE_BYTES: Final = 512 * 1024
"""Of paths, as JSON, in one request; the daemon takes twice as many."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Control:
    """A client of the API on the unix socket."""

    def __init__(self, path: Path, *, seconds: float = _TIMEOUT_SECONDS) -> None:
        """Begin without a connection.

        Args:
            path: the control socket.
            seconds: how long each answer may take.
        """
        self._path = path
        self._seconds = seconds

    def status(self) -> dict[str, Any]:
        """Return the daemon's status.

        Raises:
            UnreachableError: no daemon answers.
        """
        return self._ask("GET", "/api/status")

    def files(self, state: str, limit: int) -> list[dict[str, Any]]:
        """Return files in one state: failed and refused ones the last first."""
        files: list[dict[str, Any]] = self._ask("GET", f"/api/files?state={state}&limit={limit}")["files"]
        return files

    def rescan(self) -> None:
        """Have the daemon scan its outbox now."""
        self._ask("POST", "/api/rescan")

    def retry(self, paths: Sequence[bytes], *, force: bool = False) -> None:
        """Have the daemon take some paths up at once."""
        for page in _pages(paths):
            self._ask("POST", "/api/retry", {"paths": page, "force": force})

    def retry_failed(self, below: Sequence[bytes] = (b"",)) -> int:
        """Have the daemon put failed files back; return how many.

        Args:
            below: directories whose files, at any depth, are meant; b"" for the whole outbox.
        """
        return sum(self._ask("POST", "/api/retry", {"below": page})["retried"] for page in _pages(below))

    def lookup(self, paths: Sequence[bytes]) -> list[dict[str, Any]]:
        """Return what the daemon knows of some paths."""
        return [file for page in _pages(paths) for file in self._ask("POST", "/api/lookup", {"paths": page})["files"]]

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        connection = _Connection(self._path, self._seconds)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        except PermissionError:
            msg = f"{self._path}: this user may not ask the daemon; join its group"
            raise UnreachableError(msg, is_denial=True) from None
        except (TimeoutError, BlockingIOError):
            # Somebody listens, so that the daemon is not down, and its journal would tell the wrong story.
            unit = unit_of(self._path)
            msg = (
                f"{self._path}: the daemon is there, but does not answer within {self._seconds:g} s: it was stopped "
                f"(SIGSTOP), hangs, or the machine is overloaded; look at its log: journalctl -u {unit} -n 20; "
                f"a restart loses nothing: systemctl restart {unit}"
            )
            raise UnreachableError(msg, is_denial=True) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            msg = (
                f"{self._path}: no daemon answers there ({why}); is it running? systemctl status {unit_of(self._path)}"
            )
            raise UnreachableError(msg) from None
        finally:
            connection.close()
        if response.status >= http.client.BAD_REQUEST:
            msg = f"{self._path}: the daemon refuses: {answer.get('error')}"
            raise UnreachableError(msg, is_denial=True)
        return answer


def _pages(paths: Sequence[bytes]) -> Iterator[list[str]]:
    """Yield paths in portions that the daemon takes as one request each."""
    page: list[str] = []
    size = 0
    for path in map(os.fsdecode, paths):
        length = len(json.dumps(path))
        if page and size + length > _PAGE_BYTES:
            yield page
            page, size = [], 0
        page.append(path)
        size += length + 2
    if page:
        yield page
