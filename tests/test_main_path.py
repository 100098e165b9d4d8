"""The main job, against the real daemon: a file is dropped, FILE.sign appears and matches (contract, 1 and 2)."""

import os
import shutil
import socket
import stat
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from tests.support.names import HOSTILE
from tests.support.sandbox import Sandbox, dropsign, sha256, wait_until

Way = Callable[[Path, Path, bytes], None]
"""Takes a directory outside of the outbox, the path and its content."""


def _create(_: Path, path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _rename_in(elsewhere: Path, path: Path, content: bytes) -> None:
    outside = elsewhere / f"outside of {path.parent.name}"
    outside.write_bytes(content)
    outside.rename(path)


def _rename_inside(_: Path, path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(content)
    temporary.rename(path)


def _hard_link(elsewhere: Path, path: Path, content: bytes) -> None:
    outside = elsewhere / f"linked {path.name}"
    outside.write_bytes(content)
    os.link(outside, path)


def _anonymous(_: Path, path: Path, content: bytes) -> None:
    fd = os.open(path.parent, os.O_TMPFILE | os.O_WRONLY, 0o644)
    descriptors = os.open("/proc/self/fd", os.O_RDONLY)
    try:
        os.write(fd, content)
        os.link(str(fd), path, src_dir_fd=descriptors)
    finally:
        os.close(descriptors)
        os.close(fd)


def _old_mtime(_: Path, path: Path, content: bytes) -> None:
    path.write_bytes(content)
    os.utime(path, (1, 1))


WAYS: Final[tuple[Way, ...]] = (_create, _rename_in, _rename_inside, _hard_link, _anonymous, _old_mtime)


@pytest.mark.parametrize("watcher", ["inotify", "poll"])
def test_every_way_to_put_a_file_there(box: Sandbox, watcher: str) -> None:
    """However a file comes into the outbox, it gets one matching FILE.sign, is sent once, and nothing else appears."""
    box.configure("outbox", watcher=watcher, poll_seconds=0.3)
    box.start_daemon()
    paths = []
    for way in WAYS:
        path = box.outbox / way.__name__
        way(box.directory, path, way.__name__.encode())
        paths.append(path)
    box.wait_signed(*paths)
    box.assert_exactly_signed(*paths)
    assert set(box.times_signed().values()) == {1}
    assert len(box.times_signed()) == len(paths)


def test_slow_writer_that_pauses(box: Sandbox) -> None:
    """A file that its writer holds open is not taken, however long it pauses; its final content is sent, once."""
    box.start_daemon()
    path = box.outbox / "slow"
    with path.open("wb") as file:
        file.write(b"first part, ")
        file.flush()
        time.sleep(2.5)  # far more than settle_seconds, and more than one look in between
        assert not box.requests()
        box.rescan()
        time.sleep(0.5)
        assert not box.requests()
        assert not box.sign_of(path).exists()
        file.write(b"last part")
    box.wait_signed(path)
    assert box.times_signed() == {sha256(b"first part, last part"): 1}


def test_writer_that_keeps_writing(box: Sandbox) -> None:
    """A file that grows without end is not sent while it grows, even where each piece is written and closed."""
    box.configure("outbox", settle_after_close_seconds=1.0)
    box.start_daemon()
    path = box.outbox / "log"
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        with path.open("ab") as file:
            file.write(b"line\n")
        time.sleep(0.05)
    content = path.read_bytes()
    box.wait_signed(path)
    assert box.times_signed() == {sha256(content): 1}


def test_directories_made_with_their_files_in_one_instant(box: Sandbox) -> None:
    """Files written in the very moment in which their directories appear are all found, without a scan's help."""
    box.start_daemon()
    paths = []
    for number in range(40):
        path = box.outbox / f"a{number}" / "b" / "c" / "file"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"%d" % number)
        paths.append(path)
    box.wait_signed(*paths)
    box.assert_exactly_signed(*paths)
    assert len(box.events("scan.finished")) == 1
    assert set(box.times_signed().values()) == {1}


def test_deep_directory(box: Sandbox) -> None:
    """A tree of three hundred levels is watched and walked like any other."""
    box.start_daemon()
    directory = "/".join(["d"] * 300)
    path = box.drop(f"{directory}/file", b"deep")
    box.wait_signed(path)
    box.rescan()
    assert len(box.requests()) == 1


def test_directory_tree_moved_in_and_within(box: Sandbox) -> None:
    """A tree that is moved into the outbox is signed as a whole; moved within, its signatures go along and stay."""
    outside = box.directory / "tree"
    for number in range(60):
        path = outside / f"d{number % 5}" / f"e{number % 3}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"tree %d" % number)
    box.start_daemon()
    outside.rename(box.outbox / "tree")
    paths = [path for path in (box.outbox / "tree").rglob("f*") if path.is_file()]
    assert len(paths) == 60
    box.wait_signed(*paths)
    (box.outbox / "tree").rename(box.outbox / "moved")
    late = box.outbox / "moved" / "d0" / "late"
    late.write_bytes(b"written under the new name")
    box.wait_signed(late)
    box.rescan()
    box.wait_idle()
    moved = [path for path in (box.outbox / "moved").rglob("f*") if not path.name.endswith(".sign") and path.is_file()]
    box.assert_exactly_signed(late, *moved)
    assert set(box.times_signed().values()) == {1}


def _append(path: Path) -> bytes:
    with path.open("ab") as file:
        file.write(b" and more")
    return b"version 1 and more"


def _rewrite(path: Path) -> bytes:
    path.write_bytes(b"version 2")
    return b"version 2"


def _write_in_place(path: Path) -> bytes:
    with path.open("r+b") as file:
        file.write(b"VERSION")
    return b"VERSION 1"


def test_stale_signature_is_withdrawn_before_the_new_version_settles(box: Sandbox) -> None:
    """A changed file loses its FILE.sign as soon as that is noticed, not only when the new version has settled."""
    box.configure("outbox", settle_seconds=1.5, settle_after_close_seconds=1.5)
    box.start_daemon()
    changes = {box.outbox / change.__name__: change for change in (_append, _rewrite, _write_in_place)}
    for path in changes:
        path.write_bytes(b"version 1")
    box.wait_signed(*changes)
    contents = {path: change(path) for path, change in changes.items()}
    wait_until(lambda: not any(box.sign_of(path).exists() for path in changes), what="the withdrawals")
    assert box.status()["settling"] == 3, "the new versions have not settled when the old signatures go"
    assert not {*map(sha256, contents.values())} & box.times_signed().keys()
    box.wait_signed(*changes)
    box.wait_idle()
    assert {path: path.read_bytes() for path in changes} == contents
    for path in changes:
        events = [line["event"] for line in box.log() if line.get("path") == path.name]
        assert events == ["file.signed", "file.changed", "file.withdrawn", "file.signed"]


def test_replaced_by_rename(box: Sandbox) -> None:
    """A signed file that is replaced by rename is signed anew, also if the new one is older and of the same size."""
    box.start_daemon()
    path = box.drop("file", b"version 1")
    box.wait_signed(path)
    _rename_inside(box.directory, path, b"version 2")
    box.wait_signed(path)
    outside = box.directory / "outside"
    outside.write_bytes(b"version 3")
    os.utime(outside, (1, 1))
    outside.rename(path)
    box.wait_signed(path)
    box.assert_exactly_signed(path)
    assert sorted(box.times_signed().values()) == [1, 1, 1]


@pytest.mark.parametrize("size", [9, 3_000_000])
def test_rewritten_while_being_signed(box: Sandbox, size: int) -> None:
    """What is rewritten while it is being signed ends with its final content's signature; no version goes twice."""
    old, new = b"1" * size, b"2" * size
    box.start_daemon()
    box.misbehave("delay 800ms")
    path = box.drop("file", old)
    wait_until(lambda: box.status()["in_flight"] == 1, what="the request")
    path.write_bytes(new)
    box.wait_signed(path)
    assert path.read_bytes() == new
    times = box.times_signed()
    assert times[sha256(new)] == 1
    assert times[sha256(old)] <= 1
    wait_until(lambda: box.knows_version(path), what="the record")
    assert [line["sha256"] for line in box.events("file.signed")] == [sha256(new)], "the old version's never lay there"
    box.assert_exactly_signed(path)


def test_many_rewritten_while_being_signed(box: Sandbox) -> None:
    """Files rewritten again and again, while signatures are on their way, end with the signature of what they are."""
    box.start_daemon()
    box.misbehave("delay 30ms")
    paths = [box.outbox / f"f{number}" for number in range(20)]
    for version in range(8):
        for path in paths:
            path.write_bytes(b"%s %d" % (path.name.encode(), version))
        time.sleep(0.09)
    box.wait_signed(*paths)
    box.wait_idle()
    box.assert_exactly_signed(*paths)
    assert set(box.times_signed().values()) == {1}


def test_touched_file_keeps_its_signature(box: Sandbox) -> None:
    """A file that is touched, chmodded or written again with the same content keeps its FILE.sign, and is not sent."""
    box.start_daemon()
    path = box.drop("file", b"content")
    box.wait_signed(path)
    inode = box.sign_of(path).stat().st_ino

    def untouched() -> None:
        box.rescan()
        wait_until(lambda: box.knows_version(path), what="the new fingerprint in the journal")
        assert box.sign_of(path).stat().st_ino == inode
        assert len(box.requests()) == 1

    os.utime(path)
    untouched()
    os.utime(path, (1, 1))
    untouched()
    path.chmod(0o600)
    untouched()
    os.link(path, box.directory / "another name")
    untouched()
    assert not box.events("file.withdrawn")


def test_same_content_written_again_is_not_sent(box: Sandbox) -> None:
    """A file that is rewritten with what it held is signed again without asking the service."""
    box.start_daemon()
    path = box.drop("file", b"content")
    box.wait_signed(path)
    path.write_bytes(b"content")
    wait_until(lambda: box.knows_version(path), what="the new fingerprint in the journal")
    _rename_inside(box.directory, path, b"content")
    wait_until(lambda: box.knows_version(path), what="the new fingerprint in the journal")
    box.assert_exactly_signed(path)
    assert len(box.requests()) == 1


def test_removed_signature_is_put_back(box: Sandbox) -> None:
    """A FILE.sign that someone removed is put back, byte for byte, at the next scan (SIGUSR1), without a request."""
    box.start_daemon()
    path, empty = box.drop("file"), box.drop("empty", b"")
    box.wait_signed(path, empty)
    texts = [box.sign_of(file).read_bytes() for file in (path, empty)]
    box.sign_of(path).unlink()
    box.sign_of(empty).unlink()
    box.rescan()
    box.wait_signed(path, empty)
    box.wait_idle()
    assert [box.sign_of(file).read_bytes() for file in (path, empty)] == texts
    assert len(box.requests()) == 2
    assert {line["path"] for line in box.events("file.republished")} == {"file", "empty"}


def test_removed_signature_stays_removed_if_so_configured(box: Sandbox) -> None:
    """With republish_missing = false, a FILE.sign that someone removed stays away."""
    box.configure("outbox", republish_missing=False)
    box.start_daemon()
    path = box.drop("file")
    box.wait_signed(path)
    box.sign_of(path).unlink()
    box.rescan()
    box.wait_idle()
    assert len(box.requests()) == 1
    assert box.files() == [b"file"]


@pytest.mark.parametrize("running", [True, False])
def test_foreign_signatures(box: Sandbox, running: bool) -> None:
    """A FILE.sign that is not ours is kept if it is not older than its file; an older one goes, a new one comes."""
    if running:
        box.start_daemon()
    staging = box.directory / "staging"
    staging.mkdir()
    for name in ("newer", "older", "same"):
        (staging / name).write_bytes(name.encode())
        (staging / f"{name}.sign").write_bytes(b"of an earlier script")
    os.utime(staging / "older.sign", (1, 1))
    os.utime(staging / "same", ns=(10**18, 10**18))
    os.utime(staging / "same.sign", ns=(10**18, 10**18))
    staging.rename(box.outbox / "d")
    if not running:
        box.start_daemon()
    directory = box.outbox / "d"
    box.wait_signed(directory / "older")
    for name in ("newer", "same"):
        wait_until(partial(box.knows_version, directory / name), what=f"the adoption of {name}")
        assert (directory / f"{name}.sign").read_bytes() == b"of an earlier script"
    assert box.times_signed() == {sha256(b"older"): 1}
    assert {line["path"] for line in box.events("file.adopted")} == {"d/newer", "d/same"}
    assert {line["path"] for line in box.events("file.withdrawn")} == {"d/older"}


def test_foreign_signature_must_verify_where_a_key_is_set(box: Sandbox) -> None:
    """With a verification key, a FILE.sign that is not ours is kept only if it verifies."""
    box.configure("verify", key=str(box.signing.public_key))
    good, wrong = box.drop("good", b"good"), box.drop("wrong", b"wrong")
    box.start_daemon()
    box.wait_signed(good, wrong)
    text = box.sign_of(good).read_bytes()
    box.stop_daemon()
    box.journal.unlink()
    box.sign_of(wrong).write_bytes(text)
    box.start_daemon()
    box.wait_signed(good, wrong)
    assert box.sign_of(good).read_bytes() == text
    assert box.times_signed() == {sha256(b"good"): 1, sha256(b"wrong"): 2}


def test_picked_up_in_either_order(box: Sandbox) -> None:
    """A pickup may move the file or its FILE.sign first: what is left is left alone, and nothing is made again."""
    box.start_daemon()
    first, second = box.drop("first", b"1"), box.drop("second", b"2")
    box.wait_signed(first, second)
    away = box.directory / "away"
    away.mkdir()
    first.rename(away / "first")
    box.rescan()
    wait_until(lambda: box.lookup(first)["state"] is None, what="the pickup's notice")
    assert box.sign_of(first).exists()
    assert box.files() == [b"first.sign", b"second", b"second.sign"]
    box.sign_of(first).rename(away / "first.sign")
    box.sign_of(second).rename(away / "second.sign")
    second.rename(away / "second")
    box.rescan()
    wait_until(lambda: box.lookup(second)["state"] is None, what="the pickup's notice")
    assert box.files() == []
    assert len(box.requests()) == 2
    assert len(box.events("file.gone")) == 2


def test_picked_up_while_being_signed(box: Sandbox) -> None:
    """A file that disappears while it waits or is being signed is simply done; no FILE.sign appears without it."""
    box.start_daemon()
    box.misbehave("delay 700ms")
    paths = [box.drop(f"f{number}", b"%d" % number) for number in range(50)]
    wait_until(lambda: box.status()["in_flight"] >= 4, what="requests on their way")
    for path in paths:
        path.unlink()
    box.misbehave("")
    last = box.drop("last")
    box.wait_signed(last)
    box.wait_idle()
    box.assert_exactly_signed(last)
    assert box.status()["failed"] == 0


def test_filters(box: Sandbox) -> None:
    """Hidden and unfinished names are no drops, nor what include and exclude leave out; none is touched or listed."""
    box.configure("outbox", include=["*.bin", "all/**"], exclude=[".*", "*.tmp", "*.part", "*~", "no/"])
    left = [".hidden.bin", "x.tmp", "x.bin.part", "x.bin~", "x.txt", "no/x.bin", ".d/x.bin", "x.bin.sign", "d/no/x.bin"]
    for name in left:
        box.drop(name, name.encode())
    box.start_daemon()
    taken = [box.drop(name, name.encode()) for name in ("x.bin", "deep/y.bin", "all/z.txt", "all/deep/z")]
    for name in left:
        box.drop(f"late/{name}", name.encode())
    box.wait_signed(*taken)
    box.rescan()
    box.wait_idle()
    assert len(box.requests()) == len(taken)
    signed = {os.fsencode(box.sign_of(path).relative_to(box.outbox)) for path in taken}
    others = {os.fsencode(name) for name in (*left, *(f"late/{name}" for name in left))}
    assert set(box.files()) == signed | others | {os.fsencode(path.relative_to(box.outbox)) for path in taken}
    assert not box.known("refused")


def test_refusals(box: Sandbox) -> None:
    """Links, FIFOs, sockets, too large and too long files are refused: said once, listed, and never touched."""
    box.configure("outbox", max_file_mib=1)
    target = box.directory / "target"
    target.mkdir()
    (target / "secret").write_bytes(b"not to be sent")
    box.start_daemon()
    outbox = box.outbox
    (outbox / "link").symlink_to(target / "secret")
    (outbox / "dangling").symlink_to("nowhere")
    (outbox / "directory").symlink_to(target)
    os.mkfifo(outbox / "fifo")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(outbox / "sock"))
    (outbox / "large").write_bytes(b"x" * (1024 * 1024 + 1))
    (outbox / ("n" * 251)).write_bytes(b"long")
    fits = box.drop("n" * 250, b"fits")
    largest = box.drop("largest", b"y" * 1024 * 1024)
    reasons = {
        b"link": "symbolic_link", b"dangling": "symbolic_link", b"directory": "symbolic_link", b"fifo": "fifo",
        b"sock": "socket", b"large": "too_large", b"n" * 251: "name_too_long",
    }  # fmt: skip
    before = {name: os.lstat(os.path.join(os.fsencode(outbox), name)) for name in reasons}
    box.wait_signed(fits, largest)
    for _ in range(2):
        box.rescan()
    wait_until(lambda: box.known("refused").keys() == reasons.keys(), what="all refusals")
    box.rescan()
    box.wait_idle()
    assert {name: file["reason"] for name, file in box.known("refused").items()} == reasons
    assert box.status()["refused"] == len(reasons)
    said = [(os.fsencode(line["path"]), line["reason"]) for line in box.events("file.refused")]
    assert sorted(said) == sorted(reasons.items()), "each once"
    assert {name: os.lstat(os.path.join(os.fsencode(outbox), name)) for name in reasons} == before
    assert len(box.requests()) == 2
    (outbox / "large").write_bytes(b"small now")
    box.wait_signed(outbox / "large")
    (outbox / "link").unlink()
    box.drop("link", b"a file now")
    box.wait_signed(outbox / "link")


