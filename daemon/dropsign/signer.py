"""The one mutual-TLS session: content -> request -> answer -> Signature or SigningError.

This is the network's edge, which alone decides whose fault an error was (contract, section 3). Nothing above it
sees HTTP.
"""

import asyncio
import email.utils
import hashlib
import json
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from pybase64 import b64encode
from yarl import URL

from dropsign import esauth
from dropsign.config import Service
from dropsign.descriptors import SHORTAGE, have_run_out
from dropsign.errors import Fault, SigningError
from dropsign.model import Signature
from dropsign.peer import PeerResponse, service_certificate
from dropsign.ports import Identity

STREAM_PIECE: Final = 2 * esauth.PIECE
"""Bytes of a large file read, encoded and sent at a time; a multiple of three."""

ANSWER_MAX: Final = 256 * 1024
"""Bytes of an answer that are read; no signature is longer."""

DETAIL_MAX: Final = 500
"""Bytes of a refusal's text that are kept (contract, section 3)."""

SKEW_SECONDS: Final = 120.0
"""From this difference to the service's clock on, a refusal is blamed on the clock."""

_REFUSAL_SECONDS: Final = 0.2
"""How long a trial handshake waits for the service to refuse our certificate."""

_OVERLOADED: Final = frozenset({408, 425, 429, 503, 504})
_FORBIDDEN: Final = frozenset({401, 403})

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


