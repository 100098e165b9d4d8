"""`explain`, `status` and `retry`: the cause and the next step of each file that is not signed."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from dropsign.explaining import GATE_REMEDIES, Sight, explain
from dropsign.holders import writers
from dropsign.journal import Journal
from dropsign.model import Drop, Fingerprint
from dropsign.status import GateStatus, Status
from tests.support.sandbox import Sandbox, dropsign, powerless, wait_until

Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def ask(box: Sandbox) -> Ask:
    """Explain a file as JSON."""

    def asked(path: Path, code: int = 0) -> dict[str, Any]:
        done = dropsign("--config", box.config, "explain", path, "--json")
        assert done.returncode == code, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    return asked


def test_every_file_has_its_reason(box: Sandbox, ask: Ask) -> None:
    """Signed, failed, left out, refused, held open, unknown: each says so, with what to do about it."""
    box.stop_service()
    box.start_service("--max-mib", "1")
    box.start_daemon()
    signed = box.drop("signed", b"x")
    failed = box.drop("sub/failed", bytes(2_000_000))
    ignored, long = box.drop("ignored.tmp"), box.drop("n" * 252)
    link = box.outbox / "link"
    link.symlink_to(signed)
    box.wait_signed(signed)
    wait_until(lambda: box.status()["failed"] == 1, what="the failure")
    wait_until(lambda: box.status()["refused"] == 2, what="the refusals")
    assert ask(signed)["state"] == ask(box.sign_of(signed))["state"] == "signed"
    told = ask(failed)
    assert (told["state"], told["record"]["attempts"]) == ("failed", 1)
    assert "413" in told["cause"]
    assert "dropsign retry" in told["remedy"]
    assert "'*.tmp'" in ask(ignored)["cause"]
    assert "255 bytes" in ask(long)["cause"]
    assert "symbolic link" in ask(link)["cause"]
    told = ask(box.outbox / "nothing", code=1)
    assert (told["state"], told["remedy"]) == ("unknown", "see that its name is right, or drop it")
    listed = dropsign("--config", box.config, "status").stdout
    assert "link: symbolic_link" in listed
    with (box.outbox / "open").open("wb") as file:
        file.write(b"unfinished")
        file.flush()
        assert str(os.getpid()) in ask(box.outbox / "open")["cause"]
    box.stop_daemon()  # which would put it right
    box.sign_of(signed).write_bytes(b"of somebody else")
    told = ask(signed)
    assert (told["state"], "dropsign sign FILE" in told["remedy"]) == ("wrong", True)


def test_retry_puts_failed_files_back(box: Sandbox) -> None:
    """By name, by directory or all; what has not failed is named, and nothing outside of the outbox is taken."""
    config = ("--config", box.config)
    box.stop_service()
    box.start_service("--max-mib", "1")
    box.start_daemon()
    paths = [box.drop(f"d{number}/failed", b"%d" % number * 2_000_000) for number in range(3)]
    signed = box.drop("signed")
    box.wait_signed(signed)
    wait_until(lambda: box.status()["failed"] == 3, what="the failures")
    box.stop_service()
    box.start_service()
    assert dropsign(*config, "retry", paths[0]).stdout == "1 put back\n"
    box.wait_signed(paths[0])
    assert dropsign(*config, "retry", paths[1].parent).stdout == "1 put back\n"
    box.wait_signed(paths[1])
    assert not box.is_signed(paths[2])
    assert dropsign(*config, "retry", "--all").stdout == "1 put back\n"
    box.wait_signed(paths[2])
    done = dropsign(*config, "retry", signed)
    assert (done.returncode, "not failed but signed" in done.stderr) == (1, True)
    for arguments, code in (([], 2), ([paths[0], "--all"], 2), (["/etc/passwd"], 2)):
        done = dropsign(*config, "retry", *arguments)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (code, "", 1)
    box.stop_daemon()
    assert dropsign(*config, "retry", "--all").returncode == 3


def test_retry_of_many(box: Sandbox) -> None:
    """However many have failed, each is put back, once."""
    paths = [box.drop(f"{number}", b"%d" % number) for number in range(600)]
    journal = Journal(box.journal)
    for path in paths:
        drop = Drop(os.fsencode(path.name), Fingerprint.of(path.lstat()), ticket=journal.next_ticket())
        journal.queue(drop)
        journal.fail(drop, "http_400", "refused")
    journal.close()
    box.start_daemon()
    assert box.status()["failed"] == 600
    assert dropsign("--config", box.config, "retry", "--all").stdout == "600 put back\n"
    box.wait_signed(*paths, seconds=60)
    box.wait_idle()
    assert set(box.times_signed().values()) == {1}


def test_outage_and_a_daemon_that_is_down(box: Sandbox, ask: Ask) -> None:
    """What keeps everything back is said of each file, and by `status`, with what to do; also from the journal."""
    config = ("--config", box.config)
    box.start_daemon()
    signed = box.drop("signed")
    box.wait_signed(signed)
    box.stop_service()
    late = box.drop("late")
    wait_until(lambda: box.status()["gate"]["closed"], what="the gate's closing")
    told = ask(late)
    assert (told["state"], told["remedy"]) == ("queued", GATE_REMEDIES["unreachable"])
    shown = dropsign(*config, "status").stdout
    assert "closed for" in shown
    assert GATE_REMEDIES["unreachable"] in shown
    box.stop_daemon()
    told = ask(late)
    assert (told["running"], told["state"], told["cause"]) == (False, "queued", "no daemon runs")
    assert "systemctl start" in told["remedy"]
    assert ask(signed)["state"] == "signed"
    done = dropsign(*config, "status")
    assert (done.returncode, "not running" in done.stdout) == (0, True)


def test_status_lists_what_failed_of_late_and_watch_goes_on(box: Sandbox) -> None:
    """A few failed files are named with their reasons; --watch shows it again until it is interrupted."""
    box.stop_service()
    box.start_service("--max-mib", "1")
    box.start_daemon()
    for number in range(7):
        box.drop(f"failed{number}", b"%d" % number * 2_000_000)
    wait_until(lambda: box.status()["failed"] == 7, what="the failures")
    shown = dropsign("--config", box.config, "status").stdout
    assert shown.count("http_413") == 5
    assert "dropsign retry" in shown
    command = [sys.executable, "-m", "dropsign", "--config", str(box.config), "status", "--watch"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        seen = [line for line in islice(watching.stdout, 40) if line.startswith("outbox ")]
        watching.send_signal(signal.SIGINT)
        watching.stdout.read()
        assert (watching.wait(), len(seen) > 1) == (130, True)


def test_whoever_may_not_ask_is_told_so(box: Sandbox) -> None:
    """A user who may not open the control socket is told to join its group, and not that no daemon runs."""
    box.start_daemon()
    box.socket.chmod(0)
    command = [*powerless(), sys.executable, "-m", "dropsign", "--config", str(box.config), "status"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "join its group" in done.stderr) == (3, True)


def test_gate_reasons_have_their_remedies_in_the_docs() -> None:
    """Each reason for which the gate closes has a row on the operator's page."""
    page = (Path(__file__).parents[1] / "docs" / "why-not-signed.md").read_text("utf-8")
    assert [reason for reason in GATE_REMEDIES if f"| `{reason}` |" not in page] == []


def test_who_holds_a_file(tmp_path: Path) -> None:
    """Only who may write to it counts, and not who reads it."""
    path = tmp_path / "file"
    path.write_bytes(b"")
    raw = os.fsencode(path)
    with path.open("rb"):
        assert list(writers(raw)) == []
    with path.open("ab"):
        assert [number for number, _ in writers(raw)] == [os.getpid()]
    assert list(writers(raw + b"-not")) == []


def test_what_never_was_is_unknown_and_what_was_is_gone() -> None:
    """A picked up file is told from a mistyped name."""
    status = Status(True, "1", "/outbox", "dropsign", gate=GateStatus()).as_dict()
    unknown = explain(Sight(b"x"), {"state": None, "settling": False}, status, None, 0.0)
    gone = explain(Sight(b"x"), {"state": "signed", "settling": False}, status, None, 0.0)
    assert (unknown.state, gone.state) == ("unknown", "gone")
