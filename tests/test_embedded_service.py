"""The embedded signing service is as strict as protocol.md, signs for real, and misbehaves as it is told."""

import asyncio
import base64
import hashlib
import io
import json
import random
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from dropsign.embedded.authority import Authority, Issued
from dropsign.embedded.checks import WINDOW_MS, Nonces, RefusedError
from dropsign.embedded.faults import KINDS, Behaviour, Faults, parse_delay
from dropsign.embedded.service import SIGN_PATH, ServerTls, SigningService
from dropsign.embedded.workshop import Workshop
from dropsign.errors import ConfigurationError, CredentialsError
from dropsign.esauth import Application, new_nonce
from dropsign.verifier import Verifier

CONTENT = bytes(range(256)) * 5


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop.at(tmp_path_factory.mktemp("service"))


def client_context(authority: Path, client: Issued | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cafile=authority)
    if client is not None:
        context.load_cert_chain(client.certificate, client.private_key)
    return context


@dataclass
class Client:
    """A client that shares no code with the service: it does what protocol.md says, word for word."""

    session: aiohttp.ClientSession
    url: str
    application: Application
    service: SigningService

    def request(self, content: bytes, *, at: float = 0.0, nonce: str | None = None) -> tuple[bytes, dict[str, str]]:
        body = json.dumps({"data": base64.b64encode(content).decode()}, separators=(",", ":"))
        nonce, timestamp = nonce or new_nonce(), str(int((time.time() + at) * 1000))
        text = f"POST{SIGN_PATH}es-auth-appkey:{self.application.key}es-auth-nonce:{nonce}"
        text += f"es-auth-timestamp:{timestamp}json={body}{self.application.secret}"
        return body.encode(), {
            "Content-Type": "application/json",
            "es-auth-appkey": self.application.key,
            "es-auth-nonce": nonce,
            "es-auth-timestamp": timestamp,
            "es-auth-sign": hashlib.sha256(quote(text, safe="").encode()).hexdigest(),
        }

    async def post(self, body: Any, headers: dict[str, str], path: str = SIGN_PATH) -> tuple[int, Any, Any]:
        """Send a request; return status, headers and JSON."""
        body = io.BytesIO(body) if isinstance(body, bytes) else body
        async with self.session.post(self.url + path, data=body, headers=headers, allow_redirects=False) as answer:
            text = await answer.read()
            return answer.status, answer.headers, json.loads(text) if text.startswith(b"{") else text

    async def sign(self, content: bytes) -> tuple[int, Any, Any]:
        return await self.post(*self.request(content))


@asynccontextmanager
async def serving(workshop: Workshop, client: Issued | None = None, **options: Any) -> AsyncIterator[Client]:
    files = workshop.files()
    service = SigningService(
        tls=files.tls, signing_key_path=files.signing_key, application=files.application(), **options
    )
    port = await service.start("127.0.0.1", 0)
    context = client_context(workshop.authority, client or workshop.client)
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
            yield Client(session, f"https://localhost:{port}", files.application(), service)
    finally:
        await service.stop()


def serve(workshop: Workshop, talk: Callable[[Client], Awaitable[None]], **options: Any) -> SigningService:
    async def main() -> SigningService:
        async with serving(workshop, **options) as client:
            await talk(client)
        return client.service

    return asyncio.run(main())


def verifier(workshop: Workshop) -> Verifier:
    return Verifier.load(workshop.public_key, "ecdsa-sha256")


# --- What is in order ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 2, 3, 1024, 200_000, 5 * 1024 * 1024 + 1])
def test_signs(workshop: Workshop, size: int) -> None:
    """Files of any size get a signature that the service's public key verifies, and the answer has a date."""
    content = random.Random(size).randbytes(size)

    async def talk(client: Client) -> None:
        status, headers, answer = await client.sign(content)
        assert status == 200
        assert list(answer) == ["signData"]
        assert verifier(workshop).verify_content(answer["signData"].encode(), content)
        assert "Date" in headers

    assert serve(workshop, talk).counts == {"signed": 1}


