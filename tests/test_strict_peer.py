"""The judge's trial: a strict signing service that is not ours, thousands of hostile files, several writers at once."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import require_part
from tests.support.sandbox import Sandbox, sha256, wait_until
from tests.support.strict_peer import strict_peer
from tests.support.writer import is_empty

FILES = 2000
WRITERS = 5
EMPTY = sha256(b"")


@pytest.mark.nginx
@pytest.mark.slow
def test_thousands_of_hostile_files(box: Sandbox) -> None:
    """Every file ends with one FILE.sign that verifies; nothing else appears, no version is sent twice."""
    box.configure("verify", key=str(box.signing.public_key))
    staging = box.directory / "staging"
    staging.mkdir()
    each = FILES // WRITERS
    with strict_peer(box, require_part("nginx")) as peer:
        box.start_daemon()
        writers = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.support.writer", str(box.outbox), str(staging), str(seed), str(each)],
                cwd=Path(__file__).parents[1],
            )
            for seed in range(WRITERS)
        ]
        assert [writer.wait(120) for writer in writers] == [0] * WRITERS
        wait_until(lambda: len(box.files()) == 2 * FILES, seconds=90, what="all signatures")
        box.wait_idle(seconds=60)
        box.rescan()
        box.wait_idle()
        names = box.files()
        dropped = [name for name in names if not name.endswith(b".sign")]
        assert len(dropped) == FILES
        assert set(names) == {*dropped, *(name + b".sign" for name in dropped)}
        times = peer.times_signed()
        root = os.fsencode(box.outbox)
        for name in dropped:
            content = Path(os.fsdecode(root + b"/" + name)).read_bytes()
            text = Path(os.fsdecode(root + b"/" + name + b".sign")).read_bytes()
            assert box.verifies(text, content), name
            assert not content or times[hashlib.sha256(content).hexdigest()] == 1, name
        empty = WRITERS * sum(map(is_empty, range(each)))
        assert times.pop(EMPTY) <= empty, "they are the same to the service; at most as many as there were"
        assert set(times.values()) == {1}, "no version is sent twice"
        assert [request for request in peer.requests() if request["status"] != 200] == []
        assert box.status()["failed"] == box.status()["refused"] == 0
        assert not box.events("gate.closed")
        assert box.stop_daemon() == 0
    assert not list(staging.iterdir())


@pytest.mark.nginx
def test_client_without_certificate_is_told_so(box: Sandbox, tmp_path: Path) -> None:
    """A client certificate of another authority closes the gate with a reason that names it; no file is charged."""
    from dropsign.embedded.authority import Authority

    foreign = Authority(tmp_path / "foreign").issue("client")
    box.configure("tls", certificate=str(foreign.certificate), private_key=str(foreign.private_key))
    with strict_peer(box, require_part("nginx")) as peer:
        box.start_daemon()
        path = box.drop("file")
        wait_until(lambda: box.events("gate.closed"), what="the gate's closing")
        closed = box.events("gate.closed")[0]
        assert closed["reason"] == "credentials"
        assert "certificate" in closed["error"]
        assert box.known("failed") == {}
        assert not peer.requests()
        box.configure("tls", certificate=str(box.client.certificate), private_key=str(box.client.private_key))
        box.stop_daemon()
        box.start_daemon()
        box.wait_signed(path)
        box.wait_idle()
        assert [line["attempt"] for line in box.events("file.signed")] == [1]
