"""The HTTP API: what it answers, to whom, what it refuses, and that nobody can disturb the signing through it."""

import http.client
import json
import os
import re
import socket
import stat
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dropsign.api import HEADERS, ROUTES
from dropsign.connections import CONNECTIONS_MOST
from tests.support.sandbox import SLOWNESS, Sandbox, free_port, wait_until

DOCS = Path(__file__).parent.parent / "docs"


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        """The body, which must be JSON."""
        assert self.headers["Content-Type"].startswith("application/json"), self.body
        return json.loads(self.body)


class Side:
    """The socket, or http.listen, as a client that sends just what it is told."""

    def __init__(self, where: Path | tuple[str, int]) -> None:
        self.where = where

    def connect(self) -> socket.socket:
        """Connect, and say nothing."""
        made = socket.socket(socket.AF_UNIX if isinstance(self.where, Path) else socket.AF_INET)
        made.settimeout(20 * SLOWNESS)
        made.connect(str(self.where) if isinstance(self.where, Path) else self.where)
        return made

    def call(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """Ask once; a header's name has _ for -."""
        connection = http.client.HTTPConnection("localhost")
        connection.sock = self.connect()
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()


@pytest.fixture
def sides(box: Sandbox) -> tuple[Side, Side]:
    """The socket and http.listen of a daemon that is yet to be started."""
    port = free_port()
    box.configure("http", listen=f"127.0.0.1:{port}")
    return Side(box.socket), Side(("127.0.0.1", port))


BAD = [
    ("GET", "/api/files", None, 400, "state must be one of"),
    ("GET", "/api/files?state=lost", None, 400, "state must be one of queued, deferred, signed, failed, refused"),
    ("GET", "/api/files?state=failed&limit=all", None, 400, "limit"),
    ("GET", "/api/files?state=failed&limit=-1", None, 400, "limit"),
    ("GET", "/api/files?state=failed&sort=size", None, 400, "'sort' is unknown"),
    ("GET", "/api/files?state=failed&state=signed", None, 400, "twice"),
    ("GET", "/api/status?verbose=1", None, 400, "'verbose' is unknown"),
    ("GET", "/api/nothing", None, 404, "Not Found"),
    ("GET", "/api/../../etc/passwd", None, 404, "Not Found"),
    ("DELETE", "/api/status", None, 405, "Method Not Allowed"),
    ("GET", "/api/retry", None, 405, "Method Not Allowed"),
    ("POST", "/api/status", b"{}", 405, "Method Not Allowed"),
    ("POST", "/api/retry", b"", 400, 'one of "paths", "below" and "all" must be given'),
    ("POST", "/api/retry", b"{", 400, "not JSON"),
    ("POST", "/api/retry", b"\xff\xfe", 400, "not JSON"),
    ("POST", "/api/retry", b"[" * 100_000, 400, "not JSON"),
    ("POST", "/api/retry", b"[]", 400, "not a JSON object"),
    ("POST", "/api/retry", b'{"paths": "a"}', 400, '"paths" must be a list'),
    ("POST", "/api/retry", b'{"paths": [1]}', 400, '"paths" must be a list'),
    ("POST", "/api/retry", b'{"paths": ["a\\u0000b"]}', 400, '"paths" must be a list'),
    ("POST", "/api/retry", b'{"paths": ["\\ud800"]}', 400, "not text"),
    ("POST", "/api/retry", b'{"paths": ["/etc/passwd"]}', 400, "names alone"),
    ("POST", "/api/retry", b'{"paths": ["a/../../b"]}', 400, "names alone"),
    ("POST", "/api/retry", b'{"paths": [], "force": "yes"}', 400, '"force" must be true or false'),
    ("POST", "/api/retry", b'{"paths": [], "all": true}', 400, "one of"),
    ("POST", "/api/retry", b'{"below": ["../.."]}', 400, "names alone"),
    ("POST", "/api/retry", b'{"all": true, "force": true}', 400, "alone"),
    ("POST", "/api/retry", b'{"all": true, "sure": true}', 400, "'sure' is unknown"),
    ("POST", "/api/rescan", b'{"deep": true}', 400, "'deep' is unknown"),
    ("POST", "/api/lookup", b"{}", 400, '"paths" must be a list'),
    ("POST", "/api/lookup", b"x" * 2_000_000, 413, "exceeded"),
]


def test_mistakes_are_named(box: Sandbox, sides: tuple[Side, Side]) -> None:
    """Each bad request gets a 4xx with JSON that says what is wrong, and the daemon and its log stay as they were."""
    box.start_daemon()
    for method, path, body, status, text in BAD:
        with suppress(ConnectionError):  # a body that is too large may be refused before it is sent
            answer = sides[0].call(method, path, body)
            assert answer.status == status, (method, path, answer)
            assert text in answer.json["error"], (method, path, answer.json)
    with sides[0].connect() as raw:
        raw.sendall(b"GET / HTTP/9\r\n\x00nonsense\r\n\r\n")
        assert raw.recv(1000).startswith(b"HTTP/1.0 400")
    assert sides[0].call("GET", "/api/files?state=signed&limit=99999999999999999999").json == {"files": []}
    assert box.events("daemon.defect") == []
    box.wait_signed(box.drop("afterwards"))


def test_commands_are_taken_on_the_socket_alone(box: Sandbox, sides: tuple[Side, Side]) -> None:
    """http.listen takes none; the socket, 0660, takes none from web pages; other names find no loopback address."""
    box.start_daemon()
    unix, network = sides
    assert stat.S_IMODE(box.socket.stat().st_mode) == 0o660
    for route in ROUTES:
        if route.is_command:
            assert network.call("POST", route.path, b"{}").status == 403
            foreign = unix.call("POST", route.path, b'{"paths": []}', Origin="https://elsewhere.example")
            assert foreign.status == 403
    assert unix.call("POST", "/api/rescan").status == 202
    assert unix.call("POST", "/api/retry", b'{"all": true}').json == {"retried": 0}
    for name in ("127.0.0.1", "localhost:9466", "[::1]:1", "10.1.2.3"):
        assert network.call("GET", "/api/status", Host=name).status == 200
    for name in ("rebound.example", "localhost.elsewhere.example:9466", "127.0.0.1.elsewhere.example", "[::", ""):
        assert network.call("GET", "/api/status", Host=name).status == 421
    assert box.events("daemon.defect") == []
    for side in sides:
        assert (side.call("HEAD", "/healthz").status, side.call("HEAD", "/").body) == (200, b"")
        for path in ("/", "/api/status", "/nowhere"):
            headers = side.call("GET", path).headers
            policy = headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'; ")
            assert policy.endswith("frame-ancestors 'none'")
            assert "unsafe" not in policy
            assert {name: headers[name] for name in HEADERS} == {**HEADERS, "Content-Security-Policy": policy}
            assert "Access-Control-Allow-Origin" not in headers


def test_the_network_learns_no_paths(box: Sandbox, sides: tuple[Side, Side]) -> None:
    """Whatever goes wrong, no path of the machine and no secret is told on http.listen; the socket says all."""
    box.start_daemon()
    network = sides[1]
    box.drop("locked").chmod(0)
    moved = box.outbox.with_name("moved")
    box.outbox.rename(moved)
    wait_until(lambda: box.status()["gate"]["closed"], what="the gate's closing")
    details = [side.call("GET", "/api/status").json["gate"]["detail"] for side in sides]
    assert details[0].startswith(f"{box.outbox}: ")
    assert details[1] == details[0].replace(str(box.outbox), "outbox")
    box.stop_service()
    moved.rename(box.outbox)
    box.drop("waits")
    wait_until(lambda: box.status()["gate"]["reason"] == "unreachable", what="the outage")
    told = b"".join(
        answer.body + str(answer.headers).encode()
        for route in ROUTES
        for answer in [network.call("GET", route.path + ("?state=queued" if route.path == "/api/files" else ""))]
    )
    assert b"waits" in told
    assert network.call("GET", "/api/status").json["outbox"] == box.outbox.name
    for secret in (str(box.directory), str(Path.home()), str(box.journal), "test secret", "PRIVATE KEY", "/tmp/"):
        assert secret.encode() not in told


BEGINNINGS = (
    b"",
    b"GET /api/sta",
    b"POST /api/lookup HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n{",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
)
"""What slow clients say at first: nothing, too little, or a question whose answer they do not read."""


def test_slow_clients_disturb_nobody(box: Sandbox, sides: tuple[Side, Side]) -> None:
    """With hundreds of clients that stay and dawdle on each side, files are signed and questions answered."""
    box.start_daemon()
    with ExitStack() as stack:
        dawdlers = []
        for number in range(300):
            for side in sides:
                dawdler = stack.enter_context(side.connect())
                with suppress(OSError):  # it may have been sent away for a newer one already
                    dawdler.sendall(BEGINNINGS[number % len(BEGINNINGS)])
                dawdlers.append(dawdler)
        paths = [box.drop(f"f{number}") for number in range(50)]
        for dawdler in dawdlers:
            with suppress(OSError):
                dawdler.sendall(b"t")
        box.wait_signed(*paths)
        for side in sides:
            assert side.call("GET", "/healthz").json == {"healthy": True}
        assert box.daemon is not None
        opened = len(os.listdir(f"/proc/{box.daemon.pid}/fd"))
        assert opened < 2 * CONNECTIONS_MOST + 100
    assert box.stop_daemon() == 0, "they do not hold up a stop either"


def test_answers_while_the_journal_cannot_be_written(box: Sandbox) -> None:
    """With no room for the journal, whoever asks is told so with the last known counts, and all goes on afterwards."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to make a mount namespace")
    state = box.journal.parent
    state.mkdir()
    mount = f"mount -t tmpfs -o size=1m tmpfs '{state}' && exec \"$@\""
    daemon = box.start_daemon(prefix=["unshare", "--mount", "sh", "-c", mount, "-"])
    box.wait_signed(box.drop("before"))
    wait_until(lambda: box.status()["signed"] == 1, what="the record")
    filler = Path(f"/proc/{daemon.pid}/root{state}/filler")
    with suppress(OSError), filler.open("wb", buffering=0) as full:
        while full.write(bytes(4096)) == 4096:
            pass
    paths = [box.drop(f"f{number}") for number in range(50)]
    wait_until(lambda: "the gate is closed: disk" in box.ask("/readyz")[1]["reasons"], what="the gate's closing")
    status = box.status()
    assert status["signed"] == 1
    assert status["gate"]["reason"] == "disk"
    assert b'dropsign_gate_closed{reason="disk"} 1.0' in Side(box.socket).call("GET", "/metrics").body
    assert Side(box.socket).call("GET", "/healthz").status == 200
    filler.unlink()
    box.wait_signed(*paths)
    wait_until(lambda: box.status()["signed"] == 51, what="the records")


def test_what_is_known_of_a_file(box: Sandbox) -> None:
    """A lookup tells what an operator needs: settling and why, the last error and the next try, when it was signed."""
    box.configure("outbox", settle_seconds=3600)
    box.configure("service", attempts=100)
    box.start_daemon()
    before = time.time()
    signed = box.drop("signed")
    box.wait_signed(signed)
    wait_until(lambda: box.knows_version(signed), what="the record")
    known = box.lookup(signed)
    assert before <= known["signed_at"] <= time.time()
    assert (known["state"], known["settling"], known["ignored"]) == ("signed", False, False)
    with (box.outbox / "open").open("wb") as writer:
        writer.write(b"begun")
        writer.flush()
        wait_until(lambda: box.lookup(box.outbox / "open")["settling"], what="the notice")
        known = box.lookup(box.outbox / "open")
        assert known["state"] is None
        assert known["settling_reason"]
        assert known["settling_seconds"] >= 0
    box.misbehave("null:100%")
    charged = box.drop("charged")

    def deferred() -> Any:
        known = box.lookup(charged)
        return known if known["state"] == "deferred" else None

    known = wait_until(deferred, what="a charged attempt")
    assert (known["reason"], known["attempts"] > 0, known["not_before"] > before) == ("no_signature", True, True)
    assert "without a signature" in known["error"]
    assert box.lookup(box.outbox / "x.tmp") == {
        "path": "x.tmp", "state": None, "settling": False, "settling_reason": None, "ignored": True,
    }  # fmt: skip


def _table(page: str, heading: str) -> set[str]:
    """Return the names in the first column of the table under a heading."""
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE))


def test_the_documentation_knows_every_route_and_field(box: Sandbox, sides: tuple[Side, Side]) -> None:
    """docs/api.md lists the routes and the fields of the answers, no more and no less."""
    page = (DOCS / "api.md").read_text("utf-8")
    assert _table(page, "Requests") == {f"{route.method} {route.path}" for route in ROUTES}
    box.start_daemon()
    failed = box.drop("failed")
    box.wait_signed(failed)
    status = sides[1].call("GET", "/api/status").json
    assert _table(page, "Status") == {*status, *(f"gate.{key}" for key in status["gate"])} - {"gate"}
    assert _table(page, "Throughput") == set(sides[1].call("GET", "/api/throughput").json)
    wait_until(lambda: box.known("signed"), what="the record")
    files = _table(page, "Files")
    assert files == set(box.known("signed")[b"failed"])
    lookup = _table(page, "Lookup") | files
    assert set(box.lookup(failed)) <= lookup