def test_body_in_pieces(workshop: Workshop) -> None:
    """A body that comes in pieces of any length, without Content-Length, is the same body."""

    async def talk(client: Client) -> None:
        body, headers = client.request(CONTENT)

        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(body), 7):
                yield body[start : start + 7]
                await asyncio.sleep(0)

        status, _, answer = await client.post(pieces(), headers)
        assert status == 200
        assert verifier(workshop).verify_content(answer["signData"].encode(), CONTENT)

    serve(workshop, talk)


def test_log(workshop: Workshop, tmp_path: Path) -> None:
    """Each request leaves one line that says which content it was, and what it came to."""
    log = tmp_path / "log"

    async def talk(client: Client) -> None:
        await client.sign(b"one")
        body, headers = client.request(b"two")
        await client.post(body, headers | {"es-auth-sign": "0" * 64})

    serve(workshop, talk, log_path=log)
    one, two = map(json.loads, log.read_text().splitlines())
    assert (one["result"], one["status"], one["size"]) == ("signed", 200, 3)
    assert one["sha256"] == hashlib.sha256(b"one").hexdigest()
    assert (two["result"], two["status"], two["sha256"]) == ("unauthorized", 401, None)


def test_many_at_once(workshop: Workshop) -> None:
    """Requests side by side, small ones among a large one, all get their own signatures."""
    contents = [bytes([number]) * 1000 for number in range(60)] + [bytes(20_000_000)]

    async def talk(client: Client) -> None:
        answers = await asyncio.gather(*(client.sign(content) for content in contents))
        for content, (status, _, answer) in zip(contents, answers, strict=True):
            assert status == 200
            assert verifier(workshop).verify_content(answer["signData"].encode(), content)

    assert serve(workshop, talk).counts == {"signed": len(contents)}


# --- Who is let in ---------------------------------------------------------------------------------------------


def refused_handshake(workshop: Workshop, context: ssl.SSLContext) -> None:
    async def talk(client: Client) -> None:
        body, headers = client.request(CONTENT)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
            with pytest.raises((aiohttp.ClientError, ssl.SSLError, OSError)):
                await session.post(client.url + SIGN_PATH, data=body, headers=headers)

    assert serve(workshop, talk).counts == {}


def test_no_client_certificate(workshop: Workshop) -> None:
    """Without a client certificate nobody gets as far as a request."""
    refused_handshake(workshop, client_context(workshop.authority, None))


def test_someone_elses_authority(workshop: Workshop, tmp_path: Path) -> None:
    """A client certificate of another authority is refused, even one of the same name."""
    refused_handshake(workshop, client_context(workshop.authority, Authority(tmp_path).issue("client")))


@pytest.mark.parametrize("when", [{"days": -1}, {"starts_in_days": 1}], ids=["expired", "not yet"])
def test_dates(workshop: Workshop, when: dict[str, float]) -> None:
    """A certificate that holds no more, or not yet, is refused."""
    client = Authority(workshop.directory).issue("late", **when)  # type: ignore[arg-type]
    refused_handshake(workshop, client_context(workshop.authority, client))


def test_server_certificate_is_no_client(workshop: Workshop) -> None:
    """A certificate that was issued for a server does not do for a client."""
    refused_handshake(workshop, client_context(workshop.authority, workshop.server))


def test_chain(workshop: Workshop) -> None:
    """A client certificate of an intermediate authority comes with its chain, and is let in."""
    client = Authority(workshop.directory).intermediate("below").issue("client")
    assert client.certificate.read_text().count("BEGIN CERTIFICATE") == 2

    async def talk(client: Client) -> None:
        assert (await client.sign(CONTENT))[0] == 200

    serve(workshop, talk, client=client)


def test_answer_to_a_request(workshop: Workshop, tmp_path: Path) -> None:
    """What keygen makes and the authority answers lets a client in."""
    from dropsign import keys

    private_key, request = keys.write_pair(tmp_path, "some-name")
    certificate = Authority(workshop.directory).answer(request)

    async def talk(client: Client) -> None:
        assert (await client.sign(CONTENT))[0] == 200

    serve(workshop, talk, client=Issued(certificate, private_key))


