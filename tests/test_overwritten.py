"""A FILE.sign that somebody wrote over or replaced is put back from the journal; the service is asked for nothing."""

import json
import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from dropsign import schema
from dropsign.contention import UNCONTESTED_SECONDS
from tests.support.sandbox import Sandbox, dropsign, wait_until

Overwrite = Callable[[Path, Path], None]
"""Takes a FILE.sign, and a file elsewhere that must stay as it is."""


def _in_place(sign: Path, _: Path) -> None:
    with sign.open("r+b") as file:
        file.write(b"foreign")


def _renamed(sign: Path, elsewhere: Path) -> None:
    new = elsewhere.with_name("new")
    new.write_bytes(b"foreign")
    new.rename(sign)


def _displaced(make: Callable[[Path, Path], object]) -> Overwrite:
    def overwrite(sign: Path, elsewhere: Path) -> None:
        sign.unlink()
        make(sign, elsewhere)

    return overwrite


OVERWRITES: dict[str, Overwrite] = {
    "in-place": _in_place,
    "truncated": lambda sign, _: os.truncate(sign, 0),
    "renamed": _renamed,
    "fifo": _displaced(lambda sign, _: os.mkfifo(sign)),
    "link": _displaced(lambda sign, elsewhere: sign.symlink_to(elsewhere)),
    "dangling-link": _displaced(lambda sign, elsewhere: sign.symlink_to(elsewhere.with_name("nothing"))),
    "hard-link": _displaced(lambda sign, elsewhere: sign.hardlink_to(elsewhere)),
}


def is_mended(box: Sandbox, path: Path) -> bool:
    """Tell whether a FILE.sign is a file of its own, and the right one."""
    try:
        status = box.sign_of(path).lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and box.is_signed(path)


def wait_mended(box: Sandbox, *paths: Path) -> None:
    wait_until(lambda: all(is_mended(box, path) for path in paths), 40, "every FILE.sign's return")


def republished(box: Sandbox) -> dict[str, str]:
    return {event["path"]: event["reason"] for event in box.events("file.republished")}


def drop_signed(box: Sandbox, *names: str) -> dict[str, Path]:
    paths = {name: box.drop(name, name.encode()) for name in names}
    box.wait_signed(*paths.values())
    box.wait_idle()
    return paths


