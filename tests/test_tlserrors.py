"""Why no answer came (tlserrors.py, and signer.py above it): whose fault, in words, against servers that fail."""

import asyncio
import gc
import ssl
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from dropsign import config, credentials
from dropsign.embedded.authority import Authority, Issued
from dropsign.errors import Fault, SigningError
from dropsign.signer import Request, Signer

SECRET = "the secret"
SIGNED = b'HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{"signData":"c2k"}'

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Peers:
    """Our credentials, and servers of the same authority that behave as they are told."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = Authority(directory / "authority")
        self.server = self.authority.issue("localhost", server=True)
        self.client = self.authority.issue("client")

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server.certificate, self.server.private_key)
        context.load_verify_locations(self.authority.certificate)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    @asynccontextmanager
    async def signer(
        self, serve: Serve, *, context: ssl.SSLContext | None = None, client: Issued | None = None
    ) -> AsyncIterator[Signer]:
        """Give a signer that asks such a server."""
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # what a server says of refused clients
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context or self.context())
        signer = self.asking(server.sockets[0].getsockname()[1], client or self.client)
        try:
            yield signer
        finally:
            await signer.close()
            server.close()
            await asyncio.sleep(0.01)  # aiohttp closes its transports a moment later

    def asking(self, port: int, client: Issued) -> Signer:
        secret = self.directory / "secret"
        secret.write_text(SECRET)
        secret.chmod(0o600)
        tables = {
            "outbox": {"path": "/"},
            "service": {"url": f"https://localhost:{port}", "app_key": "key", "app_secret_file": str(secret)},
            "tls": {
                "certificate": str(client.certificate),
                "private_key": str(client.private_key),
                "authority": str(self.authority.certificate),
            },
        }
        configuration = config.parse(tables, {}, base=self.directory, source="test")
        return Signer(configuration.service, credentials.load(configuration, {}))


@pytest.fixture
def peers(tmp_path: Path) -> Peers:
    return Peers(tmp_path)


async def fault(signer: Signer) -> SigningError:
    with pytest.raises(SigningError) as caught:
        await signer.sign_bytes(b"content" * 1000)
    return caught.value


async def read_request(reader: asyncio.StreamReader) -> None:
    await reader.readuntil(b'"}')


async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve the first request of a connection, and cut it when a second one begins."""
    await read_request(reader)
    writer.write(SIGNED)
    await reader.read(1)
    writer.transport.abort()


async def silent_cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.abort()


def assert_in_words(error: SigningError) -> None:
    """Check that nothing of a library's inside shows."""
    text = str(error)
    assert not any(word in text for word in ("Error", "Exception", "Errno", "ssl:", "_ssl.c", "aiohttp", "None")), text


def test_a_client_certificate_that_is_refused_without_a_word(peers: Peers) -> None:
    """A server that cuts the connection instead of saying that it refuses our certificate is understood all the same.

    asyncio's do so: in TLS 1.3 our side of the handshake has succeeded by then.
    """
    foreign = Authority(peers.directory / "foreign").issue("client")

    async def scenario() -> None:
        async with peers.signer(answer_once, client=foreign) as signer:
            for _ in range(5):
                error = await fault(signer)
                assert (error.fault, error.reason) == (Fault.CREDENTIALS, "credentials"), error
                assert "tls.certificate" in str(error)
                assert_in_words(error)
            with pytest.raises(SigningError) as caught:
                await signer.handshake()
            assert caught.value.reason == "credentials"

    asyncio.run(asyncio.wait_for(scenario(), 40))


def test_a_service_that_cuts_requests_has_not_refused_our_certificate(peers: Peers) -> None:
    """A new connection that is cut by a server that takes our certificate is an outage, and may be load."""

    async def scenario() -> None:
        async with peers.signer(silent_cut) as signer:
            error = await fault(signer)
            assert (error.fault, error.reason, error.passing) == (Fault.SERVICE, "unreachable", True)
            assert not error.stale
            assert_in_words(error)

    asyncio.run(asyncio.wait_for(scenario(), 40))


def test_a_kept_connection_that_is_cut_was_never_asked(peers: Peers) -> None:
    """A connection that had served and is cut when it is used again says so: the request may go again at once."""

    async def scenario() -> None:
        async with peers.signer(answer_once) as signer:
            for _ in range(3):
                assert (await signer.sign_bytes(b"content")).text == b"c2k"
                assert (await fault(signer)).stale

    asyncio.run(asyncio.wait_for(scenario(), 40))


def _only_tls_1_1(context: ssl.SSLContext) -> None:
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1_1
        context.maximum_version = ssl.TLSVersion.TLSv1_1


def _other_ciphers(context: ssl.SSLContext) -> None:
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("NULL:@SECLEVEL=0")


@pytest.mark.parametrize("weaken", [_only_tls_1_1, _other_ciphers])
def test_no_agreement_on_tls_is_not_our_certificates_fault(
    peers: Peers, weaken: Callable[[ssl.SSLContext], None]
) -> None:
    """A server that speaks only what is not safe any more is told so; its alert is no matter of credentials."""

    async def scenario() -> None:
        context = peers.context()
        weaken(context)
        async with peers.signer(answer_once, context=context) as signer:
            error = await fault(signer)
            # asyncio's server may cut the connection before its alert is out.
            assert error.fault is Fault.SERVICE
            assert error.reason in {"tls", "unreachable"}
            assert_in_words(error)

    asyncio.run(asyncio.wait_for(scenario(), 40))


def test_lost_requests_leave_nothing_behind(peers: Peers) -> None:
    """The errors of requests that were lost hold none of them, and so none of their bodies, in knots."""

    async def lose(signer: Signer) -> None:
        with suppress(SigningError):  # pytest.raises would hold the error itself
            await signer.sign_bytes(b"content" * 1000)

    async def scenario() -> int:
        async with peers.signer(silent_cut) as signer:
            await lose(signer)
            gc.disable()
            gc.collect()
            gc.set_debug(gc.DEBUG_SAVEALL)
            try:
                for _ in range(5):
                    await lose(signer)
                gc.collect()
                return sum(isinstance(item, Request) for item in gc.garbage)
            finally:
                gc.enable()
                gc.set_debug(0)
                gc.garbage.clear()

    assert asyncio.run(asyncio.wait_for(scenario(), 40)) == 0
