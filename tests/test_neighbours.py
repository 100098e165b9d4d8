"""What comes near a running daemon: file systems mounted below its outbox, and what speaks no HTTP."""

import json
import os
import socket
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from tests.support.faults import small_disk
from tests.support.sandbox import Sandbox, free_port, wait_until

PATIENCE = 60


def test_file_system_mounted_below_the_outbox(box: Sandbox) -> None:
    """What is mounted over a directory is watched, and the directory itself again once it is unmounted."""
    box.configure("outbox", rescan_seconds=3600)
    before = box.drop("below/before", b"before")
    box.start_daemon()
    box.wait_signed(before)
    with small_disk(before.parent):
        box.wait_signed(box.drop("below/inside/one", b"one"), seconds=PATIENCE)
        box.wait_idle()
        box.wait_signed(*[box.drop(f"below/inside/{number}", b"%d" % number) for number in range(3)])
    box.wait_signed(box.drop("below/two", b"two"), seconds=PATIENCE)
    box.wait_idle()
    box.wait_signed(*[box.drop(f"below/{number}", b"below %d" % number) for number in range(3)])
    assert box.is_signed(before)
    assert box.times_signed().total() == 9, "what was covered is not asked for again"


def _answer(family: int, address: Any, data: bytes) -> bytes:
    """Say something and return the answer; empty if the end of the connection overtook it."""
    answer = b""
    with socket.socket(family) as connection, suppress(ConnectionError):
        connection.settimeout(PATIENCE)
        connection.connect(address)
        connection.sendall(data)
        while piece := connection.recv(4096):
            answer += piece
    return answer


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(600), id="tls"),
        pytest.param(bytes(range(256)) * 40 + b"\r\n\r\n", id="bytes"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nHost\r\n\r\n", id="header"),
        pytest.param(b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", id="long"),
        pytest.param(b"POST /api/retry HTTP/1.1\r\nContent-Length: x\r\n\r\n", id="length"),
    ],
)
def test_what_is_no_http(box: Sandbox, data: bytes) -> None:
    """It is refused as all else, in JSON: no page, no version, no path, and not a line in the log."""
    port = free_port()
    box.configure("http", listen=f"127.0.0.1:{port}")
    box.start_daemon()
    for family, address in ((socket.AF_INET, ("127.0.0.1", port)), (socket.AF_UNIX, str(box.socket))):
        answer = wait_until(partial(_answer, family, address, data), PATIENCE, "an answer")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.0 400 "), answer
        assert json.loads(body) == {"error": "bad request"}
        for told in (b"<html", b"aiohttp", b"Python", b"Traceback", os.fsencode(box.directory)):
            assert told.lower() not in answer.lower(), answer
    assert box.ask("/healthz")[0] == 200
    assert not box.events("daemon.defect")
    assert "Traceback" not in box.daemon_log.read_text()  # and no line that is no JSON: `events` would fail
