"""signer.py against a TLS server that speaks raw HTTP as it is told: requests, and whose fault each answer is."""

import asyncio
import base64
import email.utils
import hashlib
import json
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dropsign import config, credentials, esauth
from dropsign.directory import OpenDrop
from dropsign.embedded.authority import Authority, Issued
from dropsign.errors import Fault, SigningError
from dropsign.model import Fingerprint
from dropsign.signer import STREAM_PIECE, Signer, SourceError
from dropsign.verdict import ANSWER_MAX, DETAIL_MAX, retry_after_seconds

SECRET = "the secret"

Step = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Received:
    """One request as it came over the wire."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: int

    def header(self, name: str) -> str:
        (value,) = [value for key, value in self.headers if key.lower() == name.lower()]
        return value


def answer(status: str, body: bytes = b"", *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body


def signed(text: str = "c2lnbmF0dXJl") -> bytes:
    return answer("200 OK", json.dumps({"signData": text}).encode())


@dataclass
class Peer:
    """A server that notes what it gets and says what it is told; `None` closes the connection without an answer."""

    answers: list[bytes | Step | None]
    received: list[Received] = field(default_factory=list)
    broken_off: list[bytes] = field(default_factory=list)
    connections: int = 0
    idle_close: asyncio.Event = field(default_factory=asyncio.Event)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        number = self.connections
        try:
            while await self._one(reader, writer, number):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *lines = head.rstrip("\r\n").split("\r\n")
        headers = [(key, value.strip()) for key, _, value in (text.partition(":") for text in lines)]
        received = Received(line, headers, b"", number)
        step = self.answers[min(len(self.received), len(self.answers) - 1)]
        if callable(step):
            self.received.append(received)
            await step(reader, writer)
            return False
        try:
            received.body = await reader.readexactly(int(received.header("Content-Length")))
        except asyncio.IncompleteReadError as error:
            self.broken_off.append(error.partial)
            raise
        self.received.append(received)
        if step is None:
            return False
        writer.write(step)
        await writer.drain()
        return True


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@dataclass
class Site:
    """Certificates, and what is asked of whom."""

    directory: Path
    authority: Authority
    server: Issued
    client: Issued

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server.certificate, self.server.private_key)
        context.load_verify_locations(self.authority.certificate)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    @asynccontextmanager
    async def peer(self, *answers: bytes | Step | None, context: ssl.SSLContext | None = None) -> AsyncIterator[Peer]:
        peer = Peer(list(answers))
        server = await asyncio.start_server(peer.serve, "localhost", 0, ssl=context or self.context())
        peer.port = server.sockets[0].getsockname()[1]
        try:
            yield peer
        finally:
            server.close()
            for writer in peer.writers:
                writer.close()
            await asyncio.sleep(0)

    @asynccontextmanager
    async def signer(self, port: int, *, path: str = "", **service: object) -> AsyncIterator[Signer]:
        secret = self.directory / "secret"
        secret.write_text(SECRET)
        secret.chmod(0o600)
        tables = {
            "outbox": {"path": "/"},
            "service": {
                "url": f"https://localhost:{port}{path}",
                "app_key": "key",
                "app_secret_file": str(secret),
                **service,
            },
            "tls": {
                "certificate": str(self.client.certificate),
                "private_key": str(self.client.private_key),
                "authority": str(self.authority.certificate),
            },
        }
        configuration = config.parse(tables, {}, base=self.directory, source="test")
        signer = Signer(configuration.service, credentials.load(configuration, {}))
        try:
            yield signer
        finally:
            await signer.close()
            await asyncio.sleep(0.01)  # aiohttp closes its transports a moment later

    def run(self, scenario: Callable[[], Awaitable[None]]) -> None:
        async def limited() -> None:
            await asyncio.wait_for(scenario(), 30)

        asyncio.run(limited())


@pytest.fixture
def site(authority: Authority, tmp_path: Path) -> Site:
    return Site(tmp_path, authority, authority.issued("localhost", server=True), authority.issued("client"))


async def fault(signer: Signer, content: bytes = b"content") -> SigningError:
    with pytest.raises(SigningError) as caught:
        await signer.sign_bytes(content)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


# Requests


@pytest.mark.parametrize("path", ["", "/behind/a-proxy"])
def test_request_is_what_the_protocol_wants(site: Site, path: str) -> None:
    """The request has the protocol's line, headers, body and hash, and the signature comes back just as it is."""

    async def scenario() -> None:
        content = os.urandom(1000)
        async with site.peer(signed("MEUCIQ+/=\u00fc")) as peer, site.signer(peer.port, path=path) as signer:
            signature = await signer.sign_bytes(content)
        (received,) = peer.received
        assert received.line == f"POST {path}/api/v1/sign_file HTTP/1.1"
        assert received.body == b'{"data":"' + base64.b64encode(content) + b'"}'
        assert received.header("Content-Type") == "application/json"
        assert received.header("es-auth-appkey") == "key"
        assert abs(int(received.header("es-auth-timestamp")) - time.time() * 1000) < 10_000
        running = esauth.RequestSigner(esauth.Application("key", SECRET), f"{path}/api/v1/sign_file").begin(
            received.header("es-auth-nonce"), received.header("es-auth-timestamp")
        )
        running.feed(base64.b64encode(content))
        assert received.header("es-auth-sign") == running.finish()
        assert signature.text == "MEUCIQ+/=\u00fc".encode()
        assert signature.sha256 == hashlib.sha256(content).digest()
        assert signature.size == 1000
        assert SECRET.encode() not in repr(received).encode()

    site.run(scenario)