def test_signed_file_that_becomes_a_link_loses_its_signature(box: Sandbox) -> None:
    """Where a signed file is replaced by something that can't be signed, its FILE.sign does not stay."""
    box.start_daemon()
    path = box.drop("file")
    box.wait_signed(path)
    link = box.outbox / "link.tmp"
    link.symlink_to("/etc/hostname")
    link.rename(path)
    wait_until(lambda: not box.sign_of(path).exists(), what="the withdrawal")
    assert len(box.requests()) == 1


def test_empty_and_huge(box: Sandbox) -> None:
    """An empty file is signed like any other, and so is one of 100 MiB."""
    box.start_daemon()
    empty = box.drop("empty", b"")
    huge = box.drop("huge", os.urandom(1024) * 1024 * 100)
    box.wait_signed(empty, huge, seconds=60)
    box.wait_idle()
    assert [(line["path"], line["size"]) for line in box.events("file.signed")] == [("empty", 0), ("huge", 100 << 20)]


def test_hostile_names(box: Sandbox) -> None:
    """File names are bytes: all of them work, flat and as directories, and a log line stays one line of JSON."""
    box.start_daemon()
    flat = [box.drop(name, b"flat " + name) for name in HOSTILE]
    nested = [box.drop(name + b"/" + name, b"nested " + name) for name in (b"d" + name[:100] for name in HOSTILE)]
    box.wait_signed(*flat, *nested)
    box.wait_idle()
    box.assert_exactly_signed(*flat, *nested)
    relative = {os.fsencode(path.relative_to(box.outbox)) for path in (*flat, *nested)}
    assert {os.fsencode(line["path"]) for line in box.events("file.signed")} == relative
    assert box.daemon_log.read_bytes().isascii()
    for line in box.log():
        assert {"timestamp", "level", "event"} <= line.keys()
    for path in flat:
        path.write_bytes(b"changed")
    box.wait_signed(*flat)


