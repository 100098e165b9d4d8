"""Faults of this machine, injected for real (contract, 3): nothing is lost, nothing charged, nothing asked twice."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest

from tests.support.faults import (
    assert_agreement,
    failed_and_renamed,
    failing,
    fill,
    gate_lines,
    no_more_descriptors,
    remount,
    small_disk,
)
from tests.support.sandbox import Sandbox, dropsign, powerless, wait_until

pytestmark = pytest.mark.timeout(300)

PATIENCE: Final = 60

ONCE: Final = [("closed", "disk"), ("opened", "disk")]


def _prepared(box: Sandbox, number: int) -> list[Path]:
    """Write files that are no drops yet, so that a disk can be filled before they become some."""
    paths = [box.outbox / f"f{index}" for index in range(number)]
    for path in paths:
        path.with_name("." + path.name).write_bytes(path.name.encode())
    return paths


def _appear(paths: list[Path]) -> None:
    for path in paths:
        path.with_name("." + path.name).rename(path)


def _closed(box: Sandbox, reason: str, number: int = 1) -> None:
    wait_until(lambda: gate_lines(box).count(("closed", reason)) >= number, PATIENCE, f"the gate's closing: {reason}")


def _asked_once(box: Sandbox, paths: list[Path]) -> None:
    assert sorted(box.times_signed().values()) == [1] * len(paths), "the service is not asked again"
    assert {line["attempt"] for line in box.events("file.signed")} <= {1}


def test_outbox_without_room(box: Sandbox) -> None:
    """Signatures in hand wait for room, over a restart too; one line when the gate closes and one when it opens."""
    with small_disk(box.outbox):
        paths = _prepared(box, 20)
        box.start_daemon()
        filler = fill(box.outbox)
        _appear(paths)
        _closed(box, "disk")
        status = box.status()
        assert (status["gate"]["reason"], status["failed"]) == ("disk", 0)
        assert str(box.outbox) in status["gate"]["detail"]
        time.sleep(1.5)  # some tries
        assert gate_lines(box) == ONCE[:1]
        assert not list(box.outbox.glob("*.sign"))
        assert box.stop_daemon() == 0
        box.start_daemon()
        _closed(box, "disk", 2)
        filler.unlink()
        box.wait_signed(*paths, seconds=PATIENCE)
        assert_agreement(box, *paths)
        assert gate_lines(box) == [*ONCE[:1], *ONCE]
        _asked_once(box, paths)
        assert not box.events("file.deferred"), "not a line a file"
        assert box.stop_daemon() == 0


def test_journal_without_room(box: Sandbox) -> None:
    """With the journal's disk full, the reason is `disk`, the daemon still answers, and all is recorded later."""
    with small_disk(box.journal.parent):
        box.start_daemon()
        first = box.drop("first", b"first")
        box.wait_signed(first)
        box.wait_idle()
        filler = fill(box.journal.parent)
        paths = [first, *(box.drop(f"f{number}", b"%d" % number) for number in range(60))]
        _closed(box, "disk")
        gate = box.status()["gate"]
        assert gate["reason"] == "disk"
        assert str(box.journal) in gate["detail"]
        assert box.ask("/readyz")[0] == 503
        told = dropsign("--config", box.config, "status")
        assert (told.returncode, "disk" in told.stdout) == (0, True), told
        filler.unlink()
        box.wait_signed(*paths, seconds=PATIENCE)
        assert_agreement(box, *paths)
        assert gate_lines(box) == ONCE
        _asked_once(box, paths)
        assert box.stop_daemon() == 0


def test_outbox_remounted_read_only_under_load(box: Sandbox) -> None:
    """A file system that turns read-only in the middle of a burst closes the gate; all goes on when it is back."""
    with small_disk(box.outbox, "8m"):
        box.misbehave("delay 20ms")
        box.start_daemon()
        paths = [box.drop(f"d{number % 3}/f{number}", b"%d" % number) for number in range(300)]
        wait_until(lambda: any(map(box.is_signed, paths)), what="the first signatures")
        remount(box.outbox, "ro")
        _closed(box, "disk")
        remount(box.outbox, "rw")
        box.wait_signed(*paths, seconds=PATIENCE)
        assert_agreement(box, *paths)
        assert gate_lines(box) == ONCE
        _asked_once(box, paths)
        assert box.stop_daemon() == 0


@pytest.mark.strace
def test_publishing_fails(box: Sandbox) -> None:
    """A failed fsync is never made good by another one: the temporary is written anew. A quota is as a full disk."""
    box.start_daemon()
    paths = [box.drop("first", b"first")]
    box.wait_signed(*paths)
    for number, (call, error) in enumerate([("fsync", "EIO"), ("renameat", "EDQUOT")], start=1):
        with failing(box, call, error) as record:
            new = [box.drop(f"d/{call}{index}", b"%d %d" % (number, index)) for index in range(10)]
            _closed(box, "disk", number)
            time.sleep(1.5)  # some tries
            assert not any(box.sign_of(path).exists() for path in new)
        paths += new
        box.wait_signed(*paths, seconds=PATIENCE)
        assert_agreement(box, *paths)
        failed, renamed = failed_and_renamed(record)
        assert len(failed) > 1 or call != "fsync", "each try has a temporary of its own"
        assert not failed & renamed
    assert gate_lines(box) == ONCE * 2
    _asked_once(box, paths)


