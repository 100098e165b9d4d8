"""The HTTP API and the status page: on the unix socket in full, on `http.listen` read-only (contract, section 7).

Nobody has to prove who he is: the socket's permissions say who may give commands, and what `http.listen` tells is
for everyone who reaches it. So that a web site somewhere cannot reach it through the browser of somebody here, no
answer may be read by other origins, commands that come from pages are refused, and a server on the loopback address
answers to no name that is not its own (DNS rebinding).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from dropsign import page, questions
from dropsign.connections import Bound
from dropsign.discretion import discreet
from dropsign.errors import ConfigurationError, JournalError
from dropsign.model import State
from dropsign.questions import QuestionError
from dropsign.socketfile import SocketFile
from dropsign.status import Status

_BODY_MOST: Final = 1024 * 1024

_BACKLOG: Final = 1024
"""Connections that wait to be accepted; where there are more, the socket refuses whoever comes."""

_SILENT: Final = logging.getLogger("dropsign.http")
"""aiohttp would write a traceback beside our log for whatever is no HTTP; a defect of ours comes to the guard first."""

_SILENT.disabled = True

HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "dropsign",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""On every answer; the page has a policy of its own."""


class Route(NamedTuple):
    """One thing that can be asked, and whether it is a command, which only the socket takes."""

    method: str
    path: str
    is_command: bool = False