def test_error_files(box: Sandbox) -> None:
    """With error_files, FILE.sign-error tells the reason beside a failed file, and goes when it no longer holds."""
    box.configure("outbox", error_files=True)
    box.start_daemon()
    box.misbehave("413")
    changed, retried, gone = box.drop("changed"), box.drop("retried", b"retried"), box.drop("gone", b"gone")
    notes = [path.with_name(path.name + ".sign-error") for path in (changed, retried, gone)]
    for note in notes:
        wait_until(note.exists, what=note.name)
        assert "413" in note.read_text()
        assert stat.S_IMODE(note.stat().st_mode) == 0o644
    assert box.known("failed").keys() == {b"changed", b"retried", b"gone"}
    box.rescan()
    box.wait_idle()
    assert len(box.requests()) == 3, "a failed file is not tried again by itself, and its note is no drop"
    box.misbehave("")
    changed.write_bytes(b"changed")
    assert box.ask("/api/retry", {"paths": ["retried"]}) == (200, {"retried": 1})
    gone.unlink()
    box.wait_signed(changed, retried)
    box.rescan()
    wait_until(lambda: not any(note.exists() for note in notes), what="the removal of the notes")
    box.assert_exactly_signed(changed, retried)


def test_sigterm_drains(box: Sandbox) -> None:
    """SIGTERM lets what is in flight end and be published, exits 0; the rest is signed after the next start, once."""
    box.start_daemon()
    box.misbehave("delay 1s")
    paths = [box.drop(f"f{number}", b"%d" % number) for number in range(80)]
    wait_until(lambda: box.status()["in_flight"] >= 4, what="requests on their way")
    assert box.stop_daemon() == 0
    signed = [path for path in paths if box.sign_of(path).exists()]
    assert len(signed) == len(box.times_signed()) >= 4
    assert all(map(box.is_signed, signed))
    assert box.log()[-1]["event"] == "daemon.stopped"
    assert not box.socket.exists()
    box.misbehave("")
    box.start_daemon()
    box.wait_signed(*paths)
    box.assert_exactly_signed(*paths)
    assert set(box.times_signed().values()) == {1}
    assert {line["attempt"] for line in box.events("file.signed")} == {1}


