"""Habits of writers, against the real daemon, watched and polled alike: what is open is left, what rests is signed."""

import mmap
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.support.sandbox import Sandbox, sha256

PATIENCE = 40

HALF_WRITER = """
import sys, time
file = open(sys.argv[1], "wb", 0)
file.write(b"half of it")
print("written", flush=True)
time.sleep(600)
"""


def test_what_a_writer_holds_open_is_not_taken(watched: Sandbox) -> None:
    """A pause longer than the quiet time, mapped memory, a rewrite from the start, a death: only the end is sent."""
    box = watched
    box.start_daemon()
    paused = (box.outbox / "paused").open("wb", buffering=0)
    paused.write(b"first part, ")
    rewritten = (box.outbox / "rewritten").open("wb", buffering=0)
    rewritten.write(b"first version, and longer")
    with (box.outbox / "mapped").open("w+b") as file:
        file.truncate(4096)
        mapped = mmap.mmap(file.fileno(), 4096)
    mapped[:5] = b"first"
    killed = subprocess.Popen(
        [sys.executable, "-c", HALF_WRITER, box.outbox / "killed"], stdout=subprocess.PIPE, text=True
    )
    assert killed.stdout is not None
    try:
        assert killed.stdout.readline() == "written\n"
        box.wait_signed(box.drop("other", b"other"))
        for _ in range(2):
            time.sleep(1)
            box.rescan()
        assert box.times_signed() == {sha256(b"other"): 1}
        paused.write(b"last part")
        paused.close()
        rewritten.seek(0)
        rewritten.truncate()
        rewritten.write(b"second")
        rewritten.close()
        mapped[:5] = b"final"
        mapped.close()
    finally:
        killed.kill()
        killed.communicate()
    contents = [b"other", b"first part, last part", b"second", b"final".ljust(4096, b"\0"), b"half of it"]
    paths = [box.outbox / name for name in ("other", "paused", "rewritten", "mapped", "killed")]
    box.wait_signed(*paths, seconds=PATIENCE)
    box.wait_idle()
    assert box.times_signed() == {sha256(content): 1 for content in contents}
    box.assert_exactly_signed(*paths)


def _link_and_unlink(outbox: Path) -> None:
    (outbox / ".linked").write_bytes(b"linked")
    os.link(outbox / ".linked", outbox / "linked")
    (outbox / ".linked").unlink()


def _from_the_past(outbox: Path) -> None:
    (outbox / "past").write_bytes(b"past")
    os.utime(outbox / "past", (0, 0))


def _from_the_future(outbox: Path) -> None:
    (outbox / "future").write_bytes(b"future")
    future = time.time() + 400 * 24 * 3600
    os.utime(outbox / "future", (future, future))


def _replaced_while_it_settles(outbox: Path) -> None:
    for version in range(5):
        (outbox / ".next").write_bytes(b"replaced %d" % version)
        (outbox / ".next").rename(outbox / "replaced")
        time.sleep(0.02)


def _in_bits(outbox: Path) -> None:
    for _ in range(5):
        with (outbox / "bits").open("ab") as file:
            file.write(b"bit ")
        time.sleep(0.02)


WAYS = {
    "linked": _link_and_unlink,
    "past": _from_the_past,
    "future": _from_the_future,
    "replaced": _replaced_while_it_settles,
    "bits": _in_bits,
}


def test_ways_to_finish(watched: Sandbox) -> None:
    """However a writer finishes, its last version is signed, and that once: also after a scan and a restart."""
    box = watched
    box.start_daemon()
    paths = [box.outbox / name for name in WAYS]
    for drop in WAYS.values():
        drop(box.outbox)
    box.wait_signed(*paths, seconds=PATIENCE)
    box.rescan()
    box.wait_idle()
    assert box.stop_daemon() == 0
    box.start_daemon()
    box.rescan()
    box.wait_idle()
    box.assert_exactly_signed(*paths)
    assert all(box.times_signed()[sha256(path.read_bytes())] == 1 for path in paths)


def test_signed_files_written_again(watched: Sandbox) -> None:
    """A signed file that is truncated, replaced, mapped or reset in its times keeps no signature that does not fit."""
    box = watched
    box.start_daemon()
    paths = [box.drop(name, f"{name}, version 1".encode()) for name in ("truncated", "replaced", "mapped", "reset")]
    truncated, replaced, mapped, reset = paths
    box.wait_signed(*paths)
    before = reset.stat()
    os.truncate(truncated, 5)
    (box.outbox / ".next").write_bytes(b"replaced, version 2")
    os.utime(box.outbox / ".next", (1, 1))
    (box.outbox / ".next").rename(replaced)
    with mapped.open("r+b") as file:
        memory = mmap.mmap(file.fileno(), 0)
    memory[-1:] = b"2"
    memory.close()
    with reset.open("r+b") as file:
        file.write(b"RESET")
    os.utime(reset, ns=(before.st_atime_ns, before.st_mtime_ns))
    contents = [path.read_bytes() for path in paths]
    box.wait_signed(*paths, seconds=PATIENCE)
    box.rescan()
    box.wait_idle()
    box.assert_exactly_signed(*paths)
    assert [path.read_bytes() for path in paths] == contents
    assert all(box.times_signed()[sha256(content)] == 1 for content in contents)
