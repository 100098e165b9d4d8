"""What goes wrong on the way in, against the real daemon: lost notices, watches that run out, outboxes that vanish."""

import os
import shutil
import signal
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import require_part
from tests.support.faults import small_disk
from tests.support.sandbox import Sandbox, powerless, wait_until

MOST_TO_OVERFLOW: Final = 70_000
"""A longer queue of notices takes too long to run over in a test."""

PATIENCE: Final = 40


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_queue_overflow(box: Sandbox) -> None:
    """Where the kernel's queue runs over, that is said and counted, and a scan finds all that came meanwhile."""
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if most > MOST_TO_OVERFLOW:
        pytest.skip(f"fs.inotify.max_queued_events is {most}: too many to run over in a test")
    box.configure("outbox", rescan_seconds=3600)
    daemon = box.start_daemon()
    first = box.drop("first", b"first")
    box.wait_signed(first)
    daemon.send_signal(signal.SIGSTOP)
    wait_until(partial(_is_stopped, daemon.pid), what="the stop")
    try:
        for _ in range(most // 2 + 1000):  # two different ones by turns, as equal ones in a row are one
            for name in (".x", ".y"):
                os.close(os.open(box.outbox / name, os.O_CREAT | os.O_WRONLY))
        missed = [box.drop(f"{place}missed {number}", b"%d" % number)
                  for number, place in enumerate(["", "new/", "new/deeper/"] * 30)]  # fmt: skip
    finally:
        daemon.send_signal(signal.SIGCONT)
    wait_until(lambda: box.events("watch.overflow"), PATIENCE, "the overflow said")
    box.wait_signed(*missed, seconds=PATIENCE)
    assert box.metric("dropsign_watch_overflows_total") == len(box.events("watch.overflow"))
    assert box.metric("dropsign_scan_found_total") >= len(missed)
    later = box.drop("new/deeper/later", b"later")  # in a directory whose appearance was missed
    box.wait_signed(later)
    assert set(box.times_signed().values()) == {1}
    assert len(box.times_signed()) == len(missed) + 2


# Watches and instances that run out: both are limited for a user namespace of its own


def _limited(**limits: int) -> list[str]:
    """Return what to put before a command so that it gets few watches or instances of inotify."""
    unshare = ["unshare", "--user", "--map-root-user"]
    writes = " && ".join(f"echo {most} > /proc/sys/user/max_inotify_{what}" for what, most in limits.items())
    probe = subprocess.run([*unshare, "sh", "-c", writes], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip(f"needs a user namespace with limits of its own: {probe.stderr.decode()}")
    return [*unshare, "sh", "-c", f'{writes} && exec "$@"', "sh"]


def _raise_limit(pid: int, what: str) -> None:
    script = f"echo 1000 > /proc/sys/user/max_inotify_{what}"
    subprocess.run(["nsenter", "--user", "--preserve-credentials", "-t", str(pid), "sh", "-c", script], check=True)


@pytest.mark.parametrize(("what", "most"), [("watches", 4), ("instances", 0)])
def test_watches_run_out(box: Sandbox, what: str, most: int) -> None:
    """What the kernel gives no watch for is polled; said once, with the sysctl; mended by itself."""
    prefix = _limited(**{what: most})
    box.configure("outbox", poll_seconds=0.3, rescan_seconds=3600)
    early = [box.drop(f"d{number}/e{number}/early", b"early %d" % number) for number in range(6)]
    daemon = box.start_daemon(prefix=prefix)
    box.wait_signed(*early, seconds=PATIENCE)
    for turn in range(2):
        late = [box.drop(f"d{number}/e{number}/late {turn}", b"late %d %d" % (turn, number)) for number in range(6)]
        late += [box.drop(f"new {turn}/{number}/f", b"new %d %d" % (turn, number)) for number in range(3)]
        box.wait_signed(*late, seconds=PATIENCE)
    assert box.ask("/readyz")[0] == 200
    (said,) = box.events("watch.degraded")
    assert f"fs.inotify.max_user_{what}" in said["remedy"]
    assert said["error"]
    assert not box.events("watch.restored")
    box.drop("d0/e0/early", b"changed").with_name("gone").write_bytes(b"gone")
    box.wait_signed(early[0], early[0].with_name("gone"))
    early[0].with_name("gone").unlink()
    wait_until(lambda: box.lookup(early[0].with_name("gone"))["state"] is None, PATIENCE, "the pickup noticed")
    _raise_limit(daemon.pid, what)
    wait_until(lambda: box.events("watch.restored"), PATIENCE, "everything watched")
    box.wait_idle()
    box.wait_signed(box.drop("d5/e5/watched", b"watched"))
    assert len(box.events("watch.degraded")) == 1
    assert set(box.times_signed().values()) == {1}


def _is_said_after_waking(box: Sandbox) -> bool:
    """Give the watcher something to read; the first time may be before the tracer is there."""
    box.drop("wake", b"wake")
    return bool(box.events("watch.lost"))


@pytest.mark.strace
def test_watcher_dies(box: Sandbox) -> None:
    """A watcher whose thread ends is said to be lost, with the cause, and made anew; what it missed is found."""
    box.configure("outbox", rescan_seconds=3600)
    daemon = box.start_daemon()
    box.wait_signed(box.drop("before", b"before"))
    before = len(os.listdir(f"/proc/{daemon.pid}/fd"))
    strace = subprocess.Popen(
        [require_part("strace"), "-f", "-qq", "-p", str(daemon.pid), "-P", "anon_inode:inotify",
         "-e", "trace=read", "-e", "inject=read:error=EIO", "-o", "/dev/null"],
    )  # fmt: skip
    try:
        wait_until(lambda: _is_said_after_waking(box), PATIENCE, "the loss said")
    finally:
        strace.terminate()
        strace.wait()
    (lost,) = box.events("watch.lost")[:1]
    assert lost["reason"] == "watcher_died"
    assert "Input/output error" in lost["error"]
    wait_until(lambda: len(box.events("watch.restored")) == len(box.events("watch.lost")), PATIENCE, "it restored")
    wait_until(lambda: box.ask("/readyz")[0] == 200, PATIENCE, "readiness")
    box.wait_signed(box.drop("d/after", b"after"), box.outbox / "wake", seconds=PATIENCE)
    wait_until(lambda: len(os.listdir(f"/proc/{daemon.pid}/fd")) <= before + 2, what="no descriptor left behind")


# The outbox


class _Removed:
    """Removed with all that is in it, and made again."""

    def __init__(self, box: Sandbox) -> None:
        self.outbox = box.outbox

    def lose(self) -> None:
        shutil.rmtree(self.outbox)

    def give_back(self) -> None:
        self.outbox.mkdir()

    def end(self) -> None:
        pass


class _Moved(_Removed):
    """Moved away, and back."""

    def lose(self) -> None:
        self.outbox.rename(self.outbox.with_name("elsewhere"))

    def give_back(self) -> None:
        self.outbox.with_name("elsewhere").rename(self.outbox)


class _Unmounted(_Removed):
    """Mounted, unmounted so that an empty directory shows, and mounted again."""

    def __init__(self, box: Sandbox) -> None:
        super().__init__(box)
        self.disk = box.directory / "a disk"
        self.disk.mkdir()
        self.give_back()

    def lose(self) -> None:
        subprocess.run(["umount", "-l", self.outbox], check=True)

    def give_back(self) -> None:
        if subprocess.run(["mount", "--bind", self.disk, self.outbox], capture_output=True, check=False).returncode:
            pytest.skip("needs the right to mount")

    def end(self) -> None:
        while subprocess.run(["umount", "-l", self.outbox], capture_output=True, check=False).returncode == 0:
            pass


class _Linked(_Removed):
    """A link to a directory, that is removed, and made again to another one."""

    def __init__(self, box: Sandbox) -> None:
        super().__init__(box)
        self.outbox.rename(self.outbox.with_name("old"))
        self.outbox.symlink_to("old")

    def lose(self) -> None:
        self.outbox.unlink()

    def give_back(self) -> None:
        self.outbox.with_name("new").mkdir()
        self.outbox.symlink_to("new")


@pytest.mark.parametrize("way", [_Removed, _Moved, _Unmounted, _Linked])
def test_outbox_lost_and_back(watched: Sandbox, way: type[_Removed]) -> None:
    """An outbox that is not there is said to be lost, once and why; not ready until it is back, and then taken up."""
    box, fate = watched, way(watched)
    try:
        box.start_daemon()
        before = box.drop("d/before", b"before")
        box.wait_signed(before)
        fate.lose()
        wait_until(lambda: box.ask("/readyz")[0] == 503, PATIENCE, "the loss noticed")
        wait_until(lambda: box.events("watch.lost"), what="the loss said")
        assert "the outbox is lost" in box.ask("/readyz")[1]["reasons"][0]
        assert box.ask("/healthz")[0] == 200
        assert box.metric("dropsign_watcher_alive") == 0
        if way is not _Removed:
            time.sleep(1)
            assert not box.events("file.gone"), "nothing is concluded from an outbox that is not there"
            assert box.lookup(before)["state"] == "signed"
        fate.give_back()
        wait_until(lambda: box.ask("/readyz")[0] == 200, PATIENCE, "the outbox taken up again")
        assert box.metric("dropsign_watcher_alive") == 1
        after = box.drop("d/after", b"after")
        box.wait_signed(after)
        box.rescan()
        box.wait_idle()
        assert set(box.times_signed().values()) == {1}
        (lost,) = box.events("watch.lost")
        assert lost["reason"] == "outbox_gone"
        assert lost["error"]
        assert len(box.events("watch.restored")) == 1
    finally:
        fate.end()


def test_file_system_below_the_outbox_unmounted(box: Sandbox) -> None:
    """The directory that shows in its place is watched from then on, and not left to the scans."""
    below = box.outbox / "below"
    below.mkdir()
    with small_disk(below, "1m"):
        box.start_daemon()
        box.wait_signed(box.drop("below/mounted"))
        box.wait_idle()
    for number in range(3):
        box.wait_signed(box.drop(f"below/{number}"))


def test_outbox_replaced_in_an_instant(watched: Sandbox) -> None:
    """A link that leads to another directory from one instant to the next is followed, and that is said."""
    box = watched
    box.outbox.rename(box.outbox.with_name("old"))
    (box.directory / "new").mkdir()
    (box.directory / "new" / "there").write_bytes(b"there already")
    box.outbox.symlink_to("old")
    box.start_daemon()
    box.wait_signed(box.drop("before", b"before"))
    (box.directory / "link").symlink_to("new")
    (box.directory / "link").rename(box.outbox)
    box.wait_signed(box.outbox / "there", seconds=PATIENCE)
    box.wait_signed(box.drop("after", b"after"), seconds=PATIENCE)
    assert "another directory" in box.events("watch.lost")[0]["error"]
    assert box.events("watch.restored")
    assert set(box.times_signed().values()) == {1}


# What is in the way


@pytest.mark.parametrize("mode", [0o000, 0o444])
def test_directory_that_may_not_be_looked_through(watched: Sandbox, mode: int) -> None:
    """It is named once, holds nobody up, and is tried again until it may be; the same if it comes to be so later."""
    box = watched
    path = box.drop("locked/file", b"locked")
    directory = path.parent
    directory.chmod(mode)
    box.start_daemon(prefix=powerless())
    box.wait_signed(box.drop("other", b"other"))
    for _ in range(3):
        box.rescan()
    (said,) = box.events("watch.degraded")
    assert (said["path"], said["reason"]) == ("locked", "unreadable")
    assert "Permission denied" in said["error"]
    assert box.status()["last_scan"]["unreadable_directories"] == 1
    assert box.ask("/readyz")[0] == 200
    directory.chmod(0o755)
    if mode:  # its watch was possible, and of a directory's mode no notice comes
        box.rescan()
    box.wait_signed(path, seconds=PATIENCE)
    box.rescan()
    directory.chmod(mode)
    box.rescan()
    wait_until(lambda: len(box.events("watch.degraded")) == 2, what="the next time said")
    directory.chmod(0o755)
    box.rescan()
    box.wait_idle()
    assert set(box.times_signed().values()) == {1}
    assert not box.events("file.gone")


def test_directory_with_the_name_of_a_signature(watched: Sandbox) -> None:
    """A file whose FILE.sign is a directory waits with a reason that everyone shows, and is signed once it is gone."""
    box = watched
    new, signed = box.outbox / "new", box.outbox / "signed"
    box.sign_of(new).mkdir()
    inside = box.drop("new.sign/inside", b"inside")
    box.start_daemon()
    new.write_bytes(b"new")
    signed.write_bytes(b"signed")
    box.wait_signed(signed, inside)
    box.sign_of(signed).unlink()
    box.sign_of(signed).mkdir()
    box.rescan()
    for path in (new, signed):
        wait_until(partial(box.knows_version, path, "deferred"), PATIENCE, f"{path.name} deferred")
        known = box.lookup(path)
        assert known["reason"] == "unpublishable"
        assert "a directory has the name of the signature" in known["error"]
    said = {line["path"]: line["error"] for line in box.events("file.deferred")}
    assert said.keys() == {"new", "signed"}
    assert box.status()["deferred"] == 2
    assert not box.events("gate.closed")
    for path in (new, signed):
        shutil.rmtree(box.sign_of(path))
    box.rescan()
    box.wait_signed(new, signed, seconds=PATIENCE)
    wait_until(lambda: box.status()["deferred"] == 0, what="nothing deferred any more")
    assert set(box.times_signed().values()) == {1}


def test_not_recursive_whoever_asks(watched: Sandbox) -> None:
    """With recursive = false, a file in a sub-directory is not signed on request, either."""
    box = watched
    box.configure("outbox", recursive=False)
    box.start_daemon()
    below, path = box.drop("d/below", b"below"), box.drop("file", b"file")
    box.wait_signed(path)
    assert box.ask("/api/retry", {"paths": ["d/below", "file"]}) == (200, {"retried": 1})
    assert box.ask("/api/retry", {"paths": ["d/below"], "force": True}) == (200, {"retried": 0})
    box.rescan()
    box.wait_idle()
    assert not box.sign_of(below).exists()
    assert len(box.requests()) == 1