def test_each_attempt_has_a_nonce_of_its_own(site: Site) -> None:
    """No nonce is ever used twice, and all requests of a quiet time share one connection."""

    async def scenario() -> None:
        async with site.peer(signed()) as peer, site.signer(peer.port) as signer:
            for _ in range(20):
                await signer.sign_bytes(b"the same")
        assert len({received.header("es-auth-nonce") for received in peer.received}) == 20
        assert peer.connections == 1

    site.run(scenario)


def test_empty_file(site: Site) -> None:
    """An empty file is signed like any other."""

    async def scenario() -> None:
        async with site.peer(signed()) as peer, site.signer(peer.port) as signer:
            assert (await signer.sign_bytes(b"")).size == 0
        assert peer.received[0].body == b'{"data":""}'

    site.run(scenario)


# Large files


def opened(path: Path) -> OpenDrop:
    return OpenDrop(os.open(path, os.O_RDONLY), os.fsencode(path.name), Fingerprint.of(path.stat()))


@pytest.mark.parametrize("size", [1, STREAM_PIECE - 1, STREAM_PIECE, STREAM_PIECE + 1, 3 * STREAM_PIECE, 2_000_003])
def test_large_body_is_what_was_hashed(site: Site, size: int) -> None:
    """A streamed body arrives whole, with its length beforehand and not in chunks, and equals what was hashed."""
    content = Random(size).randbytes(size)
    (site.directory / "large").write_bytes(content)

    async def scenario() -> None:
        async with site.peer(signed()) as peer, site.signer(peer.port) as signer:
            with opened(site.directory / "large") as drop:
                request = await asyncio.to_thread(signer.prepare_stream, drop.read_at, size)
                signature = await signer.send(request)
        (received,) = peer.received
        assert received.body == b'{"data":"' + base64.b64encode(content) + b'"}'
        assert int(received.header("Content-Length")) == len(received.body)
        assert not [key for key, _ in received.headers if key.lower() in {"transfer-encoding", "expect"}]
        assert (signature.sha256, signature.size) == (hashlib.sha256(content).digest(), size)
        running = esauth.RequestSigner(esauth.Application("key", SECRET), "/api/v1/sign_file").begin(
            received.header("es-auth-nonce"), received.header("es-auth-timestamp")
        )
        running.feed(base64.b64encode(content))
        assert received.header("es-auth-sign") == running.finish()

    site.run(scenario)


