"""The one mutual-TLS session: content -> request -> answer -> Signature or SigningError.

This is the network's edge, which alone decides whose fault an error was (contract, section 3). Nothing above it
sees HTTP.
"""

import asyncio
import email.utils
import hashlib
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from pybase64 import b64encode
from yarl import URL

from dropsign import esauth, tlserrors
from dropsign.config import Service
from dropsign.descriptors import SHORTAGE, have_run_out
from dropsign.errors import Fault, SigningError
from dropsign.model import Signature
from dropsign.peer import PeerResponse, service_certificate
from dropsign.ports import Identity
from dropsign.verdict import ANSWER_MAX, signature_in

STREAM_PIECE: Final = 2 * esauth.PIECE
"""Bytes of a large file read, encoded and sent at a time; a multiple of three."""

_REFUSAL_SECONDS: Final = 0.2
"""How long a trial handshake waits for the service to refuse our certificate."""

_CUT_PATIENCE_SECONDS: Final = 1.0
"""And one that is to find out why a connection was cut."""

ReadAt = Callable[[int, int], bytes]


class SourceError(Exception):
    """The file could not be read to its end as what it was; the cause says why."""


@dataclass(slots=True)
class Request:
    """One attempt, ready to be sent.

    Attributes:
        headers: all but Content-Type.
        sha256: digest of the content.
        size: of the content, in bytes.
        body: the whole body of a small file.
        read_at: reads a large file from an offset; called in a thread.
    """

    headers: dict[str, str]
    sha256: bytes
    size: int
    body: bytes | None = None
    read_at: ReadAt | None = None


@dataclass(slots=True)
class _Way:
    """How far one request came: on a connection made for it or on one that lay idle, and whether an answer began."""

    is_new: bool = False
    is_answered: bool = False