def test_dropped_changed_and_removed_while_it_was_down(box: Sandbox) -> None:
    """What happened while the daemon was down is found at its start: new, changed, removed files, lost signatures."""
    box.start_daemon()
    kept, changed, gone, lost = (box.drop(name, name.encode()) for name in ("kept", "changed", "gone", "lost"))
    box.wait_signed(kept, changed, gone, lost)
    assert box.stop_daemon() == 0
    new = box.drop("new/new", b"new")
    changed.write_bytes(b"CHANGED")
    gone.unlink()
    box.sign_of(lost).unlink()
    box.start_daemon()
    box.wait_signed(kept, changed, lost, new)
    box.wait_idle()
    assert box.lookup(gone)["state"] is None
    assert box.sign_of(gone).exists()
    assert box.times_signed()[sha256(b"CHANGED")] == 1
    assert len(box.requests()) == 6


def test_sign_mode(box: Sandbox) -> None:
    """sign_mode is the mode of every FILE.sign, whatever the umask."""
    box.configure("outbox", sign_mode="0604")
    old = os.umask(0o077)
    try:
        box.start_daemon()
    finally:
        os.umask(old)
    path = box.drop("file")
    box.wait_signed(path)
    assert stat.S_IMODE(box.sign_of(path).stat().st_mode) == 0o604


