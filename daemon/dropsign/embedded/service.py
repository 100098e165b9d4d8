"""The embedded signing service: mutual TLS, strict about the protocol, signs with a real key, misbehaves on demand."""

import asyncio
import json
import os
import random
import socket
import ssl
import struct
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

import pybase64
from aiohttp import web
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from dropsign import esauth
from dropsign.embedded.checks import Nonces, RefusedError, RequestCheck
from dropsign.embedded.faults import Behaviour, Faults
from dropsign.errors import ConfigurationError, CredentialsError

SIGN_PATH: Final = "/api/v1/sign_file"

_ALGORITHM: Final = ec.ECDSA(utils.Prehashed(hashes.SHA256()))
_OTHER_DIGEST: Final = bytes(32)
"""What is signed instead when the signature is to be bad; nothing has this digest."""

_INLINE: Final = 64 * 1024
"""Pieces of a body up to this size are worked on in the loop; that takes a tenth of a millisecond."""

_BUFFER: Final = 512 * 1024
"""Bytes of a request's body that may wait in memory."""

_BODIES: Final = {
    "null": b'{"signData":null}',
    "text": b"error: the signing device is not available\n",
    "halfjson": b'{"signData":"MEUCIQ',
    "bigbody": b'{"signData":"' + b"A" * (10 * 1024 * 1024) + b'"}',
}
"""The answers, all with status 200, of faults that are nothing but an answer."""

_FAULTS_CHECK_SECONDS: Final = 0.05
_STOP_SECONDS: Final = 1.0

_OVERLOADED: Final = frozenset({429, 503})
_RESULTS: Final = {401: "unauthorized", 404: "not_found", 405: "not_found", 413: "too_large", 429: "overloaded"}