class Signer:
    """Asks the signing service, over one session that all requests share."""

    def __init__(self, service: Service, identity: Identity) -> None:
        self._service = service
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="stream")
        self._url = URL(service.url + service.sign_path, encoded=True)
        self._requests: Counter[aiohttp.ClientSession] = Counter()
        self._use(identity)
        self.clock_skew_seconds: float | None = None
        """This machine's clock minus the service's, at the last answer that had a date."""

    def _use(self, identity: Identity) -> None:
        path = urlsplit(self._service.url).path + self._service.sign_path
        self._authenticator = esauth.RequestSigner(identity.application, path)
        self._app_key = identity.application.key
        self._identity, self._context, self._serial = identity, identity.context, identity.serial
        self._session: aiohttp.ClientSession | None = None

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            service = self._service
            tracing = aiohttp.TraceConfig()
            tracing.on_connection_create_end.append(_note_new_connection)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._context, limit=service.concurrency, ttl_dns_cache=30),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=service.connect_timeout_seconds),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Content-Type": "application/json", "User-Agent": "dropsign", "Accept-Encoding": "identity"},
                response_class=PeerResponse,
                auto_decompress=False,
                trust_env=False,
                trace_configs=[tracing],
            )
        return self._session

    @asynccontextmanager
    async def _using(self) -> AsyncIterator[aiohttp.ClientSession]:
        """Give the session for one request; the last request of one that was replaced closes it."""
        session = self._connected()
        self._requests[session] += 1
        try:
            yield session
        finally:
            self._requests[session] -= 1
            await self._retire(session)

    async def _retire(self, session: aiohttp.ClientSession) -> None:
        if session is not self._session and not self._requests[session]:
            del self._requests[session]
            await session.close()

    async def renew(self, identity: Identity) -> None:
        """Use other credentials from the next request on; requests on their way end as they began."""
        old = self._session
        self._use(identity)
        if old is not None:
            await self._retire(old)

    async def _connect_anew(self) -> None:
        """Use no connection of before: one that still bears requests would hide, now and then, that new ones fail."""
        old, self._session = self._session, None
        if old is not None:
            await self._retire(old)

    async def close(self) -> None:
        """Close the session."""
        for session in {*self._requests, *filter(None, [self._session])}:
            await session.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def prepare(self, content: bytes) -> Request:
        """Make the request for a small file's content."""
        encoded = b64encode(content)
        nonce, timestamp, running = self._begin()
        running.feed(encoded)
        return Request(
            self._headers(nonce, timestamp, running.finish()),
            hashlib.sha256(content).digest(),
            len(content),
            body=b"".join((esauth.BODY_HEAD, encoded, esauth.BODY_TAIL)),
        )

    def prepare_stream(self, read_at: ReadAt, size: int) -> Request:
        """Make the request for a large file by a first pass over it; blocks, and is for a thread.

        Args:
            read_at: gives bytes from an offset, of a length, fewer only at the end; it is called again, from the
                start, when the request is sent.
            size: of the file, in bytes.

        Raises:
            SourceError: the file is not `size` bytes long.
            OSError: it cannot be read, or was closed meanwhile.
        """
        nonce, timestamp, running = self._begin()
        digest = hashlib.sha256()
        offset = 0
        while piece := read_at(offset, esauth.PIECE):
            digest.update(piece)
            running.feed(b64encode(piece))
            offset += len(piece)
        if offset != size:
            msg = "the file's size changed while it was read"
            raise SourceError(msg)
        headers = self._headers(nonce, timestamp, running.finish())
        headers["Content-Length"] = str(esauth.body_length(size))
        return Request(headers, digest.digest(), size, read_at=read_at)

    def _begin(self) -> tuple[str, str, esauth.RequestHash]:
        nonce, timestamp = esauth.new_nonce(), str(time.time_ns() // 1_000_000)
        return nonce, timestamp, self._authenticator.begin(nonce, timestamp)

    def _headers(self, nonce: str, timestamp: str, signed: str) -> dict[str, str]:
        return {
            esauth.HEADER_KEY: self._app_key,
            esauth.HEADER_NONCE: nonce,
            esauth.HEADER_TIMESTAMP: timestamp,
            esauth.HEADER_SIGN: signed,
        }

    async def handshake(self, identity: Identity | None = None, patience: float = _REFUSAL_SECONDS) -> None:
        """Connect and shake hands without asking anything.

        Args:
            identity: to try; those in use by default.
            patience: seconds that the service has to refuse our certificate.

        Raises:
            SigningError: that failed; it says whose fault it was.
        """
        identity = identity or self._identity
        identity.require(time.time())
        context = identity.context
        try:
            async with asyncio.timeout(self._service.connect_timeout_seconds):
                reader, writer = await asyncio.open_connection(
                    self._url.host, self._url.port, ssl=context, server_hostname=self._url.host
                )
        except OSError as error:
            raise self._lost(error, connecting=True) from error
        try:
            # In TLS 1.3 a server refuses a client's certificate only after the client has finished.
            async with asyncio.timeout(patience):
                is_cut = not await reader.read(1)
        except TimeoutError:
            return
        except ssl.SSLError as error:
            raise self._lost(error) from error
        except OSError:
            is_cut = True
        finally:
            tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
            # In TLS 1.3 a server sends tickets as soon as it has accepted the client.
            is_accepted = tls.version() != "TLSv1.3" or (tls.session is not None and tls.session.has_ticket)
            writer.close()
        if is_cut and not is_accepted:
            raise tlserrors.refusal_in_silence()
        if is_cut:
            raise SigningError(Fault.SERVICE, "unreachable", "the service closes the connection after the handshake")

    async def sign_bytes(self, content: bytes) -> Signature:
        """Have some bytes signed; see `send`."""
        return await self.send(self.prepare(content))

    async def send(self, request: Request) -> Signature:
        """Send one request and wait for its signature.

        Raises:
            SigningError: there was none; it says whose fault that was.
            SourceError: a large file could not be read again as what it was.
        """
        self._identity.require(time.time())
        serial = self._serial
        way = _Way()
        try:
            async with asyncio.timeout(self._service.timeout_seconds) as deadline:
                data = request.body if request.body is not None else self._stream(request, deadline)
                async with (
                    self._using() as session,
                    session.post(
                        self._url, data=data, headers=request.headers, allow_redirects=False, trace_request_ctx=way
                    ) as response,
                ):
                    way.is_answered = True
                    answer = await _read_bounded(response)
        except SourceError:
            raise
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            # Never by a name: the error would hold this frame, and this frame the error, and both the request.
            raise await self._explain(error, way)  # noqa: B904 - it has its cause
        self._note_date(response)
        retry_after = response.headers.get("Retry-After")
        text = signature_in(response.status, answer, retry_after, self.clock_skew_seconds)
        proof = (service_certificate(response), serial)
        return Signature(text, request.sha256, request.size, proof)

    async def _stream(self, request: Request, deadline: asyncio.Timeout) -> AsyncIterator[bytes]:
        """Yield a large file's body, reading one piece ahead, and prove before the last that it is the same file.

        Each piece that goes out moves the deadline: the time limit is for progress, not for the size of a file.
        """
        loop = asyncio.get_running_loop()
        digest = hashlib.sha256()
        read_at = request.read_at
        assert read_at is not None, "a request has a body or a file"

        def encode(offset: int) -> tuple[int, bytes]:
            piece = read_at(offset, STREAM_PIECE)
            digest.update(piece)
            return len(piece), b64encode(piece)

        yield esauth.BODY_HEAD
        offset = 0
        ahead = loop.run_in_executor(self._threads, encode, 0)
        try:
            while offset < request.size:
                try:
                    length, encoded = await ahead
                except OSError as error:
                    raise SourceError(str(error)) from error
                offset += length
                if length == 0 or (offset >= request.size and digest.digest() != request.sha256):
                    msg = "the file changed while it was sent"
                    raise SourceError(msg)
                if offset < request.size:
                    ahead = loop.run_in_executor(self._threads, encode, offset)
                yield encoded
                deadline.reschedule(loop.time() + self._service.timeout_seconds)
        finally:  # after an answer that came early nobody waits for it, and what it ended with is nobody's concern
            if not ahead.cancel() and not ahead.cancelled():
                ahead.exception()
        yield esauth.BODY_TAIL

    async def _explain(self, error: Exception, way: _Way) -> SigningError | SourceError:
        """Say why a request got no answer."""
        if isinstance(source := _cause(error, SourceError), SourceError):
            again = SourceError(str(source))
            again.__cause__ = source.__cause__
            return again
        lost = self._lost(error)
        lost.__cause__ = error
        if not lost.passing and lost.fault is not Fault.MACHINE:
            await self._connect_anew()
        if not lost.passing or way.is_answered or isinstance(error, TimeoutError):
            return lost
        lost.stale = not way.is_new
        if way.is_new:  # it may be that the service refuses our certificate
            try:
                await self.handshake(patience=_CUT_PATIENCE_SECONDS)
            except SigningError as found:
                if found.fault is Fault.CREDENTIALS:
                    await self._connect_anew()
                    return found
        return lost

    def _lost(self, error: Exception, *, connecting: bool = False) -> SigningError:
        """Say why no answer came."""
        where = f"{self._url.host}:{self._url.port}"
        if isinstance(error, TimeoutError):
            if connecting or isinstance(error, aiohttp.ConnectionTimeoutError):
                text = f"no connection to {where} within {self._service.connect_timeout_seconds:g} s"
                return SigningError(Fault.SERVICE, "unreachable", text)
            text = f"no answer within {self._service.timeout_seconds:g} s from {self._url}"
            return SigningError(Fault.SERVICE, "unreachable", text, passing=True)
        # aiohttp's own errors are SSLErrors too, but have no reason; the one that each holds has.
        held = getattr(error, "certificate_error", None) or getattr(error, "os_error", None)
        tls = held if isinstance(held, ssl.SSLError) else _cause(error, ssl.SSLError)
        if isinstance(tls, ssl.SSLError):
            return tlserrors.explain(tls)
        if have_run_out(error):
            return SigningError(Fault.MACHINE, "resources", f"no connection can be opened: {SHORTAGE}")
        if connecting or isinstance(error, aiohttp.ClientConnectorError):
            why = tlserrors.in_words(held or error)
            return SigningError(Fault.SERVICE, "unreachable", f"the service cannot be reached at {where}: {why}")
        if isinstance(error, aiohttp.ClientPayloadError):
            text = "the service cuts the connection in the middle of its answer"
        elif isinstance(error, aiohttp.ClientResponseError):
            text = f"what answers at {where} does not speak HTTP"
        elif isinstance(error, OSError):
            text = f"the service cuts the connection: {tlserrors.in_words(error)}"
        else:
            text = "the service closes the connection without an answer"
        return SigningError(Fault.SERVICE, "unreachable", text, passing=True)

    def _note_date(self, response: aiohttp.ClientResponse) -> None:
        if (date := response.headers.get("Date")) is not None:
            with suppress(ValueError, OverflowError):
                self.clock_skew_seconds = time.time() - _seconds_at(date)


@lru_cache(maxsize=1)  # most answers share a second
def _seconds_at(date: str) -> float:
    return email.utils.parsedate_to_datetime(date).timestamp()


async def _note_new_connection(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    context.trace_request_ctx.is_new = True


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    """Read an answer; one that is too long is cut, and its connection not used again."""
    answer = bytearray()
    async for piece in response.content.iter_any():
        answer += piece
        if len(answer) > ANSWER_MAX:
            response.close()
            break
    return bytes(answer)


def _cause(error: BaseException | None, kind: type[BaseException]) -> BaseException | None:
    """Return the first error of a kind among an error and what led to it."""
    seen = 0
    while error is not None and seen < 8:  # noqa: PLR2004 - a chain is never longer
        if isinstance(error, kind):
            return error
        error = error.__cause__ or getattr(error, "os_error", None) or error.__context__
        seen += 1
    return None