# --- What is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"es-auth-sign": "0" * 64}, "es-auth-sign does not fit"),
        ({"es-auth-sign": None}, "es-auth-sign is missing"),
        ({"es-auth-appkey": "other"}, "es-auth-appkey is unknown"),
        ({"es-auth-appkey": None}, "es-auth-appkey is missing"),
        ({"es-auth-nonce": "short"}, "es-auth-nonce is not"),
        ({"es-auth-nonce": "0123456789abcde-"}, "es-auth-nonce is not"),
        ({"es-auth-nonce": "0123456789abcdef"}, "es-auth-sign does not fit"),
        ({"es-auth-timestamp": "now"}, "es-auth-timestamp is not"),
        ({"es-auth-timestamp": "9" * 5000}, "es-auth-timestamp is not"),
        ({"es-auth-timestamp": "1700000000000"}, "es-auth-timestamp is more than 5 minutes off"),
    ],
)
def test_bad_authentication(workshop: Workshop, changed: dict[str, str | None], says: str) -> None:
    """Each header of es-auth must be there and right; if not the answer is 401 and says which."""

    async def talk(client: Client) -> None:
        body, headers = client.request(CONTENT)
        wanted = {name: value for name, value in (headers | changed).items() if value is not None}
        status, _, answer = await client.post(body, wanted)
        assert status == 401
        assert says in answer["error"]

    assert serve(workshop, talk).counts == {"unauthorized": 1}


@pytest.mark.parametrize(("off", "status"), [(-310, 401), (310, 401), (-290, 200), (290, 200)])
def test_timestamps(workshop: Workshop, off: float, status: int) -> None:
    """A request properly signed is taken within five minutes of its timestamp, and not beyond."""

    async def talk(client: Client) -> None:
        assert (await client.post(*client.request(CONTENT, at=off)))[0] == status

    serve(workshop, talk)


def test_replay(workshop: Workshop) -> None:
    """The same request again, or another with the same nonce, is refused; a wrong one uses no nonce up."""

    async def talk(client: Client) -> None:
        body, headers = client.request(CONTENT)
        assert (await client.post(body, headers | {"es-auth-sign": "0" * 64}))[0] == 401
        assert (await client.post(body, headers))[0] == 200
        for again in (body, headers), client.request(b"other", nonce=headers["es-auth-nonce"]):
            status, _, answer = await client.post(*again)
            assert status == 401
            assert "used before" in answer["error"]

    assert serve(workshop, talk).counts == {"signed": 1, "unauthorized": 3}


def test_replay_side_by_side(workshop: Workshop) -> None:
    """Of two copies of a request at the same time, one is signed."""

    async def talk(client: Client) -> None:
        body, headers = client.request(bytes(2_000_000))
        answers = await asyncio.gather(*(client.post(body, headers) for _ in range(4)))
        assert sorted(status for status, _, _ in answers) == [200, 401, 401, 401]

    serve(workshop, talk)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"hello",
        b'{"data":""',
        b'{"data":"YWJj',
        b'{"data":"YWJj"} ',
        b'{"data": "YWJj"}',
        b'{"data":"YWJ"}',
        b'{"data":"YW=="YW=="}',
        b'{"data":"YQ==YQ=="}',
        b'{"data":"Y W J j "}',
        b'{"data":"YW\\nj"}',
        b'{"data":"YW-_"}',
        b'{"data":null}',
        b'{"data":"YWJj","more":1}',
        b'{"data":"' + b"Y" * 200_000 + b'!!!!"}',
    ],
)
def test_bad_bodies(workshop: Workshop, body: bytes) -> None:
    """A body that is not exactly as in protocol.md gets 400, with a reason in JSON."""

    async def talk(client: Client) -> None:
        _, headers = client.request(CONTENT)
        status, _, answer = await client.post(body, headers)
        assert status == 400
        assert answer["error"]

    assert serve(workshop, talk).counts == {"bad_request": 1}