@pytest.mark.strace
def test_the_directory_cannot_be_synced(box: Sandbox) -> None:
    """A FILE.sign whose directory entry may not be on disk is written anew until it is, and only then recorded."""
    box.start_daemon()
    box.wait_signed(box.drop("first", b"first"))
    with failing(box, "fsync", "EIO", box.outbox):
        path = box.drop("file")
        _closed(box, "disk")
        assert box.lookup(path)["state"] == "queued"
    assert_agreement(box, box.outbox / "first", path)
    assert gate_lines(box) == ONCE
    assert set(box.times_signed().values()) == {1}


@pytest.mark.strace
def test_journal_cannot_be_written(box: Sandbox) -> None:
    """A journal on a disk that turns read-only, beyond a quota or broken: reason `disk`; all is recorded later."""
    box.start_daemon()
    paths = [box.drop("first", b"first")]
    box.wait_signed(*paths)
    for number, error in enumerate(["EROFS", "EDQUOT", "EIO"], start=1):
        box.wait_idle()
        with failing(box, "pwrite64", error, box.journal.with_name(box.journal.name + "-wal")):
            paths += [box.drop(f"{error}{index}", b"%d %d" % (number, index)) for index in range(10)]
            _closed(box, "disk", number)
            assert box.status()["gate"]["reason"] == "disk"
        box.wait_signed(*paths, seconds=PATIENCE)
        assert_agreement(box, *paths)
    assert gate_lines(box) == ONCE * 3
    with failing(box, "fdatasync", "EIO"):  # costs nothing while there is power
        paths += [box.drop(f"d{index % 7}/f{index}", b"%d" % index) for index in range(200)]
        box.wait_signed(*paths, seconds=PATIENCE)
    assert_agreement(box, *paths)
    box.kill_daemon()
    box.start_daemon()
    box.rescan()
    assert_agreement(box, *paths)
    _asked_once(box, paths)


@pytest.mark.strace
def test_a_drop_that_cannot_be_read(box: Sandbox) -> None:
    """An I/O error in reading is this file's: deferred and said once, nobody else waits, signed when it is over."""
    box.start_daemon()
    other = box.drop("other", b"other")
    box.wait_signed(other)
    path = box.outbox / "file"
    with failing(box, "pread64", "EIO", path):
        path.write_bytes(b"content")
        wait_until(lambda: box.events("file.deferred"), PATIENCE, "the deferral")
        for _ in range(2):
            box.rescan()
        second = box.drop("second", b"second")
        box.wait_signed(second)
    assert [(line["path"], line["reason"]) for line in box.events("file.deferred")] == [("file", "unreadable")]
    box.rescan()
    box.wait_signed(path, seconds=PATIENCE)
    assert_agreement(box, path, other, second)
    assert gate_lines(box) == []


def test_descriptors_run_out(box: Sandbox) -> None:
    """Without descriptors the gate is closed for `resources`; all goes on when there are some again."""
    box.start_daemon()
    first = box.drop("d/first", b"first")
    box.wait_signed(first)
    with no_more_descriptors(box):
        paths = [first, *(box.drop(f"d{number % 3}/f{number}", b"%d" % number) for number in range(40))]
        _closed(box, "resources")
        time.sleep(1.5)
    box.rescan()
    box.wait_signed(*paths, seconds=PATIENCE)
    assert_agreement(box, *paths)
    lines = gate_lines(box)
    assert {reason for _, reason in lines} == {"resources"}
    assert lines.count(("closed", "resources")) == lines.count(("opened", "resources"))
    _asked_once(box, paths)
    assert box.stop_daemon() == 0


def test_few_descriptors_from_the_start(box: Sandbox) -> None:
    """A low hard limit makes the pool smaller, and is said; no gate closes for it, however many directories."""
    box.start_daemon(prefix=["prlimit", "--nofile=64:64"])
    paths = [box.drop(f"d{number}/f{number}", b"%d" % number) for number in range(150)]
    box.rescan()
    box.wait_signed(*paths, seconds=PATIENCE)
    assert_agreement(box, *paths)
    assert gate_lines(box) == []
    assert len(box.events("daemon.limited")) == 1
    assert 1 <= box.status()["concurrency_ceiling"] < 32
    _asked_once(box, paths)


def test_limit_of_open_files_at_start(box: Sandbox) -> None:
    """The soft limit is raised to the hard one; a hard one that is too low is refused in one line."""
    command = [sys.executable, "-m", "dropsign", "--config", str(box.config), "run"]
    refused = subprocess.run(["prlimit", "--nofile=32:32", *command], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1, refused.stderr
    assert "LimitNOFILE" in refused.stderr
    daemon = box.start_daemon(prefix=["prlimit", "--nofile=64:4096"])
    assert resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE) == (4096, 4096)
    assert not box.events("daemon.limited")


def test_a_directory_that_loses_its_permission(box: Sandbox) -> None:
    """A sub-directory that cannot be read for a while is not gone, costs nobody else anything, and is caught up on."""
    box.start_daemon(prefix=powerless())
    signed, other = box.drop("d/signed", b"signed"), box.drop("other", b"other")
    box.wait_signed(signed, other)
    box.wait_idle()
    directory = signed.parent
    directory.chmod(0)
    try:
        late = box.drop("d/late", b"late") if os.geteuid() == 0 else box.drop("late", b"late")
        box.rescan()
        more = box.drop("more", b"more")
        box.wait_signed(more)
        assert not box.events("file.gone")
    finally:
        directory.chmod(0o755)
    box.rescan()
    box.wait_signed(late, seconds=PATIENCE)
    assert_agreement(box, signed, other, late, more)
    assert gate_lines(box) == []
    _asked_once(box, [signed, other, late, more])
