"""Thousands of files that arrive as one tree: moved in by one rename, and copied in as fast as the disk takes them."""

import os
import subprocess
from functools import partial
from pathlib import Path

import pytest

from tests.support.sandbox import Sandbox, wait_until

pytestmark = pytest.mark.timeout(300)

MOVED, COPIED = 3000, 2000


def _tree(top: Path, count: int) -> list[Path]:
    """Fill 300 directories, three levels deep; return the files' paths relative to the top."""
    names = [Path(f"a{n % 3}", f"b{n // 3 % 10}", f"c{n // 30 % 10}", f"f{n}") for n in range(count)]
    for directory in {name.parent for name in names}:
        (top / directory).mkdir(parents=True)
    for number, name in enumerate(names):
        (top / name).write_bytes(b"%s %d" % (os.fsencode(top.name), number))
    return names


def test_moved_in_at_once_and_copied_in(box: Sandbox) -> None:
    """Each of 5,000 files in nested directories gets one `.sign`, and is asked for once, whatever was noticed."""
    box.configure("outbox", rescan_seconds=3600)
    outside = box.directory / "outside"
    outside.mkdir()
    moved, copied = _tree(outside / "moved", MOVED), _tree(outside / "copied", COPIED)
    box.start_daemon()
    (outside / "moved").rename(box.outbox / "moved")
    subprocess.run(["cp", "-r", outside / "copied", box.outbox], check=True)
    wait_until(partial(_count, box, MOVED + COPIED), 120, "all signatures")
    box.rescan()
    box.wait_idle(60)
    box.assert_exactly_signed(
        *(box.outbox / "moved" / name for name in moved), *(box.outbox / "copied" / name for name in copied)
    )
    assert len(box.requests()) == MOVED + COPIED
    assert set(box.times_signed().values()) == {1}


def _count(box: Sandbox, number: int) -> bool:
    return len(box.events("file.signed")) >= number