ROUTES: Final = (
    Route("GET", "/"),
    Route("GET", "/healthz"),
    Route("GET", "/readyz"),
    Route("GET", "/metrics"),
    Route("GET", "/api/status"),
    Route("GET", "/api/throughput"),
    Route("GET", "/api/files"),
    Route("POST", "/api/lookup", is_command=True),
    Route("POST", "/api/retry", is_command=True),
    Route("POST", "/api/rescan", is_command=True),
)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the answers come from."""

    status: Callable[[], Awaitable[Status]]
    healthy: Callable[[], bool]
    not_ready_reasons: Callable[[], list[str]]
    throughput: Callable[[], dict[str, Any]]
    exposition: Callable[[], Awaitable[bytes]]
    files: Callable[[State, int], Awaitable[list[dict[str, Any]]]]
    lookup: Callable[[Sequence[bytes]], Awaitable[list[dict[str, Any]]]]
    retry: Callable[[questions.Retry], Awaitable[int]]
    rescan: Callable[[], None]
    defect: Callable[[Exception], None]


class Api:
    """Serves the API until it is closed."""

    def __init__(self, sources: Sources, secret_paths: Collection[Path] = ()) -> None:
        """Prepare it.

        Args:
            sources: where the answers come from.
            secret_paths: what `http.listen` must not tell; other absolute paths are recognised by their look.
        """
        self._sources = sources
        self._secret_paths = secret_paths
        self._runners: list[web.AppRunner] = []
        self._servers: list[asyncio.Server] = []
        self._socket: SocketFile | None = None
        self._socket_protocols: Bound | None = None
        self._socket_server: asyncio.Server | None = None

    async def start(self, socket: Path | None, listen: str) -> None:
        """Begin to serve.

        Args:
            socket: path of the unix socket; None for none.
            listen: HOST:PORT for the read-only side; "" for none.

        Raises:
            ConfigurationError: one of them cannot be served on.
        """
        if socket is not None:
            self._socket_protocols = await self._protocols(_Side(is_public=False))
            self._socket = SocketFile(socket)
            await self._serve_socket()
        if listen:
            await self._serve_network(listen)

    async def mend(self) -> bool:
        """Serve on the socket again if somebody removed it; return whether that was so."""
        if self._socket is None or self._socket.is_there:
            return False
        try:
            await self._serve_socket()
        except ConfigurationError:  # its directory is gone too, or another daemon answers there: tried again
            return False
        return True

    async def close(self) -> None:
        """Stop serving, and remove the socket."""
        for server in filter(None, [*self._servers, self._socket_server]):
            server.close()
        for runner in self._runners:
            await runner.cleanup()
        if self._socket is not None:
            self._socket.remove()

    async def _serve_network(self, listen: str) -> None:
        host, _, port = listen.rpartition(":")
        host = host.strip("[]")
        protocols = await self._protocols(_Side(is_public=True, own_name=host if _is_loopback(host) else None))
        try:
            server = await asyncio.get_running_loop().create_server(protocols, host, int(port), backlog=_BACKLOG)
        except OSError as error:
            msg = f"http.listen: {listen} cannot be listened on: {error.strerror or error}"
            raise ConfigurationError(msg) from None
        self._servers.append(server)

    async def _serve_socket(self) -> None:
        """Serve on the socket, and no more on the one that was there before.

        Raises:
            ConfigurationError: it cannot be made.
        """
        assert self._socket is not None, "asked for where there is one"
        assert self._socket_protocols is not None, "they are made before"
        if self._socket_server is not None:
            self._socket_server.close()
        bound, loop = self._socket.bind(), asyncio.get_running_loop()
        self._socket_server = await loop.create_unix_server(self._socket_protocols, sock=bound, backlog=_BACKLOG)

    async def _protocols(self, side: "_Side") -> Bound:
        """Return what talks to the clients of one side."""
        application = web.Application(middlewares=[self._guard(side)], client_max_size=_BODY_MOST)
        application.on_response_prepare.append(_add_headers)
        handlers: dict[str, Handler] = {"/": _page, "/metrics": self._metrics}
        handlers |= {path: self._as_json(answer, side) for path, answer in self._answers().items()}
        for route in ROUTES:
            handler = _only_on_socket if route.is_command and side.is_public else handlers[route.path]
            add = application.router.add_get if route.method == "GET" else application.router.add_post
            add(route.path, handler)
        options: dict[str, Any] = {"access_log": None, "logger": _SILENT}
        runner = web.AppRunner(application, handle_signals=False, shutdown_timeout=1, **options)
        await runner.setup()
        self._runners.append(runner)
        server, loop = runner.server, asyncio.get_running_loop()
        assert server is not None, "it is set up"
        return Bound(lambda: _Talk(server, loop=loop, **options))

    def _answers(self) -> "dict[str, _Question]":
        return {
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/api/status": self._status,
            "/api/throughput": self._throughput,
            "/api/files": self._files,
            "/api/lookup": self._lookup,
            "/api/retry": self._retry,
            "/api/rescan": self._rescan,
        }

    def _as_json(self, answer: "_Question", side: "_Side") -> Handler:
        async def respond(request: web.Request) -> web.Response:
            status, body = await answer(request)
            return web.json_response(self._told(body, side), status=status)

        return respond

    def _told(self, body: Any, side: "_Side") -> Any:
        return discreet(body, self._secret_paths) if side.is_public else body

    def _guard(self, side: "_Side") -> Middleware:
        """Return what refuses whom a side is not for, and makes JSON of every error."""

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            try:
                _refuse_strangers(request, side)
                return await handler(request)
            except web.HTTPException as error:
                allowed = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
                return web.json_response({"error": error.text}, status=error.status, headers=allowed)
            except QuestionError as error:
                return web.json_response({"error": str(error)}, status=HTTPStatus.BAD_REQUEST)
            except JournalError as error:
                told = self._told({"error": str(error)}, side)
                return web.json_response(told, status=HTTPStatus.SERVICE_UNAVAILABLE)
            except asyncio.CancelledError:
                raise
            except Exception as error:  # noqa: BLE001 - whoever asks learns nothing of the inside; the log does
                self._sources.defect(error)
                return web.json_response({"error": "internal error"}, status=HTTPStatus.INTERNAL_SERVER_ERROR)

        return guard

    # Answers

    async def _healthz(self, _: web.Request) -> "_Answer":
        healthy = self._sources.healthy()
        return HTTPStatus.OK if healthy else HTTPStatus.SERVICE_UNAVAILABLE, {"healthy": healthy}

    async def _readyz(self, _: web.Request) -> "_Answer":
        reasons = self._sources.not_ready_reasons()
        body = {"ready": not reasons, "reasons": reasons}
        return HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK, body

    async def _metrics(self, _: web.Request) -> web.Response:
        body = await self._sources.exposition()
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _status(self, request: web.Request) -> "_Answer":
        questions.nothing(request.query.items())
        return HTTPStatus.OK, (await self._sources.status()).as_dict()

    async def _throughput(self, request: web.Request) -> "_Answer":
        questions.nothing(request.query.items())
        return HTTPStatus.OK, self._sources.throughput()

    async def _files(self, request: web.Request) -> "_Answer":
        state, limit = questions.files(request.query.items())
        return HTTPStatus.OK, {"files": await self._sources.files(state, limit)}

    async def _retry(self, request: web.Request) -> "_Answer":
        return HTTPStatus.OK, {"retried": await self._sources.retry(questions.retry(await request.read()))}

    async def _rescan(self, request: web.Request) -> "_Answer":
        questions.rescan(await request.read())
        self._sources.rescan()
        return HTTPStatus.ACCEPTED, {"rescan": True}

    async def _lookup(self, request: web.Request) -> "_Answer":
        paths = questions.lookup(await request.read())
        return HTTPStatus.OK, {"files": await self._sources.lookup(paths)}


_Answer = tuple[HTTPStatus, dict[str, Any]]
_Question = Callable[[web.Request], Awaitable[_Answer]]


@dataclass(frozen=True, slots=True)
class _Side:
    """For whom a server is.

    Attributes:
        is_public: for everyone who reaches it, and so without commands and paths.
        own_name: the one name, beside addresses and localhost, under which it may be asked; None for any.
    """

    is_public: bool
    own_name: str | None = None


def _refuse_strangers(request: web.Request, side: _Side) -> None:
    """Refuse what a browser sends on behalf of some other page.

    Raises:
        web.HTTPException: it is that.
    """
    if request.method not in {"GET", "HEAD"} and "Origin" in request.headers:
        raise web.HTTPForbidden(text="commands are not taken from web pages")
    host = request.headers.get("Host")
    if side.own_name is None or host is None:
        return
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:  # half an IPv6 address
        name = ""
    if name not in {"localhost", side.own_name} and not _is_address(name):
        text = "asked under a name that is not this server's; use its address, also in a proxy"
        raise web.HTTPMisdirectedRequest(text=text)


async def _only_on_socket(_: web.Request) -> web.StreamResponse:
    raise web.HTTPForbidden(text="this is read-only; commands are taken on the control socket")


async def _page(_: web.Request) -> web.StreamResponse:
    headers = {"Content-Security-Policy": page.POLICY}
    return web.Response(body=page.HTML, content_type="text/html", charset="utf-8", headers=headers)


class _Talk(web.RequestHandler):
    """Talks to one client; what is no HTTP is answered as all else, and without a word of what we are made of."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = HTTPStatus.INTERNAL_SERVER_ERROR,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return what is said of an error that no handler of ours came to see.

        Raises:
            ConnectionError: an answer is on its way already.
        """
        super().handle_error(request, status, exc, message)
        response = web.json_response({"error": HTTPStatus(status).phrase.lower()}, status=status)
        _dress(response)
        return response


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    _dress(response)


def _dress(response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        if name == "Server":
            response.headers[name] = value
        else:
            response.headers.setdefault(name, value)
    response.force_close()  # one question a connection: nobody keeps one for nothing


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ip_address(host).is_loopback)
