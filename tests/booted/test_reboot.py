"""A machine that goes down with drops waiting, and comes up again: `make booted` boots two for it, in turn."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.booted.conftest import Installed
from tests.support.sandbox import Site, wait_until

DROPS = 60


@pytest.fixture
def kept(machine: None, tmp_path: Path) -> Iterator[Installed]:  # noqa: ARG001 - it must be there
    """Give the service on disks that outlast the machine."""
    disk = Path(os.environ["DROPSIGN_DISK"])
    for name, place in (("state", "/var/lib/dropsign"), ("outbox", "/srv/dropsign/outbox")):
        (disk / name).mkdir(parents=True, exist_ok=True)
        Path(place).mkdir(exist_ok=True)
        shutil.chown(disk / name, "dropsign", "dropsign-drop")
        subprocess.run(["mount", "--bind", disk / name, place], check=True)
    made = Installed(tmp_path, site=Site(disk / "site"))
    made.set_up()
    yield made
    made.stop_service()  # what is ours; the daemon's end is the machine's


def content(number: int) -> bytes:
    return b"%d" % number * 50


@pytest.mark.boot(2)
def test_down(kept: Installed) -> None:
    """Some are signed, others wait for a service that does not answer; so the machine goes down."""
    kept.start_service()
    kept.start()
    kept.wait_signed(*(kept.drop(f"early-{number}", content(number)) for number in range(DROPS)))
    kept.stop_service()
    for number in range(DROPS):
        kept.drop(f"late-{number}", content(1000 + number))
    wait_until(lambda: kept.status()["gate"]["closed"], what="the gate's closing")
    wait_until(lambda: kept.status()["backlog"] == DROPS, what="all being queued")


@pytest.mark.boot(3)
def test_up(kept: Installed) -> None:
    """After it came up, what waited is signed, and what was signed is not asked for again."""
    (kept.outbox / "while-down").write_bytes(b"dropped with nobody watching")
    kept.start_service()
    kept.start()
    names = ["while-down", *(f"{when}-{number}" for when in ("early", "late") for number in range(DROPS))]
    paths = [kept.outbox / name for name in names]
    kept.wait_signed(*paths)
    kept.wait_idle()
    kept.assert_exactly_signed(*paths)
    assert set(kept.times_signed().values()) == {1}
    assert len(kept.times_signed()) == DROPS + 1
