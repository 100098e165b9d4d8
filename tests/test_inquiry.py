"""Asking about many files: of a daemon, whose requests are bounded, and of a journal, which may be damaged."""

import os

import pytest

from dropsign import config
from dropsign.control import Control
from dropsign.errors import JournalError
from dropsign.inquiry import Inquiry
from tests.support.sandbox import Sandbox, wait_until


def inquiry(box: Sandbox) -> Inquiry:
    return Inquiry(config.load(box.config, os.environ))


def test_more_than_fits_into_a_request(box: Sandbox) -> None:
    """Thousands of long names are put back and looked up in portions, and come in their order."""
    box.start_daemon()
    last = box.drop("last")
    names = [f"{'漢' * 80}{number}" for number in range(6000)]
    paths = [*map(os.fsencode, names), b"last"]
    control = Control(box.socket)
    control.retry(paths)
    assert control.retry_failed(paths) == 0
    box.wait_signed(last)
    wait_until(lambda: box.knows_version(last), what="the record")
    found = control.lookup(paths)
    assert [record["path"] for record in found] == [*names, "last"]
    assert found[-1]["state"] == "signed"


def test_without_a_daemon(box: Sandbox) -> None:
    """More paths than are read at a time are found in the journal; a damaged one is an error with its remedy."""
    box.start_daemon()
    names = [f"d{number % 7}/{number}" for number in range(40)]
    box.wait_signed(*(box.drop(name, name.encode()) for name in names))
    box.wait_idle()
    assert box.stop_daemon() == 0
    asked = [name for number in range(30) for name in (*names, f"nobody {number}")]
    found = list(inquiry(box).lookup([name.encode() for name in asked]))
    assert [(record["path"], record["state"]) for record in found] == [
        (name, None if name.startswith("nobody") else "signed") for name in asked
    ]
    assert len(inquiry(box).files("signed", 100)) == len(names)
    with box.journal.open("r+b") as file:
        file.seek(4096)
        file.write(b"x" * (box.journal.stat().st_size - 4096))
    with pytest.raises(JournalError, match="--rebuild-journal"):
        inquiry(box).files("signed", 100)
    with pytest.raises(JournalError, match="--rebuild-journal"):
        list(inquiry(box).lookup([b"d0/0"]))