@pytest.mark.parametrize("change", ["last byte", "first byte", "shorter"])
def test_file_that_changes_between_the_passes_is_never_signed(site: Site, change: str) -> None:
    """If the second pass reads otherwise than the first, the request is broken off before it is whole."""
    path = site.directory / "large"
    content = bytearray(Random(1).randbytes(1_500_000))
    path.write_bytes(content)

    async def scenario() -> None:
        async with site.peer(signed()) as peer, site.signer(peer.port) as signer:
            with opened(path) as drop:
                request = await asyncio.to_thread(signer.prepare_stream, drop.read_at, len(content))
                with path.open("r+b") as file:
                    if change == "shorter":
                        file.truncate(1_000_000)
                    else:
                        file.seek(-1 if change == "last byte" else 0, os.SEEK_END if change == "last byte" else 0)
                        file.write(b"\x00" if content[-1 if change == "last byte" else 0] else b"\x01")
                with pytest.raises(SourceError):
                    await signer.send(request)
            await asyncio.sleep(0.1)
            assert peer.received == []
            assert len(peer.broken_off) == 1
            assert (await signer.sign_bytes(b"next")).text  # the session is none the worse
            assert peer.connections == 2

    site.run(scenario)


def test_file_that_cannot_be_read_to_its_end_is_no_fault_of_the_service(site: Site) -> None:
    """A read error in the middle of sending is the file's: SourceError, with the reason as its cause."""
    path = site.directory / "large"
    path.write_bytes(bytes(2_000_000))

    async def scenario() -> None:
        async with site.peer(signed()) as peer, site.signer(peer.port) as signer:
            drop = opened(path)
            request = await asyncio.to_thread(signer.prepare_stream, drop.read_at, 2_000_000)
            drop.close()
            with pytest.raises(SourceError) as caught:
                await signer.send(request)
            assert isinstance(caught.value.__cause__, OSError)
            assert peer.received == []

    site.run(scenario)


def test_first_pass_notices_another_size_and_a_stop(site: Site) -> None:
    """A file that is not as long as it was said to be is not prepared, and one that a stop closed ends the pass."""
    path = site.directory / "large"
    path.write_bytes(bytes(1_000_000))

    async def scenario() -> None:
        async with site.signer(1) as signer:
            with opened(path) as drop:
                for size in (999_999, 1_000_001):
                    with pytest.raises(SourceError, match="size changed"):
                        signer.prepare_stream(drop.read_at, size)
            with pytest.raises(OSError, match="closed"):
                signer.prepare_stream(drop.read_at, 1_000_000)

    site.run(scenario)


def test_answer_before_the_body_is_whole(site: Site) -> None:
    """A service that refuses a large file while it is still being sent is heard: that file's fault, not an outage."""
    path = site.directory / "large"
    path.write_bytes(bytes(8_000_000))

    async def too_large(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer("413 Content Too Large", b"at most 1 MB"))
        await writer.drain()
        while await reader.read(65536):
            pass

    async def scenario() -> None:
        async with site.peer(too_large) as peer, site.signer(peer.port) as signer:
            with opened(path) as drop:
                request = await asyncio.to_thread(signer.prepare_stream, drop.read_at, 8_000_000)
                with pytest.raises(SigningError) as caught:
                    await signer.send(request)
            assert (caught.value.fault, caught.value.reason) == (Fault.FILE, "http_413")
            assert "at most 1 MB" in str(caught.value)

    site.run(scenario)


# Answers