@dataclass(frozen=True, slots=True)
class ServerTls:
    """The service's side of mutual TLS; only clients of the authority are let in."""

    certificate: Path
    private_key: Path
    authority: Path

    def context(self) -> ssl.SSLContext:
        """Make the context.

        Raises:
            CredentialsError: a file is missing or does not fit.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        for path in (self.certificate, self.private_key, self.authority):
            _read(path)
        try:
            context.load_verify_locations(cafile=self.authority)
            # An empty password instead of none, so that OpenSSL never asks at a terminal.
            context.load_cert_chain(self.certificate, self.private_key, "")
        except (ssl.SSLError, OSError) as error:
            reason = getattr(error, "reason", None) or error.strerror or error
            msg = f"{self.certificate}, {self.private_key} and {self.authority} do not make a TLS server: {reason}"
            raise CredentialsError(msg) from None
        return context


@dataclass(slots=True)
class _Record:
    """What one request came to."""

    result: str = "disconnected"
    status: int | None = None
    sha256: bytes | None = None
    size: int = 0


class SigningService:
    """Signs what it is sent.

    Attributes:
        counts: requests by result: `signed`, the name of a fault, `unauthorized`, `bad_request`, `too_large`,
            `overloaded`, `not_found`, `disconnected`.
    """

    def __init__(  # noqa: PLR0913 - the options of `dropsign service`, all by name
        self,
        *,
        tls: ServerTls,
        signing_key_path: Path,
        application: esauth.Application,
        sign_path: str = SIGN_PATH,
        faults: Faults = Faults(),  # noqa: B008 - frozen
        delay_seconds: float = 0.0,
        max_bytes: int = 0,
        max_in_flight: int = 0,
        log_path: Path | None = None,
        faults_file: Path | None = None,
        chance: random.Random | None = None,
    ) -> None:
        """Read all files.

        Args:
            tls: who the service is, and whose clients it takes.
            signing_key_path: private key on P-256.
            application: the only one that is known.
            sign_path: where it is reached.
            faults: what goes wrong, and how often.
            delay_seconds: how long it thinks before it answers.
            max_bytes: larger content is refused; 0 for no limit.
            max_in_flight: more requests at a time are refused; 0 for no limit.
            log_path: one JSON line a request is appended here.
            faults_file: overrides faults and delay while the service runs (see `Behaviour.changed_by`).
            chance: by which faults are chosen.

        Raises:
            CredentialsError: a key or certificate is missing or does not fit.
            ConfigurationError: the log cannot be written.
        """
        self._context = tls.context()
        self._key = _signing_key(signing_key_path)
        self._app_key = application.key
        self._signer = esauth.RequestSigner(application, sign_path)
        self._sign_path = sign_path
        self._given = self._behaviour = Behaviour(faults, delay_seconds)
        self._max_bytes = max_bytes
        self._max_in_flight = max_in_flight
        self._log = _open_log(log_path) if log_path is not None else None
        self._faults_file = faults_file
        self._faults_version: tuple[int, int] | None = None
        self._faults_checked = 0.0
        self._chance = chance or random.Random()  # noqa: S311 - not for secrets
        self._nonces = Nonces()
        self._in_flight = 0
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="body")
        self._stopping = asyncio.Event()
        self.counts: Counter[str] = Counter()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Serve from now on.

        Returns:
            The port, which is a free one if 0 was asked for.

        Raises:
            ConfigurationError: the address is in use, or not this machine's.
        """
        self._web = web.Server(
            self._answer,
            handler_cancellation=True,
            access_log=None,
            read_bufsize=_BUFFER,
            keepalive_timeout=600.0,
        )
        try:
            self._server = await asyncio.get_running_loop().create_server(
                self._web, host, port, ssl=self._context, backlog=1024
            )
        except OSError as error:
            msg = f"cannot listen on {host}:{port}: {error.strerror}"
            raise ConfigurationError(msg) from None
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def stop(self) -> None:
        """Take no more requests, and let those in flight end."""
        self._server.close()
        self._stopping.set()
        self._web.pre_shutdown()
        await self._web.shutdown(_STOP_SECONDS)
        await self._server.wait_closed()
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._log is not None:
            os.close(self._log)
            self._log = None

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        record = _Record()
        self._in_flight += 1
        try:
            response = await self._sign(request, record)
            record.status = response.status
        except RefusedError as refused:
            record.result, record.status = _RESULTS.get(refused.status, "bad_request"), refused.status
            return _error(refused.status, str(refused))
        finally:
            self._in_flight -= 1
            self._note(record)
        return response

    async def _sign(self, request: web.BaseRequest, record: _Record) -> web.StreamResponse:
        """Check a request and answer it, well or as the behaviour has it."""
        if self._max_in_flight and self._in_flight > self._max_in_flight:
            raise RefusedError(429, f"more than {self._max_in_flight} requests in flight")
        digest = record.sha256 = await self._check(request, record)
        behaviour = self._current()
        fault = behaviour.faults.choose(self._chance)
        if behaviour.delay_seconds:
            await asyncio.sleep(behaviour.delay_seconds)
        record.result = fault or "signed"
        return self._signed(digest) if fault is None else await self._misbehave(fault, request)

    async def _check(self, request: web.BaseRequest, record: _Record) -> bytes:
        """Read and check a request; return the digest of its content."""
        if request.raw_path != self._sign_path:
            raise RefusedError(404, f"there is nothing here; POST to {self._sign_path}")
        if request.method != "POST":
            raise RefusedError(405, "only POST")
        if request.content_type != "application/json":
            raise RefusedError(415, "Content-Type is not application/json")
        limit = esauth.body_length(self._max_bytes) if self._max_bytes else 0
        if limit and (request.content_length or 0) > limit:
            raise self._too_large()
        check = RequestCheck(request.headers, self._signer, self._app_key)
        self._nonces.take(check.nonce, check.time_ms, time.time_ns() // 1_000_000)
        try:
            await self._read(request, check)
            record.size = check.size
            return check.finish()
        except BaseException:
            self._nonces.give_back(check.nonce)
            raise

    async def _read(self, request: web.BaseRequest, check: RequestCheck) -> None:
        """Feed the body to the check, large pieces in a thread, so that others' requests are not held up."""
        loop = asyncio.get_running_loop()
        content = request.content
        while piece := await content.readany():
            if len(piece) <= _INLINE:
                check.feed(piece)
            else:
                await loop.run_in_executor(self._threads, check.feed, piece)
            if self._max_bytes and check.size > self._max_bytes:
                raise self._too_large()

    def _too_large(self) -> RefusedError:
        return RefusedError(413, f"the content is larger than {self._max_bytes} bytes")

    def _signed(self, digest: bytes) -> web.Response:
        signature = pybase64.b64encode(self._key.sign(digest, _ALGORITHM)).decode("ascii")
        return _json(200, {"signData": signature})

    async def _misbehave(self, fault: str, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request that was in order in a way that is not."""
        match fault:
            case "hang":
                await self._stopping.wait()
                _cut(request)
            case "reset":
                _cut(request)
            case "slowloris":
                return await self._drip(request)
            case "badsig":
                return self._signed(_OTHER_DIGEST)
            case "redirect":
                return web.Response(status=302, headers={"Location": self._sign_path})
            case _ if fault.isdigit():
                return _error(int(fault), f"a rehearsed {fault}")
        body = _BODIES[fault]
        return web.Response(body=body, content_type="text/plain" if fault == "text" else "application/json")

    async def _drip(self, request: web.BaseRequest) -> NoReturn:
        """Answer a byte a second, for ever."""
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        while not self._stopping.is_set():
            await response.write(b" ")
            await asyncio.sleep(1)
        _cut(request)

    def _current(self) -> Behaviour:
        """Return the behaviour for now, which a file may change while the service runs."""
        if self._faults_file is None or (now := time.monotonic()) - self._faults_checked < _FAULTS_CHECK_SECONDS:
            return self._behaviour
        self._faults_checked = now
        try:
            status = self._faults_file.stat()
            if (version := (status.st_mtime_ns, status.st_ino)) == self._faults_version:
                return self._behaviour
            self._faults_version = version
            self._behaviour = self._given.changed_by(self._faults_file.read_text("utf-8"))
        except FileNotFoundError:
            self._behaviour = self._given
        except (OSError, UnicodeDecodeError, ConfigurationError):
            # A file caught half-written; what was in force stays so, until the file changes again.
            return self._behaviour
        return self._behaviour

    def _note(self, record: _Record) -> None:
        """Count a request, and write its line."""
        self.counts[record.result] += 1
        if self._log is None:
            return
        line = {
            "time": time.time(),
            "result": record.result,
            "status": record.status,
            "sha256": record.sha256.hex() if record.sha256 is not None else None,
            "size": record.size,
        }
        os.write(self._log, json.dumps(line).encode() + b"\n")


def _json(status: int, value: dict[str, str], headers: dict[str, str] | None = None) -> web.Response:
    body = json.dumps(value, separators=(",", ":")).encode()
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


def _error(status: int, message: str) -> web.Response:
    return _json(status, {"error": message}, {"Retry-After": "1"} if status in _OVERLOADED else None)


def _cut(request: web.BaseRequest) -> NoReturn:
    """Reset the connection, in the middle of everything."""
    if request.transport is not None:
        raw = request.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.transport.abort()
    raise asyncio.CancelledError


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}"
        raise CredentialsError(msg) from None


def _signing_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(_read(path), None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        msg = f"{path} holds no plain private key for ECDSA as PEM; make one: dropsign keygen, or openssl ecparam"
        raise CredentialsError(msg)
    return key


def _open_log(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError as error:
        msg = f"{path} cannot be written: {error.strerror}"
        raise ConfigurationError(msg) from None