@pytest.mark.parametrize("watcher", ["inotify", "poll"])
def test_not_recursive(box: Sandbox, watcher: str) -> None:
    """With recursive = false, only the files right in the outbox are drops."""
    box.configure("outbox", recursive=False, watcher=watcher, poll_seconds=0.3)
    below = box.drop("early/below")
    box.start_daemon()
    path = box.drop("file", b"file")
    box.drop("late/below")
    box.wait_signed(path)
    box.rescan()
    box.wait_idle()
    assert len(box.requests()) == 1
    assert not box.sign_of(below).exists()


def test_polling(box: Sandbox) -> None:
    """A polled outbox keeps the same promises: new, nested, changed, equal, removed, written slowly."""
    box.configure("outbox", watcher="poll", poll_seconds=0.3)
    box.start_daemon()
    path, nested = box.drop("file", b"version 1"), box.drop("a/b/c/file", b"nested")
    slow = box.outbox / "slow"
    with slow.open("wb") as file:
        file.write(b"half")
        file.flush()
        box.wait_signed(path, nested)
        time.sleep(1.5)
        assert not box.sign_of(slow).exists()
        file.write(b" whole")
    path.write_bytes(b"version 2")
    os.utime(path, (1, 1))
    box.wait_signed(path, slow)
    os.utime(nested)
    wait_until(lambda: box.knows_version(nested), what="the new fingerprint in the journal")
    text = box.sign_of(nested).read_bytes()
    box.sign_of(nested).unlink()
    box.wait_signed(nested)
    assert box.sign_of(nested).read_bytes() == text
    path.unlink()
    wait_until(lambda: box.lookup(path)["state"] is None, what="the pickup's notice")
    assert set(box.times_signed().values()) == {1}
    assert len(box.requests()) == 4