CLASSES = [
    *((status, Fault.SERVICE, "overloaded") for status in (408, 425, 429, 503, 504)),
    *((status, Fault.SERVICE, "rejecting") for status in (500, 501, 502, 505, 507, 511, 599)),
    *((status, Fault.SERVICE, "rejecting") for status in (301, 302, 303, 307, 308)),
    *((status, Fault.CREDENTIALS, "credentials") for status in (401, 403)),
    *(
        (status, Fault.FILE, f"http_{status}")
        for status in (400, 402, 404, 405, 406, 409, 410, 411, 412, 413, 414, 415)
    ),
    *(
        (status, Fault.FILE, f"http_{status}")
        for status in (416, 417, 418, 421, 422, 423, 424, 426, 428, 431, 451, 499)
    ),
    *((status, Fault.ANSWER, "no_signature") for status in (201, 202, 206, 299)),
]


def test_whose_fault_each_status_is(site: Site) -> None:
    """Each status is put to the account that the contract's table has for it, with the answer's text."""

    async def scenario() -> None:
        answers = [answer(f"{status} Some Reason", b"because") for status, _, _ in CLASSES]
        async with site.peer(*answers) as peer, site.signer(peer.port) as signer:
            for status, whose, reason in CLASSES:
                error = await fault(signer)
                assert (error.status, error.fault, error.reason) == (status, whose, reason)
                assert str(status) in str(error)
                assert "because" in str(error)

    site.run(scenario)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"{}", b"[]", b"signed", b'{"signData":null}', b'{"signData":""}', b'{"signData":7}', b"\xff\xfe",
        b'{"signData":{"signData":"x"}}', b'{"signData":["x"]}', b'{"signdata":"x"}', b'{"signData":"x"',
        b'{"signData":"\\ud800"}', b'["signData"]', b"[" * 100_000, b'{"signData":"' + b"x" * ANSWER_MAX + b'"}',
    ],
    ids=lambda body: body[:20].decode("latin-1"),
)  # fmt: skip
def test_200_without_a_usable_signature(site: Site, body: bytes) -> None:
    """A 200 that holds no signature is charged to the file and tried again; no answer breaks the program."""

    async def scenario() -> None:
        async with site.peer(answer("200 OK", body)) as peer, site.signer(peer.port) as signer:
            error = await fault(signer)
            assert (error.fault, error.reason) == (Fault.ANSWER, "no_signature")
            assert len(str(error)) < DETAIL_MAX + 100

    site.run(scenario)


def test_kept_text_of_a_refusal_is_bounded(site: Site) -> None:
    """Of a long answer the first 500 bytes are kept, on one line, whatever bytes they are."""

    async def scenario() -> None:
        body = b"reason\xff" + b"x" * 10_000
        async with site.peer(answer("422 No", body)) as peer, site.signer(peer.port) as signer:
            error = await fault(signer)
            assert "reason\ufffdxxx" in str(error)
            assert len(str(error)) < DETAIL_MAX + 50

    site.run(scenario)


def test_endless_answer_is_cut(site: Site) -> None:
    """An answer without end costs a bounded time and memory, and its connection is not used again."""
    sent = 0

    async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n")
        while sent < 2**30 and not writer.transport.is_closing():
            writer.write(b" " * 65536)
            sent += 65536
            await writer.drain()
            await asyncio.sleep(0)

    async def scenario() -> None:
        async with site.peer(endless) as peer, site.signer(peer.port) as signer:
            error = await fault(signer)
            assert (error.fault, error.reason) == (Fault.ANSWER, "no_signature")
            peer.answers = [signed()]
            assert (await signer.sign_bytes(b"next")).text
            assert peer.connections == 2

    site.run(scenario)
    assert sent < 64 * 2**20


def test_redirects_are_not_followed(site: Site) -> None:
    """A redirect is a fault of the service: the content goes nowhere but to the configured address."""

    async def scenario() -> None:
        async with site.peer(signed()) as other:
            elsewhere = f"Location: https://localhost:{other.port}/api/v1/sign_file"
            for status in ("301 Moved", "307 Temporary Redirect", "308 Permanent Redirect"):
                async with site.peer(answer(status, b"", elsewhere)) as peer, site.signer(peer.port) as signer:
                    assert (await fault(signer)).fault is Fault.SERVICE
                    assert len(peer.received) == 1
            assert other.connections == 0

    site.run(scenario)