def test_wrong_places(workshop: Workshop) -> None:
    """Another path, method or content type is refused with its own status."""

    async def talk(client: Client) -> None:
        body, headers = client.request(CONTENT)
        assert (await client.post(body, headers, "/elsewhere"))[0] == 404
        assert (await client.post(body, headers, SIGN_PATH + "?a=b"))[0] == 404
        assert (await client.post(body, headers | {"Content-Type": "text/plain"}))[0] == 415
        async with client.session.get(client.url + SIGN_PATH) as answer:
            assert answer.status == 405

    serve(workshop, talk)


@pytest.mark.parametrize("announced", [True, False])
def test_too_large(workshop: Workshop, announced: bool) -> None:
    """Content over the limit gets 413, whether or not its length was announced; content at the limit is signed."""

    async def talk(client: Client) -> None:
        async def unannounced(body: bytes) -> AsyncIterator[bytes]:
            yield body

        for size, expected in (1000, 200), (1003, 413), (100_000, 413):
            body, headers = client.request(bytes(size))
            assert (await client.post(body if announced else unannounced(body), headers))[0] == expected

    assert serve(workshop, talk, max_bytes=1000).counts == {"signed": 1, "too_large": 2}


def test_max_in_flight(workshop: Workshop) -> None:
    """Over the limit of requests in flight the answer is 429, with the time after which to come again."""

    async def talk(client: Client) -> None:
        answers = await asyncio.gather(*(client.sign(CONTENT) for _ in range(5)))
        assert sorted(status for status, _, _ in answers) == [200, 200, 429, 429, 429]
        assert {headers["Retry-After"] for status, headers, _ in answers if status == 429} == {"1"}
        assert (await client.sign(CONTENT))[0] == 200

    counts = serve(workshop, talk, max_in_flight=2, delay_seconds=0.3).counts
    assert counts == {"signed": 3, "overloaded": 3}


# --- Misbehaviour ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 404, 418, 429, 500, 503, 599])
def test_fault_status(workshop: Workshop, status: int) -> None:
    """Any error status can be rehearsed."""

    async def talk(client: Client) -> None:
        got, headers, answer = await client.sign(CONTENT)
        assert got == status
        assert answer["error"]
        assert headers.get("Retry-After") == ("1" if status in {429, 503} else None)

    assert serve(workshop, talk, faults=Faults.parse(f"{status}:100%")).counts == {str(status): 1}


def test_fault_badsig(workshop: Workshop) -> None:
    """A bad signature looks like a good one, and does not verify."""

    async def talk(client: Client) -> None:
        status, _, answer = await client.sign(CONTENT)
        assert status == 200
        assert base64.b64decode(answer["signData"], validate=True)
        assert not verifier(workshop).verify_content(answer["signData"].encode(), CONTENT)

    serve(workshop, talk, faults=Faults.parse("badsig"))


@pytest.mark.parametrize(
    ("fault", "status", "begins", "length"),
    [
        ("null", 200, b'{"signData":null}', 17),
        ("text", 200, b"error: ", 43),
        ("halfjson", 200, b'{"signData":"', 19),
        ("bigbody", 200, b'{"signData":"AAAA', 10 * 1024 * 1024 + 15),
        ("redirect", 302, b"", 0),
    ],
)
def test_fault_answers(workshop: Workshop, fault: str, status: int, begins: bytes, length: int) -> None:
    """Answers without a usable signature can be rehearsed."""

    async def talk(client: Client) -> None:
        body, headers = client.request(CONTENT)
        async with client.session.post(
            client.url + SIGN_PATH, data=body, headers=headers, allow_redirects=False
        ) as answer:
            text = await answer.read()
            assert answer.status == status
            assert text.startswith(begins)
            assert len(text) == length
            assert ("Location" in answer.headers) == (fault == "redirect")

    assert serve(workshop, talk, faults=Faults.parse(fault)).counts == {fault: 1}


