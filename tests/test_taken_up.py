"""What came to nothing at first is taken up: asked for, readable again, there again, its time come, and no other."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from dropsign.journal import Journal
from dropsign.model import Drop, Fingerprint
from tests.support.sandbox import SLOWNESS, Sandbox, powerless, wait_until

SOMEBODY: Final = 65534

PATIENCE: Final = 40


def _of_somebody_else(*paths: Path) -> None:
    """Give files away: the kernel then tells a daemon without rights of root nothing of their writers."""
    if os.geteuid() != 0:
        pytest.skip("needs the right to give files away")
    for path in paths:
        os.chown(path, SOMEBODY, -1)


def _are(box: Sandbox, state: str, *paths: Path) -> bool:
    return all(box.knows_version(path, state) for path in paths)


def _run(box: Sandbox, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*powerless(), sys.executable, "-m", "dropsign", "--config", str(box.config), *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=60 * SLOWNESS,
    )  # fmt: skip


def test_failed_files_of_somebody_else(box: Sandbox) -> None:
    """Failed files that the daemon does not own are tried again by `retry`, and by `sign` with a daemon or without."""
    box.configure("outbox", rescan_seconds=3600)
    box.start_daemon(prefix=powerless())
    box.misbehave("400")
    retried, asked, alone = paths = [box.drop(name, name.encode()) for name in ("retried", "asked", "alone")]
    _of_somebody_else(*paths)
    wait_until(partial(_are, box, "failed", *paths), PATIENCE, "the failures")
    box.misbehave("")
    assert _run(box, "retry", retried).returncode == 0
    box.wait_signed(retried, seconds=PATIENCE)
    done = _run(box, "sign", asked)
    assert (done.returncode, done.stderr) == (0, "")
    assert box.is_signed(asked)
    assert box.stop_daemon() == 0
    assert not box.is_signed(alone)
    done = _run(box, "sign", alone)
    assert (done.returncode, done.stderr) == (0, "")
    assert box.is_signed(alone)
    assert len(box.times_signed()) == len(paths)


def test_by_force_what_is_gone_or_no_file(box: Sandbox) -> None:
    """What is asked for by force, and is gone before it rests, or is a FIFO, is not signed, and stops nothing else."""
    box.start_daemon()
    fifo, gone = box.outbox / "fifo", box.outbox / "gone"
    os.mkfifo(fifo)
    wait_until(partial(_are, box, "refused", fifo), PATIENCE, "the refusal")
    with gone.open("wb"):  # held open, so that it does not rest
        assert box.ask("/api/retry", {"paths": ["fifo", "gone"], "force": True}) == (200, {"retried": 2})
        gone.unlink()
    wait_until(lambda: box.status()["settling"] == 0, PATIENCE, "the end of both")
    assert box.lookup(gone)["state"] is None
    assert box.lookup(fifo)["state"] == "refused"
    box.wait_signed(box.drop("later"))
    assert len(box.requests()) == 1
    assert not box.events("daemon.defect")


def _is_unreadable(box: Sandbox, path: Path) -> bool:
    return bool(box.lookup(path)["reason"] == "unreadable")


def test_unreadable_files_keep_their_signatures(watched: Sandbox) -> None:
    """A signature is not taken from a file that cannot be read, whoever made it; it is its own once it can be read."""
    box = watched
    foreign, stale = box.drop("foreign", b"foreign"), box.drop("stale", b"stale")
    box.sign_of(foreign).write_bytes(box.sign(b"foreign"))
    box.sign_of(stale).write_bytes(box.sign(b"what it was"))
    os.utime(box.sign_of(stale), (1, 1))
    foreign.chmod(0)
    stale.chmod(0)
    box.start_daemon(prefix=powerless())
    ours = box.drop("ours", b"ours")
    wait_until(partial(_are, box, "signed", ours), PATIENCE, "our signature recorded")
    ours.chmod(0)
    box.rescan()  # no notice comes of a mode
    wait_until(partial(_are, box, "deferred", foreign, stale, ours), PATIENCE, "the deferrals")
    for _ in range(2):
        box.rescan()
    assert box.verifies(box.sign_of(foreign).read_bytes(), b"foreign")
    assert box.verifies(box.sign_of(ours).read_bytes(), b"ours")
    for path in (foreign, stale, ours):  # which each scan tries once more
        wait_until(partial(_is_unreadable, box, path), PATIENCE, "its reason told")
    assert len(box.events("file.deferred")) == 3
    for path in (foreign, stale, ours):
        path.chmod(0o644)
    box.rescan()
    wait_until(partial(_are, box, "signed", foreign, stale, ours), PATIENCE, "the files taken up")
    assert all(map(box.is_signed, (foreign, stale, ours)))
    assert [line["path"] for line in box.events("file.adopted")] == ["foreign"]
    assert len(box.requests()) == 2, "the stale one's, and ours"


@contextmanager
def _locked(journal: Path) -> Iterator[None]:
    with closing(sqlite3.connect(journal, isolation_level=None, timeout=20)) as other:
        other.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            other.execute("ROLLBACK")


def test_back_before_the_journal_answers(box: Sandbox) -> None:
    """A file that is gone at the look at it, and back while the journal is waited for, is not forgotten."""
    box.configure("outbox", rescan_seconds=3600)
    box.start_daemon()
    first = box.drop("first", b"first")
    box.wait_signed(first)
    with _locked(box.journal):
        other = box.drop("other", b"other")  # its record has to wait, and lookups wait for that
        time.sleep(0.5)
        path = box.drop("file", b"at first")
        path.unlink()
        time.sleep(0.5)
        path.write_bytes(b"again")
        time.sleep(0.5)
    box.wait_signed(first, other, path, seconds=PATIENCE)


def test_directory_away_while_a_signature_is_published(box: Sandbox) -> None:
    """It is back before anybody looks: its file, the same version as before, gets the signature that is at hand."""
    box.configure("outbox", rescan_seconds=3600, settle_seconds=1, settle_after_close_seconds=1)
    box.start_daemon()
    box.misbehave("delay 700ms")
    directory, away = box.outbox / "d", box.directory / "away"
    paths: list[Path] = []
    while not box.events("file.changed") and len(paths) < 5:  # should the moment be missed, once more
        path = box.drop(f"d/{len(paths)}", b"%d" % len(paths))
        paths.append(path)
        wait_until(partial(_is_asked_for, box, path), PATIENCE, "the request on its way")
        directory.rename(away)
        wait_until(partial(_is_published, box, away / path.name), PATIENCE, "it published, or in vain")
        away.rename(directory)
    box.wait_signed(*paths, seconds=PATIENCE)
    box.wait_idle()
    assert not box.events("daemon.defect")


def _is_asked_for(box: Sandbox, path: Path) -> bool:
    return box.status()["in_flight"] > 0 or box.is_signed(path)


def _is_published(box: Sandbox, path: Path) -> bool:
    return bool(box.events("file.changed")) or box.is_signed(path)


def _defer(box: Sandbox, paths: list[Path], seconds: float) -> None:
    """Have a journal know files as charged once, and resting for some seconds from now on."""
    journal = Journal(box.journal)
    for path in paths:
        relative = os.fsencode(path.relative_to(box.outbox))
        drop = Drop(relative, Fingerprint.of(path.lstat()), 1, ticket=journal.next_ticket())
        journal.queue(drop)
        journal.defer(drop, time.time() + seconds, "null", "no signature in the answer")
    journal.close()


def test_restless_files_keep_no_others_waiting(box: Sandbox) -> None:
    """However many deferred files somebody writes to when their time comes: those after them are signed."""
    restless = [box.drop(f"d/{number}", b"%d" % number) for number in range(300)]
    others = [box.drop(f"other {number}", b"other %d" % number) for number in range(3)]
    _defer(box, restless, 5.0)
    _defer(box, others, 5.5)
    box.start_daemon()
    with ExitStack() as writers:
        for path in restless:
            writers.enter_context(path.open("ab", buffering=0)).write(b"more")
        box.wait_signed(*others, seconds=PATIENCE)
    box.wait_signed(*restless, seconds=PATIENCE)


def test_what_is_left_out_later_is_forgotten(watched: Sandbox) -> None:
    """Files of a directory that a reload excludes leave the journal, whatever their state, and none is signed."""
    box = watched
    box.start_daemon()
    signed = box.drop("d/signed", b"signed")
    box.wait_signed(signed)
    box.misbehave("400")
    failed = box.drop("d/e/failed", b"failed")
    wait_until(partial(_are, box, "failed", failed), PATIENCE, "the failure")
    box.misbehave("null")
    deferred = box.drop("d/deferred", b"deferred")
    wait_until(lambda: box.events("file.deferred"), PATIENCE, "the deferral")
    box.configure("outbox", exclude=["d/"])
    assert box.daemon is not None
    box.daemon.send_signal(signal.SIGHUP)
    wait_until(lambda: box.events("daemon.reloaded"), PATIENCE, "the reload")
    box.misbehave("")

    def forgotten() -> bool:
        box.rescan()
        return all(box.lookup(path)["state"] is None for path in (signed, failed, deferred))

    wait_until(forgotten, PATIENCE, "all of them forgotten")
    assert box.sign_of(signed).exists()
    assert not box.sign_of(failed).exists()
