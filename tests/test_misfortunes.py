"""What must not stop the signing of everything else: a full log, files that are refused alike, paths that lead up."""

import http.client
import json
import signal
import socket
from typing import Any

from tests.support.sandbox import Sandbox, wait_until


def post(box: Sandbox, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Ask the daemon on its control socket."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(box.socket))
    connection.request("POST", path, json.dumps(body))
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


def test_a_log_that_cannot_be_written_costs_only_log_lines(box: Sandbox) -> None:
    """With the log on a full disk, files are signed, changed files too, and the daemon stops with 0."""
    box.configure("log", file="/dev/full")
    box.start_daemon(wait=False)
    wait_until(box.socket.exists, what="the control socket")
    paths = [box.drop(f"f{number}", b"%d" % number) for number in range(5)]
    box.wait_signed(*paths)
    paths[0].write_bytes(b"rewritten")
    box.wait_signed(*paths)
    assert box.stop_daemon(signal.SIGTERM) == 0


def test_many_files_refused_alike_do_not_hold_up_a_good_one(box: Sandbox) -> None:
    """However many files the service refuses with the same status, a good one behind them gets its turn."""
    box.stop_service()
    box.start_service("--max-mib", "1")
    box.configure("service", concurrency=4)
    box.start_daemon()
    for number in range(12):
        box.drop(f"too-large-{number}", number.to_bytes(4, "big") * 400_000)
    good = box.drop("good")
    box.wait_signed(good, seconds=60)


def test_the_api_takes_no_path_that_leads_up(box: Sandbox) -> None:
    """A path with `..` in it is a bad request, and nothing outside of the outbox is touched."""
    box.configure("outbox", exclude=["*.tmp"])
    box.start_daemon()
    outside = box.directory / "secret.txt"
    outside.write_text("not yours")
    status, answer = post(box, "/api/retry", {"paths": ["../secret.txt"], "force": True})
    assert status == 400
    assert "names alone" in answer["error"]
    box.wait_signed(box.drop("inside"))
    assert not box.sign_of(outside).exists()