def test_fault_reset(workshop: Workshop, tmp_path: Path) -> None:
    """A reset cuts the connection; the log tells that the content had arrived."""

    async def talk(client: Client) -> None:
        with pytest.raises(aiohttp.ClientError):
            await client.sign(CONTENT)

    log = tmp_path / "log"
    assert serve(workshop, talk, faults=Faults.parse("reset"), log_path=log).counts == {"reset": 1}
    assert json.loads(log.read_text())["sha256"] == hashlib.sha256(CONTENT).hexdigest()


@pytest.mark.parametrize("fault", ["hang", "slowloris"])
def test_fault_no_end(workshop: Workshop, fault: str) -> None:
    """An answer that never comes, or never ends, can be rehearsed, and does not keep the service from stopping."""

    async def talk(client: Client) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.3):
                await client.sign(CONTENT)
        waiting = asyncio.create_task(client.sign(CONTENT))
        await asyncio.sleep(0.3)
        await client.service.stop()
        with pytest.raises(aiohttp.ClientError):
            await waiting

    assert serve(workshop, talk, faults=Faults.parse(fault)).counts == {fault: 2}


def test_every_fault_is_tested() -> None:
    """All kinds of faults have their test above."""
    assert set(KINDS) == {
        "hang",
        "reset",
        "badsig",
        "null",
        "text",
        "halfjson",
        "bigbody",
        "slowloris",
        "redirect",
    }


def test_delay(workshop: Workshop) -> None:
    """The service thinks as long as it is told, about all requests at the same time."""

    async def talk(client: Client) -> None:
        started = time.monotonic()
        await asyncio.gather(*(client.sign(CONTENT) for _ in range(20)))
        assert 0.5 <= time.monotonic() - started < 10, "one after the other they would take that long"

    serve(workshop, talk, delay_seconds=0.5)


def test_faults_file(workshop: Workshop, tmp_path: Path) -> None:
    """A faults file changes faults and delay of a running service; a bad one changes nothing, none is back to start."""
    path = tmp_path / "faults"

    def write(text: str) -> None:
        (tmp_path / "new").write_text(text)
        (tmp_path / "new").rename(path)

    async def talk(client: Client) -> None:
        async def status() -> int:
            await asyncio.sleep(0.06)
            return (await client.sign(CONTENT))[0]

        assert await status() == 503
        write("fail 418:100%\n")
        assert await status() == 418
        write("fail nonsense\n")
        assert await status() == 418
        write("fail\ndelay 300ms\n")
        started = time.monotonic()
        assert await status() == 200
        assert time.monotonic() - started > 0.3
        path.unlink()
        assert await status() == 503

    serve(workshop, talk, faults=Faults.parse("503"), faults_file=path)


# --- Its parts -------------------------------------------------------------------------------------------------


def test_shares() -> None:
    """Over many requests the shares are those asked for."""
    faults, chance = Faults.parse("503:20%,hang:5%"), random.Random(1)
    chosen = [faults.choose(chance) for _ in range(20_000)]
    assert 0.19 < chosen.count("503") / len(chosen) < 0.21
    assert 0.045 < chosen.count("hang") / len(chosen) < 0.055
    assert Faults.parse("").choose(chance) is None


@pytest.mark.parametrize(
    "text", ["200:5%", "503:", "503:5", "503:x%", "503:101%", "hang:60%,503:50%", "hnag:5%", "600", "503:-5%", "٥٠٣:5%"]
)
def test_bad_faults(text: str) -> None:
    """Faults that cannot be are refused in one line that says what is right."""
    with pytest.raises(ConfigurationError, match=r"^--fail: [^\n]+$"):
        Faults.parse(text)


def test_delays() -> None:
    """A delay is a number with its unit."""
    assert [parse_delay(text) for text in ("20ms", "1.5s", ".5s", "0", "0ms")] == [0.02, 1.5, 0.5, 0, 0]
    for text in ("", "20", "-1s", "1m", "1 s", "nan"):
        with pytest.raises(ConfigurationError, match=r"--delay: .* such as 20ms or 1\.5s"):
            parse_delay(text)