class Signer:
    """Asks the signing service, over one session that all requests share."""

    def __init__(self, service: Service, identity: Identity) -> None:
        self._service = service
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="stream")
        self._url = URL(service.url + service.sign_path, encoded=True)
        self._requests: Counter[aiohttp.ClientSession] = Counter()
        self._use(identity)
        self._last_date = ""
        self.clock_skew_seconds: float | None = None
        """This machine's clock minus the service's, at the last answer that had a date."""

    def _use(self, identity: Identity) -> None:
        path = urlsplit(self._service.url).path + self._service.sign_path
        self._authenticator = esauth.RequestSigner(identity.application, path)
        self._app_key = identity.application.key
        self._context, self._serial = identity.context, identity.serial
        self._session: aiohttp.ClientSession | None = None

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            service = self._service
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._context, limit=service.concurrency, ttl_dns_cache=30),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=service.connect_timeout_seconds),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Content-Type": "application/json", "User-Agent": "dropsign", "Accept-Encoding": "identity"},
                response_class=PeerResponse,
                auto_decompress=False,
                trust_env=False,
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

    def prepare_stream(self, read_at: ReadAt, size: int, stopped: Callable[[], bool]) -> Request:
        """Make the request for a large file by a first pass over it; blocks, and is for a thread.

        Args:
            read_at: gives bytes from an offset, of a length, fewer only at the end; it is called again, from the
                start, when the request is sent.
            size: of the file, in bytes.
            stopped: asked now and then; true ends the pass.

        Raises:
            SourceError: the file is not `size` bytes long, or the pass was stopped.
            OSError: it cannot be read.
        """
        nonce, timestamp, running = self._begin()
        digest = hashlib.sha256()
        offset = 0
        while piece := read_at(offset, esauth.PIECE):
            if stopped():
                msg = "stopped"
                raise SourceError(msg)
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

    async def handshake(self, identity: Identity | None = None) -> None:
        """Connect and shake hands without asking anything.

        Args:
            identity: to try; those in use by default.

        Raises:
            SigningError: that failed; it says whose fault it was.
        """
        context = identity.context if identity is not None else self._context
        try:
            async with asyncio.timeout(self._service.connect_timeout_seconds):
                reader, writer = await asyncio.open_connection(
                    self._url.host, self._url.port, ssl=context, server_hostname=self._url.host
                )
        except OSError as error:
            raise self._lost(error) from error
        try:
            # In TLS 1.3 a server refuses a client's certificate only after the client has finished.
            async with asyncio.timeout(_REFUSAL_SECONDS):
                if not await reader.read(1):
                    # One that refuses our certificate says so by an alert; one that is going down does this.
                    text = "the service closes the connection after the handshake"
                    raise SigningError(Fault.SERVICE, "unreachable", text)
        except TimeoutError:
            return
        except OSError as error:
            raise self._lost(error) from error
        finally:
            writer.close()

    async def sign_bytes(self, content: bytes) -> Signature:
        """Have some bytes signed; see `send`."""
        return await self.send(self.prepare(content))

    async def send(self, request: Request) -> Signature:
        """Send one request and wait for its signature.

        Raises:
            SigningError: there was none; it says whose fault that was.
            SourceError: a large file could not be read again as what it was.
        """
        serial = self._serial
        try:
            async with asyncio.timeout(self._service.timeout_seconds) as deadline:
                data = request.body if request.body is not None else self._stream(request, deadline)
                async with (
                    self._using() as session,
                    session.post(self._url, data=data, headers=request.headers, allow_redirects=False) as response,
                ):
                    answer = await _read_bounded(response)
        except SourceError:
            raise
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            if isinstance(cause := _cause(error, SourceError), SourceError):
                raise cause from cause.__cause__
            raise self._lost(error) from error
        self._note_date(response)
        proof = (service_certificate(response), serial)
        return Signature(self._judge(response, answer), request.sha256, request.size, proof)

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
        yield esauth.BODY_TAIL

    def _lost(self, error: Exception) -> SigningError:
        """Say why no answer came."""
        # aiohttp's own errors are SSLErrors too, but have no reason; the one that each holds has.
        held = getattr(error, "certificate_error", None) or getattr(error, "os_error", None)
        tls = held if isinstance(held, ssl.SSLError) else _cause(error, ssl.SSLError)
        reason = getattr(tls, "reason", None) or ""
        if isinstance(error, TimeoutError):
            seconds = self._service.timeout_seconds
            text = f"no answer within {seconds:g} s from {self._url}"
            return SigningError(Fault.SERVICE, "unreachable", text, passing=True)
        if isinstance(tls, ssl.SSLCertVerificationError):
            why = getattr(tls, "verify_message", None) or tls
            text = f"the service's certificate is not accepted: {why}; check tls.authority and service.url"
            return SigningError(Fault.SERVICE, "tls", text)
        if isinstance(tls, ssl.SSLError):
            if "ALERT" in reason:
                text = f"the service refuses our certificate or our TLS: {reason}; check tls.certificate"
                return SigningError(Fault.CREDENTIALS, "credentials", text)
            return SigningError(Fault.SERVICE, "tls", f"the TLS handshake failed: {reason or tls}")
        if have_run_out(error):
            return SigningError(Fault.MACHINE, "resources", f"no connection can be opened: {SHORTAGE}")
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        cut = not isinstance(error, aiohttp.ClientConnectorError)
        text = f"the service cuts the connection: {text}" if cut else f"the service cannot be reached: {text}"
        return SigningError(Fault.SERVICE, "unreachable", text, passing=cut)

    def _judge(self, response: aiohttp.ClientResponse, answer: bytes) -> bytes:
        """Return the signature in an answer."""
        status = response.status
        if status == 200:  # noqa: PLR2004 - HTTP's own number
            return _signature_in(answer)
        text = answer[:DETAIL_MAX].decode("utf-8", "replace").strip()
        detail = f"the service answered {status}{': ' + text if text else ''}"
        retry_after = _retry_after(response.headers.get("Retry-After"))
        if status in _FORBIDDEN or (status == 400 and b"SSL certificate" in answer):  # noqa: PLR2004 - nginx says so
            skew = self.clock_skew_seconds or 0.0
            if abs(skew) > SKEW_SECONDS:
                text = f"this machine's clock is {skew:+.0f} s off the service's; set it (timedatectl); {detail}"
                raise SigningError(Fault.CREDENTIALS, "clock_skew", text, status=status)
            raise SigningError(
                Fault.CREDENTIALS, "credentials", f"{detail}; check app_key, app_secret and certificate", status=status
            )
        if status in _OVERLOADED or status >= 500:  # noqa: PLR2004 - HTTP's own number
            reason = "overloaded" if status in _OVERLOADED else "rejecting"
            raise SigningError(Fault.SERVICE, reason, detail, status=status, retry_after=retry_after, passing=True)
        if 300 <= status < 400:  # noqa: PLR2004 - HTTP's own numbers
            raise SigningError(Fault.SERVICE, "rejecting", detail, status=status)
        if status < 400:  # noqa: PLR2004 - HTTP's own number
            raise SigningError(Fault.ANSWER, "no_signature", detail, status=status)
        raise SigningError(Fault.FILE, f"http_{status}", detail, status=status)

    def _note_date(self, response: aiohttp.ClientResponse) -> None:
        date = response.headers.get("Date")
        if date is None or date == self._last_date:  # most answers share a second
            return
        self._last_date = date
        try:
            self.clock_skew_seconds = time.time() - email.utils.parsedate_to_datetime(date).timestamp()
        except (ValueError, OverflowError):
            return


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    """Read an answer; one that is too long is cut, and its connection not used again."""
    answer = bytearray()
    async for piece in response.content.iter_any():
        answer += piece
        if len(answer) > ANSWER_MAX:
            response.close()
            break
    return bytes(answer)


def _signature_in(answer: bytes) -> bytes:
    """Return the bytes of `signData` in a 200.

    Raises:
        SigningError: there is no such string, or an empty one.
    """
    try:
        value = json.loads(answer) if len(answer) <= ANSWER_MAX else None
    except (ValueError, RecursionError):
        value = None
    text = value.get("signData") if isinstance(value, dict) else None
    try:
        signature = text.encode("utf-8") if isinstance(text, str) else b""
    except UnicodeEncodeError:
        signature = b""
    if not signature:
        shown = answer[:DETAIL_MAX].decode("utf-8", "replace")
        raise SigningError(Fault.ANSWER, "no_signature", f"the service answered 200 without a signature: {shown}")
    return signature


def _retry_after(value: str | None) -> float | None:
    """Return the seconds that `Retry-After` asks for, given as seconds or as a date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    value = value.strip(" \t")
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _cause(error: BaseException | None, kind: type[BaseException]) -> BaseException | None:
    """Return the first error of a kind among an error and what led to it."""
    seen = 0
    while error is not None and seen < 8:  # noqa: PLR2004 - a chain is never longer
        if isinstance(error, kind):
            return error
        error = error.__cause__ or getattr(error, "os_error", None) or error.__context__
        seen += 1
    return None