def test_retry_after(site: Site) -> None:
    """The wait that the service asks for is handed on, as seconds or as a date; what is neither is passed over."""

    async def scenario() -> None:
        later = email.utils.formatdate(time.time() + 90, usegmt=True)
        values = ["120", " 7 ", later, "0", "soon", "-5", "1.5", "Thu, 01 Jan 1970 00:00:00 GMT"]
        answers = [answer("503 Busy", b"", f"Retry-After: {value}") for value in values]
        async with site.peer(*answers, answer("503 Busy")) as peer, site.signer(peer.port) as signer:
            waits = [(await fault(signer)).retry_after for _ in range(len(values) + 1)]
        assert waits[:2] == [120.0, 7.0]
        assert waits[2] is not None
        assert 85 < waits[2] < 95
        assert waits[3:] == [0.0, None, None, None, 0.0, None]

    site.run(scenario)


@settings(max_examples=300)
@given(
    st.one_of(
        st.text(max_size=30),
        st.integers(0, 10**30).map(str),
        st.from_regex(r"[0-9²٣]{1,4}", fullmatch=True),
        st.from_regex(
            r"Mon, [0-9]{1,2} (Jan|Feb) [0-9]{1,5} [0-9]{1,2}:[0-9]{2}:[0-9]{2} ([+-][0-9]{1,20}|GMT)", fullmatch=True
        ),
    )
)
def test_no_retry_after_breaks_the_program(value: str) -> None:
    """Whatever stands in the header gives seconds from nothing up, or none."""
    wait = retry_after_seconds(value)
    assert wait is None or wait >= 0


@pytest.mark.parametrize("off", [-3600, 3600])
def test_clock_skew_is_named(site: Site, off: int) -> None:
    """A 401 from a service whose clock is far off ours is blamed on the clock, with the seconds."""

    async def scenario() -> None:
        date = f"Date: {email.utils.formatdate(time.time() - off, usegmt=True)}"
        async with site.peer(answer("401 Unauthorized", b"", date)) as peer, site.signer(peer.port) as signer:
            error = await fault(signer)
            assert (error.fault, error.reason) == (Fault.CREDENTIALS, "clock_skew")
            named = re.search(r"clock is ([+-]\d+) s off", str(error))
            assert named is not None
            assert abs(int(named[1]) - off) < 5
            assert signer.clock_skew_seconds is not None
            assert abs(signer.clock_skew_seconds - off) < 5

    site.run(scenario)


@pytest.mark.parametrize("date", ["now", "rubbish", "Mon, 01 Jan 2024 00:00:00 +99999999999999", ""])
def test_no_skew_is_named_where_there_is_none(site: Site, date: str) -> None:
    """With clocks that agree, or a date that is none, a 401 is the credentials' fault."""

    async def scenario() -> None:
        text = email.utils.formatdate(usegmt=True) if date == "now" else date
        async with site.peer(answer("401 No", b"", f"Date: {text}")) as peer, site.signer(peer.port) as signer:
            assert (await fault(signer)).reason == "credentials"

    site.run(scenario)


def test_nginx_says_400_for_a_refused_certificate(site: Site) -> None:
    """The 400 of nginx about the client's certificate is the credentials' fault and not the file's."""
    body = b"<html><head><title>400 The SSL certificate error</title></head></html>"

    async def scenario() -> None:
        async with site.peer(answer("400 Bad Request", body)) as peer, site.signer(peer.port) as signer:
            assert (await fault(signer)).fault is Fault.CREDENTIALS

    site.run(scenario)


# Connections