def test_behaviour_lines() -> None:
    """A line that is neither fail nor delay is refused."""
    assert Behaviour().changed_by("delay 1s\n\nfail null:1%").delay_seconds == 1
    with pytest.raises(ConfigurationError, match="faults file: 'sleep 5'"):
        Behaviour().changed_by("sleep 5")


def test_nonces_are_bounded() -> None:
    """With too many nonces the oldest go, and requests as old as they are not taken any more."""
    nonces, now = Nonces(limit=100), 1_700_000_000_000
    for number in range(1000):
        nonces.take(f"{number:016}", now + number, now + number)
    assert len(nonces) == 100
    with pytest.raises(RefusedError):
        nonces.take("0" * 16, now, now + 1000)
    with pytest.raises(RefusedError, match="used before"):
        nonces.take(f"{999:016}", now + 1000, now + 1000)


def test_nonces_expire() -> None:
    """Nonces whose time is over are forgotten."""
    nonces, now = Nonces(), 1_700_000_000_000
    for number in range(1000):
        nonces.take(f"{number:016}", now, now)
    later = now + WINDOW_MS + 1
    for number in range(1000):
        nonces.take(f"x{number:015}", later, later)
    assert len(nonces) == 1000


def test_workshop_is_found_again(tmp_path: Path) -> None:
    """A second start finds what the first one made; keys are for their owner alone."""
    first = Workshop.at(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert Workshop.at(tmp_path) == first
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    secret = [path for path in tmp_path.iterdir() if path.name.endswith(".key.pem")] + [first.app_secret]
    assert len(secret) == 5
    assert {path.stat().st_mode & 0o777 for path in secret} == {0o600}


def test_credentials_that_do_not_fit(workshop: Workshop, tmp_path: Path) -> None:
    """Files that do not fit are named in one line before anything is served."""
    other = Authority(tmp_path).issue("server", server=True)
    for tls in (
        ServerTls(workshop.server.certificate, other.private_key, workshop.authority),
        ServerTls(tmp_path / "none.pem", other.private_key, workshop.authority),
        ServerTls(workshop.server.certificate, workshop.server.private_key, workshop.app_secret),
    ):
        with pytest.raises(CredentialsError, match=r"^[^\n]+$"):
            tls.context()


# --- The verb --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_verb(number: signal.Signals, code: int, tmp_path: Path) -> None:
    """`dropsign service --dir` says when it is ready, writes a configuration that loads, and ends on a signal."""
    command = [sys.executable, "-m", "dropsign", "service", "--dir", str(tmp_path / "x"), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            ready = process.stdout.readline()
            assert ready.startswith("ready: the signing service listens at https://localhost:")
            while "Try:" not in process.stdout.readline():
                pass
        finally:
            process.send_signal(number)
        assert process.wait(10) == code
    from dropsign import config

    loaded = config.load(tmp_path / "x" / "config.toml", {})
    assert loaded.service.url in ready
    assert loaded.outbox.path.is_dir()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give --dir DIR"),
        (["--dir", "{}", "--fail", "oops:1%"], "'oops' is no fault"),
        (["--dir", "{}", "--delay", "soon"], "'soon' is no duration"),
        (["--dir", "{}", "--listen", "8443"], "is not HOST:PORT"),
        (["--dir", "{}", "--listen", "192.0.2.1:1"], "cannot listen on 192.0.2.1:1"),
        (["--dir", "/proc/nowhere"], "/proc/nowhere"),
        (["--dir", "{}", "--signing-key", "/none.pem"], "/none.pem cannot be read"),
        (["--dir", "{}", "--app-secret-file", "/none"], "/none cannot be read"),
    ],
)
def test_verb_mistakes(arguments: list[str], says: str, tmp_path: Path) -> None:
    """Each mistake on the command line gets one line and exit code 2."""
    arguments = [argument.format(tmp_path) for argument in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "dropsign", "service", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