def test_outbox_through_a_link(box: Sandbox) -> None:
    """outbox.path may itself be a symbolic link to the directory."""
    link = box.directory / "link"
    link.symlink_to(box.outbox)
    box.configure("outbox", path=str(link))
    box.start_daemon()
    path = box.drop("d/file")
    box.wait_signed(path)
    assert len(box.events("scan.finished")) == 1


def test_outbox_removed_and_made_again(box: Sandbox) -> None:
    """An outbox that vanishes makes the daemon not ready, says so once, and is taken up again when it is back."""
    box.start_daemon()
    box.wait_signed(box.drop("file"))
    shutil.rmtree(box.outbox)
    wait_until(lambda: box.ask("/readyz")[0] == 503, what="the loss noticed")
    box.outbox.mkdir()
    wait_until(lambda: box.ask("/readyz")[0] == 200, what="the outbox taken up again")
    path = box.drop("d/file", b"after")
    box.wait_signed(path)
    assert len(box.events("watch.lost")) == len(box.events("watch.restored")) == 1


def test_writers_at_once(box: Sandbox) -> None:
    """Several writers in many directories at once, with pauses of their own: all signed, each version once."""
    box.start_daemon()
    paths = [box.outbox / f"w{writer}" / f"d{number % 7}" / f"f{number}" for writer in range(4) for number in range(60)]

    def write(writer: int) -> None:
        elsewhere = box.directory / f"elsewhere {writer}"
        elsewhere.mkdir()
        for number, path in enumerate(paths[writer * 60 : (writer + 1) * 60]):
            path.parent.mkdir(parents=True, exist_ok=True)
            WAYS[number % len(WAYS)](elsewhere, path, f"{path}".encode())

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    box.wait_signed(*paths)
    box.wait_idle()
    box.assert_exactly_signed(*paths)
    assert set(box.times_signed().values()) == {1}


def test_other_content_of_the_same_size_is_noticed_at_once(box: Sandbox) -> None:
    """A signed file replaced by a rename, of the same size, loses its stale signature before the new one settles."""
    box.configure("outbox", settle_seconds=30, settle_after_close_seconds=30)
    path = box.drop("report", b"first version")
    done = dropsign("--config", box.config, "sign", path)
    assert done.returncode == 0, done.stderr
    assert box.is_signed(path)
    box.start_daemon()
    replacement = box.directory / "replacement"
    replacement.write_bytes(b"other version")
    replacement.rename(path)
    wait_until(lambda: box.events("file.withdrawn"), what="the withdrawal")
    assert not box.sign_of(path).exists()
