"""The journal locked, damaged, misplaced, or made anew: what is said, and that no signature is asked for twice."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from dropsign.journal import Journal
from dropsign.model import Drop, Fingerprint, Signature
from tests.support.faults import assert_agreement, gate_lines
from tests.support.sandbox import Sandbox, dropsign, wait_until

pytestmark = pytest.mark.timeout(300)

REMEDY = "dropsign run --rebuild-journal"


def _garbage_header(journal: Path) -> None:
    with journal.open("r+b") as file:
        file.write(os.urandom(4096))


def _cut(journal: Path) -> None:
    os.truncate(journal, journal.stat().st_size // 2 + 100)


def _garbage_within(journal: Path) -> None:
    """Overwrite all but the first page."""
    with journal.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(journal.stat().st_size - 4096))


def _one_line(box: Sandbox, *options: str) -> str:
    """Start a daemon that is to refuse; return its one line."""
    done = dropsign("--config", box.config, "run", *options)
    lines = [line for line in done.stderr.splitlines() if line]
    assert (done.returncode, len(lines)) == (2, 1), done
    return lines[0]


def _signed(box: Sandbox, number: int = 60) -> list[Path]:
    """Have files signed, and stop."""
    box.start_daemon()
    paths = [box.drop(f"d{index % 5}/f{index}", b"%d" % index) for index in range(number)]
    box.wait_signed(*paths)
    assert_agreement(box, *paths)
    assert box.stop_daemon() == 0
    return paths


def _rebuild(box: Sandbox, *paths: Path) -> None:
    """Start with a journal made anew; check that the old one is kept, and that nothing was asked for again."""
    before = box.times_signed()
    quietly = ["sh", "-c", 'exec "$@" 2>/dev/null', "sh"]  # on stderr it says where the old one is
    box.start_daemon(prefix=quietly, options=["--rebuild-journal"])
    box.rescan()
    assert_agreement(box, *paths)
    assert list(box.journal.parent.glob(f"{box.journal.name}.aside-*"))
    assert sorted(box.times_signed().values()) == [1] * len(paths)
    assert all(count == 1 for count in before.values())
    assert box.stop_daemon() == 0


def test_damaged_at_start(box: Sandbox) -> None:
    """A damaged journal is refused in one line with the remedy, which keeps every signature; `status` says it too."""
    paths = _signed(box)
    sound = box.journal.read_bytes()
    for damage in (_garbage_header, _cut, _garbage_within):
        box.journal.write_bytes(sound)
        damage(box.journal)
        assert REMEDY in _one_line(box), damage
    told = dropsign("--config", box.config, "status")
    assert (told.returncode, len(told.stderr.splitlines())) == (2, 1), told
    _rebuild(box, *paths)


def test_damaged_while_it_runs(box: Sandbox) -> None:
    """Damage closes the gate for `journal` and names the remedy; the daemon answers, ends with 0, and is mended."""
    history = Journal(box.journal)
    for number in range(20_000):  # more than what is kept in memory
        name = b"%06d" % (number * 7919 % 1_000_000)
        history.sign(Drop(name, Fingerprint(1, 2, 3, 4, 5)), Signature(os.urandom(150), os.urandom(32), 3))
        history.forget([name])
    history.close()
    paths = _signed(box, 5)
    box.start_daemon()
    box.rescan()
    _garbage_within(box.journal)
    late = [box.drop(f"{number * 104729 % 1_000_000:06}", b"late %d" % number) for number in range(30)]
    wait_until(lambda: gate_lines(box), 60, "the gate's closing")
    gate = box.status()["gate"]
    assert gate["reason"] == "journal"
    assert REMEDY in gate["detail"]
    assert {reason for _, reason in gate_lines(box)} == {"journal"}
    assert box.stop_daemon() == 0
    assert REMEDY in _one_line(box)
    _rebuild(box, *paths, *late)


def test_garbage_in_the_log_of_writes(box: Sandbox) -> None:
    """What a crash left of the latest writes, and the disk then spoiled, is found out from the outbox."""
    box.start_daemon()
    paths = [box.drop(f"f{index}", b"%d" % index) for index in range(40)]
    box.wait_signed(*paths)
    assert_agreement(box, *paths)
    box.kill_daemon()
    wal = box.journal.with_name(box.journal.name + "-wal")
    size = wal.stat().st_size
    assert size
    with wal.open("r+b") as file:
        file.seek(size // 2)
        file.write(os.urandom(size - size // 2))
    box.start_daemon()
    box.rescan()
    assert_agreement(box, *paths)
    assert max(box.times_signed().values()) <= 2, "those whose record was lost may be signed again"


def test_locked_at_start(box: Sandbox) -> None:
    """Another process that has the journal locked is named as the cause, in one line."""
    _signed(box, 1)
    with closing(sqlite3.connect(box.journal, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        line = _one_line(box)
        assert "another process has it locked" in line
        assert str(box.journal) in line
        other.execute("ROLLBACK")


def test_locked_while_it_runs(box: Sandbox) -> None:
    """A lock that somebody takes closes the gate for `journal`; the daemon answers, and goes on after it."""
    box.start_daemon()
    first = box.drop("first", b"first")
    box.wait_signed(first)
    box.wait_idle()
    with closing(sqlite3.connect(box.journal, isolation_level=None)) as other:
        wait_until(lambda: _begun(other), what="the lock")
        paths = [first, *(box.drop(f"f{number}", b"%d" % number) for number in range(30))]
        wait_until(lambda: gate_lines(box), 60, "the gate's closing")
        gate = box.status()["gate"]
        assert (gate["reason"], "locked" in gate["detail"]) == ("journal", True)
        other.execute("ROLLBACK")
    box.wait_signed(*paths, seconds=60)
    assert_agreement(box, *paths)
    assert gate_lines(box) == [("closed", "journal"), ("opened", "journal")]
    assert set(box.times_signed().values()) == {1}


def _begun(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        return False
    return True


def test_a_place_that_cannot_be(box: Sandbox) -> None:
    """A directory, or a directory that cannot be made, is one line and exit code 2; `check` fails for it too."""
    box.journal.mkdir(parents=True)
    for options in ([], ["--rebuild-journal"]):
        assert "is a directory" in _one_line(box, *options)
    assert box.journal.is_dir()
    box.configure("journal", path=str(box.config / "journal.sqlite3"))
    assert "journal.path" in _one_line(box)
    box.configure("journal", path=str(box.journal))
    checked = dropsign("--config", box.config, "check")
    assert checked.returncode == 2
    assert [line for line in checked.stdout.splitlines() if line.startswith("FAIL") and "is a directory" in line]


def test_in_the_outbox(box: Sandbox) -> None:
    """A journal and a log in the outbox are warned of by `check`, and never signed."""
    box.journal = box.outbox / "state [1]" / "journal.sqlite3"
    box.configure("journal", path=str(box.journal))
    box.configure("log", file=str(box.outbox / "daemon.log"))
    checked = dropsign("--config", box.config, "check")
    assert checked.returncode == 0, checked.stdout
    assert [line for line in checked.stdout.splitlines() if line.startswith("WARN") and "in the outbox" in line]
    box.daemon_log = box.outbox / "daemon.log"
    box.start_daemon()
    path = box.drop("state [1]/file")
    box.wait_signed(path)
    box.rescan()
    assert_agreement(box, path)
    assert [name for name in box.files() if name.endswith(b".sign")] == [b"state [1]/file.sign"]
