"""Clients that do not speak HTTP, and a daemon that does not speak: each is told in the form they understand."""

import json
import socket
from pathlib import Path

import pytest

from dropsign.control import Control
from dropsign.errors import UnreachableError
from tests.support.sandbox import Sandbox, free_port

NO_HTTP = {
    "a TLS hello": bytes.fromhex("16030100a5010000a10303") + bytes(range(150)),
    "zeros": bytes(100),
    "another version": b"GET / HTTP/9.9\r\n\r\n",
    "a line without end": b"GET " + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    "a negative length": b"POST /api/retry HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
}


def answer_to(address: Path | tuple[str, int], sent: bytes) -> tuple[str, bytes]:
    """Send bytes, and return head and body of what comes back."""
    kind = socket.AF_UNIX if isinstance(address, Path) else socket.AF_INET
    with socket.socket(kind) as client:
        client.settimeout(60)
        client.connect(str(address) if isinstance(address, Path) else address)
        client.sendall(sent)
        received = b""
        while b"\r\n\r\n" not in received or not received.endswith(b"}"):
            received += (piece := client.recv(65536))
            assert piece, received
    head, _, body = received.partition(b"\r\n\r\n")
    return head.decode("latin-1"), body


def test_what_is_no_http_is_answered_in_json(box: Sandbox) -> None:
    """Whatever comes gets 400 with an error in JSON, which repeats nothing and tells nothing of the inside."""
    port = free_port()
    box.configure("http", listen=f"127.0.0.1:{port}")
    box.start_daemon()
    for address in (box.socket, ("127.0.0.1", port)):
        for what, sent in NO_HTTP.items():
            head, body = answer_to(address, sent)
            assert head.split()[1] == "400", what
            assert "Server: dropsign" in head
            assert "aiohttp" not in head
            assert "application/json" in head
            assert json.loads(body) == {"error": "400: Bad Request; what came cannot be read as HTTP/1.1"}


def test_a_silent_daemon_is_not_a_dead_one(tmp_path: Path) -> None:
    """Where somebody listens and says nothing, the advice is to look and to restart, not to start."""
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(
            UnreachableError, match=r"is there, but does not answer.*systemctl restart dropsign"
        ) as caught:
            Control(path, seconds=0.1).status()
    assert caught.value.is_denial
