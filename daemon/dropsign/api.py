"""The HTTP API: on the unix socket in full, on `http.listen` read-only (contract, section 7)."""

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from dropsign.errors import ConfigurationError, JournalError
from dropsign.model import Entry, State
from dropsign.status import Status

SOCKET_MODE: Final = 0o660
_FILES_MOST: Final = 1000
_BODY_MOST: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the answers come from."""

    status: Callable[[], Awaitable[Status]]
    healthy: Callable[[], bool]
    exposition: Callable[[], Awaitable[bytes]]
    entries: Callable[[State, int], Awaitable[list[Entry]]]
    lookup: Callable[[Sequence[bytes]], Awaitable[list[dict[str, Any]]]]
    retry: Callable[[Sequence[bytes] | None, bool], Awaitable[int]]
    rescan: Callable[[], None]


class Api:
    """Serves the API until it is closed."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._runners: list[web.AppRunner] = []
        self._socket: Path | None = None

    async def start(self, socket: Path | None, listen: str) -> None:
        """Begin to serve.

        Args:
            socket: path of the unix socket; None for none.
            listen: HOST:PORT for the read-only side; "" for none.

        Raises:
            ConfigurationError: one of them cannot be served on.
        """
        if socket is not None:
            await self._serve_socket(socket)
        if listen:
            host, _, port = listen.rpartition(":")
            runner = await self._runner(writable=False)
            try:
                await web.TCPSite(runner, host.strip("[]"), int(port)).start()
            except OSError as error:
                msg = f"http.listen: {listen} cannot be listened on: {error.strerror or error}"
                raise ConfigurationError(msg) from None

    async def close(self) -> None:
        """Stop serving, and remove the socket."""
        for runner in self._runners:
            await runner.cleanup()
        if self._socket is not None:
            with suppress(OSError):
                self._socket.unlink()

    async def _serve_socket(self, socket: Path) -> None:
        runner = await self._runner(writable=True)
        old = os.umask(0o777 & ~SOCKET_MODE)
        try:
            _make_room(socket)
            await web.UnixSite(runner, str(socket)).start()
        except OSError as error:
            msg = f"http.socket: {socket} cannot be made: {error.strerror or error} (107 bytes is the longest path)"
            raise ConfigurationError(msg) from None
        finally:
            os.umask(old)
        self._socket = socket

    async def _runner(self, *, writable: bool) -> web.AppRunner:
        application = web.Application(middlewares=[_errors_as_json], client_max_size=_BODY_MOST)
        application.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                web.get("/api/status", self._status),
                web.get("/api/files", self._files),
            ]
        )
        if writable:
            application.add_routes(
                [
                    web.post("/api/retry", self._retry),
                    web.post("/api/rescan", self._rescan),
                    web.post("/api/lookup", self._lookup),
                ]
            )
        runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1)
        await runner.setup()
        self._runners.append(runner)
        return runner

    async def _healthz(self, _: web.Request) -> web.Response:
        healthy = self._sources.healthy()
        return web.json_response({"healthy": healthy}, status=200 if healthy else 503)

    async def _readyz(self, _: web.Request) -> web.Response:
        status = await self._sources.status()
        body = {"ready": status.ready, "reasons": status.not_ready_reasons}
        return web.json_response(body, status=200 if status.ready else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        body = await self._sources.exposition()
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _status(self, _: web.Request) -> web.Response:
        return web.json_response((await self._sources.status()).as_dict())

    async def _files(self, request: web.Request) -> web.Response:
        try:
            state = State(request.query.get("state", ""))
            limit = min(int(request.query.get("limit", "100")), _FILES_MOST)
        except ValueError:
            known = ", ".join(State)
            raise web.HTTPBadRequest(text=f"state must be one of {known}, and limit a number") from None
        entries = await self._sources.entries(state, max(0, limit))
        return web.json_response({"files": [describe(entry) for entry in entries]})

    async def _retry(self, request: web.Request) -> web.Response:
        body = await _json_object(request)
        paths = None if body.get("all") is True else _paths(body)
        return web.json_response({"retried": await self._sources.retry(paths, body.get("force") is True)})

    async def _rescan(self, _: web.Request) -> web.Response:
        self._sources.rescan()
        return web.json_response({"rescan": True}, status=202)

    async def _lookup(self, request: web.Request) -> web.Response:
        paths = _paths(await _json_object(request))
        return web.json_response({"files": await self._sources.lookup(paths)})


def _make_room(path: Path) -> None:
    """Remove the socket of a process that was killed.

    Raises:
        ConfigurationError: it is a living one's: a daemon on some other outbox, as this one's is locked.
        OSError: its directory cannot be made or written.
    """
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    if _answers(path):
        msg = f"http.socket: another daemon answers at {path}; give each outbox a socket of its own"
        raise ConfigurationError(msg)
    with suppress(FileNotFoundError):
        path.unlink()


def _answers(path: Path) -> bool:
    """Tell whether a process listens on a unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except (OSError, ValueError):
            return False
    return True


def describe(entry: Entry) -> dict[str, Any]:
    """Return an entry as JSON's kinds of values."""
    return {
        "path": os.fsdecode(entry.path),
        "state": str(entry.state),
        "size": entry.fingerprint.size,
        "since": entry.since,
        "attempts": entry.attempts,
        "not_before": entry.not_before or None,
        "reason": entry.reason,
        "error": entry.error,
        "sha256": entry.sha256.hex() if entry.sha256 else None,
        "fingerprint": list(entry.fingerprint),
    }


async def _json_object(request: web.Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.read() or b"{}")
    except ValueError:
        raise web.HTTPBadRequest(text="the body is not JSON") from None
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(text="the body is not a JSON object")
    return body


def _paths(body: dict[str, Any]) -> list[bytes]:
    paths = body.get("paths")
    if not isinstance(paths, list) or not all(isinstance(path, str) and "\0" not in path for path in paths):
        raise web.HTTPBadRequest(text='"paths" must be a list of paths relative to the outbox')
    try:
        encoded = [os.fsencode(path) for path in paths]
    except UnicodeEncodeError:
        raise web.HTTPBadRequest(text="a path is not text") from None
    if any({b"", b".", b".."}.intersection(path.split(b"/")) for path in encoded):
        raise web.HTTPBadRequest(text="a path must lead down from the outbox, by names alone")
    return encoded


@web.middleware
async def _errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        return web.json_response({"error": error.text or error.reason}, status=error.status)
    except asyncio.CancelledError:
        raise
    except JournalError as error:
        return web.json_response({"error": str(error)}, status=503)
    except Exception:  # noqa: BLE001 - whoever asks learns nothing of the inside
        return web.json_response({"error": "internal error"}, status=500)