def test_nobody_listens(site: Site) -> None:
    """A refused connection is the service's fault, and the message says so."""

    async def scenario() -> None:
        async with site.peer(signed()) as peer:
            port = peer.port
        async with site.signer(port) as signer:
            error = await fault(signer)
            assert (error.fault, error.reason) == (Fault.SERVICE, "unreachable")
            with pytest.raises(SigningError) as caught:
                await signer.handshake()
            assert (caught.value.fault, caught.value.reason) == (Fault.SERVICE, "unreachable")

    site.run(scenario)


def test_unknown_host(site: Site) -> None:
    """A name that nobody knows is the service's fault."""

    async def scenario() -> None:
        async with site.signer(1, url="https://no-such-host.invalid") as signer:
            error = await fault(signer)
            assert (error.fault, error.reason) == (Fault.SERVICE, "unreachable")

    site.run(scenario)


async def half_an_answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"signData":"half')
    await writer.drain()


async def rubbish(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
    await writer.drain()


async def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    transport = writer.transport
    assert isinstance(transport, asyncio.Transport)
    transport.abort()


@pytest.mark.parametrize("cut", [None, half_an_answer, rubbish, reset], ids=["no answer", "half", "rubbish", "reset"])
def test_cut_connection(site: Site, cut: Callable[..., Awaitable[None]] | None) -> None:
    """A connection cut before, in or instead of an answer is the service's fault; half a signature is none."""

    async def scenario() -> None:
        async with site.peer(cut) as peer, site.signer(peer.port) as signer:
            error = await fault(signer)
            assert (error.fault, error.reason) == (Fault.SERVICE, "unreachable")

    site.run(scenario)


def test_no_answer_in_time(site: Site) -> None:
    """A service that takes the request and says nothing is given up after the time limit, as its own fault."""

    async def silence(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async def scenario() -> None:
        async with site.peer(silence) as peer, site.signer(peer.port, timeout_seconds=0.3) as signer:
            started = time.monotonic()
            error = await fault(signer)
            assert time.monotonic() - started > 0.25
            assert (error.fault, error.reason) == (Fault.SERVICE, "unreachable")
            assert "0.3 s" in str(error)

    site.run(scenario)


def test_time_limit_is_for_progress_not_for_the_size(site: Site) -> None:
    """A large file may take many times the limit, as long as it goes on."""
    path = site.directory / "large"
    size = 24_000_000
    path.write_bytes(bytes(size))

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = esauth.body_length(size)
        while left:
            left -= len(await reader.read(65536))
            await asyncio.sleep(0.008)
        writer.write(signed())
        await writer.drain()

    async def scenario() -> None:
        async with site.peer(slow) as peer, site.signer(peer.port, timeout_seconds=2) as signer:
            with opened(path) as drop:
                request = await asyncio.to_thread(signer.prepare_stream, drop.read_at, size)
                started = time.monotonic()
                await signer.send(request)
                assert time.monotonic() - started > 2.1, "too fast to show anything"

    site.run(scenario)


def test_connection_that_the_service_closed_while_idle_is_not_used_again(site: Site) -> None:
    """A kept connection that the service closed meanwhile costs no attempt: the next request makes a new one."""

    async def scenario() -> None:
        async with site.peer(signed()) as peer, site.signer(peer.port) as signer:
            for number in range(1, 6):
                await signer.sign_bytes(b"content")
                assert peer.connections == number
                peer.writers[-1].close()
                await asyncio.sleep(0.05)

    site.run(scenario)


# TLS


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_client_certificate_that_is_refused(site: Site, tmp_path: Path, version: ssl.TLSVersion) -> None:
    """A service that does not accept our certificate is said so, as a matter of credentials, in either TLS version."""
    stranger = Authority(tmp_path / "stranger").issue("client")
    refused = Site(site.directory, site.authority, site.server, stranger)
    context = site.context()
    context.minimum_version = context.maximum_version = version
    listening = socket.create_server(("127.0.0.1", 0))
    heard: list[bytes] = []

    def serve() -> None:  # a plain socket, as asyncio closes a connection without the alert that says why
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection, suppress(OSError), context.wrap_socket(connection, server_side=True) as wrapped:
                heard.append(wrapped.recv(1))

    thread = threading.Thread(target=serve)
    thread.start()

    async def scenario() -> None:
        async with refused.signer(listening.getsockname()[1]) as signer:
            with pytest.raises(SigningError) as caught:
                await signer.handshake()
            assert (caught.value.fault, caught.value.reason) == (Fault.CREDENTIALS, "credentials")
            for _ in range(20):
                error = await fault(signer)
                assert (error.fault, error.reason) == (Fault.CREDENTIALS, "credentials"), error

    try:
        site.run(scenario)
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()
    assert heard == []


def test_server_that_we_do_not_trust(site: Site, tmp_path: Path) -> None:
    """A server certified by somebody else gets nothing from us, and the message names the keys to look at."""
    impostor = Authority(tmp_path / "impostor").issue("localhost", server=True)
    theirs = Site(site.directory, site.authority, impostor, site.client)

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        async with theirs.peer(signed()) as peer, site.signer(peer.port) as signer:
            error = await fault(signer)
            assert (error.fault, error.reason) == (Fault.SERVICE, "tls")
            assert "tls.authority" in str(error)
            with pytest.raises(SigningError) as caught:
                await signer.handshake()
            assert (caught.value.fault, caught.value.reason) == (Fault.SERVICE, "tls")
            assert peer.received == []

    site.run(scenario)


def test_server_of_another_name(site: Site) -> None:
    """A trusted certificate for another host is not enough."""
    other = Site(site.directory, site.authority, site.authority.issued("some-client"), site.client)

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        async with other.peer(signed()) as peer, site.signer(peer.port) as signer:
            error = await fault(signer)
            assert (error.fault, error.reason) == (Fault.SERVICE, "tls")
            assert peer.received == []

    site.run(scenario)


def test_server_without_tls(site: Site) -> None:
    """Something that speaks no TLS is the service's fault, and gets nothing from us."""

    async def scenario() -> None:
        received = bytearray()

        async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            received.extend(await reader.read(65536))
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(plain, "localhost", 0)
        async with site.signer(server.sockets[0].getsockname()[1]) as signer:
            error = await fault(signer, b"very secret content")
            assert error.fault is Fault.SERVICE
        server.close()
        assert b"POST" not in received

    site.run(scenario)


def test_handshake_that_works_says_nothing(site: Site) -> None:
    """A trial handshake that works returns, and asks nothing of the service."""

    async def scenario() -> None:
        async with site.peer(signed()) as peer, site.signer(peer.port) as signer:
            await signer.handshake()
            assert peer.received == []

    site.run(scenario)


def test_renewal_drops_no_request(site: Site) -> None:
    """Credentials are exchanged while requests are on their way: those end as they began, later ones use the new."""
    started = asyncio.Event()
    may_answer = asyncio.Event()

    async def slow(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        started.set()
        await may_answer.wait()
        writer.write(signed("old"))
        await writer.drain()

    async def scenario() -> None:
        newer = Site(site.directory, site.authority, site.server, site.authority.issue("renewed"))
        async with site.peer(slow, signed("new")) as peer, site.signer(peer.port) as signer:
            async with newer.signer(peer.port) as other:
                identity = credentials.Credentials(other._context, esauth.Application("new key", SECRET), {}, (), ())
            on_its_way = asyncio.create_task(signer.sign_bytes(b"content"))
            await started.wait()
            await signer.renew(identity)
            assert (await signer.sign_bytes(b"content")).text == b"new"
            may_answer.set()
            assert (await on_its_way).text == b"old"
            assert [received.header("es-auth-appkey") for received in peer.received] == ["key", "new key"]
            names = [writer.get_extra_info("peercert")["subject"][0][0][1] for writer in peer.writers]
            assert names == ["client", "renewed"]

    site.run(scenario)
