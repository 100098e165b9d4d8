"""The wall clock set forward and back by hours under the running daemon, by libfaketime; monotonic time goes on."""

import subprocess
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import require_part
from tests.support.rude_peer import Misbehaviour, empty, rude_peer, sign
from tests.support.sandbox import Sandbox, wait_until

pytestmark = [pytest.mark.faketime, pytest.mark.timeout(300)]

PATIENCE = 60

STEPS = ("+10800", "+0", "+21600")
"""Seconds that the daemon's clock is ahead: set forward by 3 hours, back by 3, forward by 6. It is never behind the
certificates' beginning, which would be a fault of its own."""


def _start(box: Sandbox) -> Callable[[str], None]:
    """Start the daemon with a clock that can be set; return what sets it, to so many seconds off."""
    program = require_part("faketime")
    library = subprocess.run(
        [program, "-f", "+0", "printenv", "LD_PRELOAD"], capture_output=True, text=True, check=True
    )
    offset = box.directory / "clock"

    def step(seconds: str) -> None:
        temporary = offset.with_suffix(".new")
        temporary.write_text(seconds + "\n")
        temporary.replace(offset)

    step("+0")
    box.start_daemon(
        environment={
            "LD_PRELOAD": library.stdout.strip(),
            "FAKETIME_TIMESTAMP_FILE": str(offset),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",  # it would move the times of files that lie there, which no step of a clock does
        }
    )
    return step


def _few(box: Sandbox, label: str) -> list[Path]:
    return [box.drop(f"{label} {number}", f"{label} {number}".encode()) for number in range(20)]


def test_steps_lose_nothing_and_hold_nothing_up(box: Sandbox) -> None:
    """Each drop before, at and after a step is signed once; one that backs off is not put off by hours."""
    behaviour: dict[bytes, Misbehaviour] = {}
    with rude_peer(box, lambda content: behaviour.get(content, sign)) as peer:
        box.configure("service", attempts=1000)
        step = _start(box)
        paths = _few(box, "before")
        for seconds in STEPS:
            content = f"deferred at {seconds}".encode()
            behaviour[content] = empty
            deferred = box.drop(content.decode(), content)
            wait_until(partial(_is_deferred, box, deferred), PATIENCE, "the deferral")
            paths += _few(box, f"just before {seconds}")
            step(seconds)
            del behaviour[content]
            paths += [deferred, *_few(box, f"after {seconds}")]
            box.wait_signed(*paths, seconds=PATIENCE)
            wait_until(partial(_is_off, box, float(seconds)), what="a record by the clock that was set")
        box.rescan()
        box.wait_idle()
        box.assert_exactly_signed(*paths)
        assert set(peer.signed.values()) == {1}
    assert not [line for line in box.log() if line["event"] in {"gate.closed", "file.failed", "daemon.defect"}]


def _is_deferred(box: Sandbox, path: Path) -> bool:
    """Tell whether a file rests that was charged often enough to rest for seconds."""
    known = box.lookup(path)
    return bool(known["state"] == "deferred" and known["attempts"] > 1)


def _is_off(box: Sandbox, seconds: float) -> bool:
    """Tell whether the daemon's last record was stamped by a clock that is so far off."""
    stamped = datetime.fromisoformat(box.events("file.signed")[-1]["timestamp"]).timestamp()
    return abs(stamped - time.time() - seconds) < 3600


def test_out_of_the_service_s_window(box: Sandbox) -> None:
    """A clock that is off closes the gate as `clock_skew`, and says by how much; set right, all is signed."""
    step = _start(box)
    paths = _few(box, "before")
    box.wait_signed(*paths)
    step("+10800")
    paths += _few(box, "off")
    wait_until(lambda: box.status()["gate"]["closed"], PATIENCE, "the gate's closing")
    line = box.events("gate.closed")[0]
    assert line["reason"] == "clock_skew"
    assert "clock is +10" in line["error"]
    step("+0")
    box.wait_signed(*paths, seconds=2 * PATIENCE)
    wait_until(lambda: not box.status()["gate"]["closed"], PATIENCE, "the gate's opening")
    box.rescan()
    box.wait_idle()
    box.assert_exactly_signed(*paths)
    assert set(box.times_signed().values()) == {1}
    assert {line["attempt"] for line in box.events("file.signed")} == {1}
    assert not [line for line in box.log() if line["event"] in {"file.failed", "daemon.defect"}]