def command(box: Sandbox, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    done = dropsign("--config", box.config, *arguments)
    assert "Traceback" not in done.stderr
    return done


def explained(box: Sandbox, path: Path) -> dict[str, str]:
    answer: dict[str, str] = json.loads(command(box, "explain", path, "--json").stdout)
    return answer


def test_whatever_takes_its_place_is_replaced_at_once(watched: Sandbox) -> None:
    """Each form of it, while the daemon runs: what a link leads to is neither taken for it nor touched."""
    box = watched
    box.start_daemon()
    paths = drop_signed(box, *OVERWRITES)
    elsewhere = box.directory / "elsewhere"
    elsewhere.write_bytes(box.sign_of(paths["link"]).read_bytes())  # a link to the right text is no FILE.sign either
    before = elsewhere.stat()
    for name, overwrite in OVERWRITES.items():
        overwrite(box.sign_of(paths[name]), elsewhere)
    wait_mended(box, *paths.values())
    box.wait_idle()
    assert elsewhere.read_bytes() == box.sign_of(paths["link"]).read_bytes()
    assert (elsewhere.stat().st_ino, elsewhere.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert not elsewhere.with_name("nothing").exists()
    assert set(box.times_signed().values()) == {1}
    told = republished(box)
    assert told.keys() == OVERWRITES.keys()
    assert set(told.values()) <= {"overwritten", "missing"}  # looked at between the removal and what came after
    box.assert_exactly_signed(*paths.values())


def test_what_was_done_while_the_daemon_was_down(box: Sandbox) -> None:
    """With no event to tell of it, the scan at the start finds each form; `explain` does before."""
    box.start_daemon()
    paths = drop_signed(box, *OVERWRITES, "untouched")
    assert box.stop_daemon() == 0
    elsewhere = box.directory / "elsewhere"
    elsewhere.write_bytes(b"precious")
    for name, overwrite in OVERWRITES.items():
        overwrite(box.sign_of(paths[name]), elsewhere)
    for name in ("truncated", "fifo", "link"):
        told = explained(box, paths[name])
        assert told["state"] == "wrong", (name, told)
        assert "dropsign sign FILE" in told["remedy"]
    box.start_daemon()
    wait_mended(box, *paths.values())
    box.wait_idle()
    assert elsewhere.read_bytes() == b"precious"
    assert republished(box) == dict.fromkeys(OVERWRITES, "overwritten")
    assert set(box.times_signed().values()) == {1}
    box.assert_exactly_signed(*paths.values())


def test_what_leaves_the_content_alone_is_looked_at_once(box: Sandbox) -> None:
    """Another mode, another owner, a second name: one scan looks into it, none after it; nothing is written."""
    box.configure("outbox", rescan_seconds=3600)
    box.start_daemon()
    paths = drop_signed(box, "mode", "owner", "name", "none")
    inodes = {name: box.sign_of(path).stat().st_ino for name, path in paths.items()}
    box.sign_of(paths["mode"]).chmod(0o600)
    os.chown(box.sign_of(paths["owner"]), -1, os.getgid() if os.geteuid() else 12345)
    (box.directory / "picked up.sign").hardlink_to(box.sign_of(paths["name"]))
    box.rescan()
    box.wait_idle()
    differences = [scan["differences"] for scan in box.events("scan.finished")]
    assert 3 in differences
    box.rescan()
    assert [scan["differences"] for scan in box.events("scan.finished")][-1] == 0
    assert {name: box.sign_of(path).stat().st_ino for name, path in paths.items()} == inodes
    assert stat.S_IMODE(box.sign_of(paths["mode"]).stat().st_mode) == 0o600
    assert not republished(box)
    assert len(box.requests()) == len(paths)


def test_without_republish_missing(box: Sandbox) -> None:
    """Then one that was removed stays away, whoever removed it; one that was written over comes back all the same."""
    box.configure("outbox", republish_missing=False, rescan_seconds=3600)
    box.start_daemon()
    paths = drop_signed(box, "removed", "in-place", "later")
    box.sign_of(paths["removed"]).unlink()
    _in_place(box.sign_of(paths["in-place"]), box.directory)
    wait_mended(box, paths["in-place"])
    box.rescan()
    box.wait_idle()
    box.stop_daemon()
    _renamed(box.sign_of(paths["later"]), box.directory / "elsewhere")
    box.start_daemon()
    wait_mended(box, paths["later"])
    box.rescan()
    assert not box.sign_of(paths["removed"]).exists()
    assert republished(box) == {"in-place": "overwritten", "later": "overwritten"}
    assert len(box.requests()) == len(paths)


def test_sign_without_a_daemon_puts_it_back(box: Sandbox) -> None:
    """`dropsign sign FILE` needs no --force and no request for it."""
    paths = {name: box.drop(name, name.encode()) for name in OVERWRITES}
    assert command(box, "sign", box.outbox).returncode == 0
    for name, overwrite in OVERWRITES.items():
        overwrite(box.sign_of(paths[name]), box.config)
    done = command(box, "sign", *paths.values())
    assert (done.returncode, f"{len(paths)} republished" in done.stdout) == (0, True), done.stdout + done.stderr
    assert all(is_mended(box, path) for path in paths.values())
    assert set(box.times_signed().values()) == {1}
    assert box.config.read_bytes().startswith(b"[outbox]")


def test_two_programs_that_both_write_it_do_not_fight_for_ever(box: Sandbox) -> None:
    """What is written over again and again is left to scans and to `sign`; `wait` says what it waits for."""
    box.configure("outbox", rescan_seconds=3600)
    box.start_daemon()
    path = drop_signed(box, "a")["a"]
    fighter = (
        "import pathlib, sys, time\n"
        "sign = pathlib.Path(sys.argv[1])\n"
        "while True:\n"
        "    if not sign.exists() or sign.read_bytes() != b'foreign':\n"
        "        sign.write_bytes(b'foreign')\n"
        "        print(flush=True)\n"
        "    time.sleep(0.001)\n"
    )
    started = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", fighter, box.sign_of(path)], stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None
            other.stdout.readline()
            wait_until(lambda: republished(box), what="the first return")
            other.stdout.readline()  # it is written over again
            done = command(box, "wait", "--timeout", "1", path)
        finally:
            other.kill()
    assert (done.returncode, "somebody wrote over its FILE.sign" in done.stderr) == (3, True), done.stderr
    box.wait_idle()
    assert box.sign_of(path).read_bytes() == b"foreign"
    times = len(box.events("file.republished"))
    # One more, as a notice that came while it was put back is kept until that is over.
    assert times <= 2 * (1 + (time.monotonic() - started) / UNCONTESTED_SECONDS)
    assert command(box, "sign", path).returncode == 0
    assert is_mended(box, path)
    assert command(box, "wait", path).returncode == 0
    assert len(box.requests()) == 1


def test_a_directory_of_its_name_is_never_removed_and_told(box: Sandbox) -> None:
    """The signature waits in the journal until somebody moves the directory away; `explain` and the log say so."""
    box.start_daemon()
    path = drop_signed(box, "a")["a"]
    sign = box.sign_of(path)
    sign.unlink()
    sign.mkdir()
    wait_until(lambda: box.known("deferred"), what="the deferral")
    told = explained(box, path)
    assert (told["state"], "a directory has the name of the signature" in told["cause"]) == ("deferred", True)
    assert "a directory has the name" in box.known("deferred")[b"a"]["error"]
    listed = command(box, "status").stdout
    assert ("1 deferred" in listed, "a: unpublishable: " in listed) == (True, True), listed
    done = command(box, "wait", "--timeout", "0", path)
    assert (done.returncode, "a directory has the name" in done.stderr) == (3, True)
    assert command(box, "sign", path).returncode == 1
    assert sign.is_dir()
    assert box.stop_daemon() == 0
    sign.rmdir()
    box.start_daemon()
    assert command(box, "sign", path).returncode == 0
    assert is_mended(box, path)
    box.stop_daemon()
    sign.unlink()
    sign.mkdir()
    told = explained(box, path)
    assert (told["state"], "move it away" in told["remedy"]) == ("wrong", True)
    assert "move it away" in command(box, "wait", "--timeout", "0", path).stderr
    assert len(box.requests()) == 1


def test_wait_names_what_is_no_file_at_once(box: Sandbox) -> None:
    """A link or a FIFO in a tree is named before the wait is over, while other files are still waited for."""
    box.start_daemon()
    os.mkfifo(box.outbox / "fifo")
    (box.outbox / "link").symlink_to(box.config)
    with (box.outbox / "open").open("wb") as writer:
        writer.write(b"unfinished")
        writer.flush()
        verb = [sys.executable, "-m", "dropsign", "--config", str(box.config), "wait", str(box.outbox)]
        with subprocess.Popen(verb, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
            assert waiting.stderr is not None
            named = waiting.stderr.readline() + waiting.stderr.readline()
            is_waiting = waiting.poll() is None
            writer.close()
            out, err = waiting.communicate()
    assert is_waiting
    assert all(str(box.outbox / name) in named for name in ("fifo", "link")), named
    assert (waiting.returncode, out, err) == (1, "1 signed and matching, 2 not\n", "")
    box.stop_daemon()
    done = command(box, "wait", "--timeout", "0", box.drop("unknown"))  # to the journal
    assert (done.returncode, f"{box.outbox / 'unknown'}: " in done.stderr) == (3, True)


def _schema(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    rows = connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table' ORDER BY name").fetchall()
    return [(name, re.sub(r"\s+", " ", sql)) for name, sql in rows]


def test_journal_of_the_version_before_keeps_all_it_has(box: Sandbox) -> None:
    """Schema 2 knew no stamps: each FILE.sign is looked at once, what was written over is put back, the chain holds."""
    box.start_daemon()
    paths = drop_signed(box, "kept", "overwritten", "sub/removed", "rewritten")
    failing = box.drop("r" * 252)
    wait_until(lambda: box.known("refused"), what="the refusal")
    assert box.stop_daemon() == 0
    drops = "SELECT directory, name, state, device, inode, size, mtime_ns, ctime_ns, signature FROM drops"
    with closing(sqlite3.connect(box.journal)) as other:
        for column in ("sign_inode", "sign_ctime_ns"):
            other.execute(f"ALTER TABLE drops DROP COLUMN {column}")
        other.execute("DROP INDEX waiting")
        other.execute("PRAGMA user_version = 2")
        other.commit()
        with closing(sqlite3.connect(":memory:")) as plain:
            for statement in [statement for version in schema.MIGRATIONS[:2] for statement in version]:
                plain.execute(statement)
            assert _schema(plain) == _schema(other), "this is what the version before left"
        rows, signatures = other.execute(drops).fetchall(), other.execute("SELECT * FROM signatures").fetchall()
    told = command(box, "status")
    assert (told.returncode, "start the daemon once" in told.stderr) == (2, True)
    _in_place(box.sign_of(paths["overwritten"]), box.directory)
    box.sign_of(paths["sub/removed"]).unlink()
    box.start_daemon()
    wait_mended(box, *paths.values())
    box.wait_idle()
    assert republished(box) == {"overwritten": "overwritten", "sub/removed": "missing"}
    box.rescan()
    assert [scan["differences"] for scan in box.events("scan.finished")][-1] == len([failing])
    assert box.stop_daemon(signal.SIGTERM) == 0
    with closing(sqlite3.connect(box.journal)) as other:
        assert other.execute("PRAGMA user_version").fetchone() == (len(schema.MIGRATIONS),)
        assert other.execute(drops).fetchall() == rows
        assert other.execute("SELECT * FROM signatures").fetchall() == signatures
        unknown = "SELECT count(*) FROM drops WHERE state = 'signed' AND sign_inode IS NULL"
        assert other.execute(unknown).fetchone() == (0,)
    done = command(box, "audit", "verify")
    assert (done.returncode, f"{len(signatures)}" in done.stdout) == (0, True)
    assert len(box.requests()) == len(paths)
