"""journal.py and schema.py on real SQLite files: what was recorded is there, whatever happens to disk or process."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dropsign import schema
from dropsign.chain import Audit
from dropsign.commits import COMMIT_SECONDS
from dropsign.errors import JournalError, OutboxLockedError
from dropsign.history import Reader
from dropsign.journal import PAGE, Journal
from dropsign.model import Drop, Entry, Fingerprint, Known, Signature, Stamp, State

VERSION = Fingerprint(1, 2, 3, 4, 5)
OTHER = Fingerprint(1, 2, 3, 40, 50)
SIGNATURE = Signature(b"MEUCIQ==", b"d" * 32, 3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.sqlite3"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    made = Journal(path)
    yield made
    made.close()


def drop(path: bytes, journal: Journal | None = None, version: Fingerprint = VERSION) -> Drop:
    return Drop(path, version, ticket=journal.next_ticket() if journal else 0)


def lookup(journal: Journal, *paths: bytes) -> dict[bytes, Entry]:
    return asyncio.run(journal.lookup(paths))


def flush(journal: Journal) -> None:
    asyncio.run(journal.flush())


def traced(journal: Journal, work: Callable[[], object]) -> list[str]:
    """Return the SQL that a piece of work led to."""
    statements: list[str] = []

    async def trace(collector: Callable[[str], None] | None) -> None:
        await journal._ask(lambda connection: connection.set_trace_callback(collector))

    asyncio.run(trace(statements.append))
    work()
    asyncio.run(trace(None))
    return statements


# What is recorded


def test_lookup_sees_every_write_before_it(journal: Journal) -> None:
    """A lookup right after a write sees it, committed or not."""
    for number in range(50):
        path = b"d/%d" % number
        journal.queue(drop(path, journal))
        assert lookup(journal, path)[path].state is State.QUEUED
        journal.sign(drop(path), SIGNATURE)
        entry = lookup(journal, path)[path]
        assert (entry.state, entry.sha256, entry.signed_size) == (State.SIGNED, SIGNATURE.sha256, 3)
        journal.forget([path])
        assert lookup(journal, path) == {}


def test_every_state_keeps_what_belongs_to_it(journal: Journal) -> None:
    """Attempts, reasons, times and versions come back as they were recorded."""
    deferred, failed = drop(b"deferred", journal), drop(b"failed", journal)
    for each in (deferred, failed):
        journal.queue(each)
        each.attempts = 3
    journal.defer(deferred, 1234.5, "no_signature", "the service answered null")
    journal.fail(failed, "http_413", "too large")
    journal.refuse(b"refused", OTHER, "fifo")
    known = lookup(journal, b"deferred", b"failed", b"refused", b"unknown")
    assert known.keys() == {b"deferred", b"failed", b"refused"}
    entry = known[b"deferred"]
    assert (entry.state, entry.attempts, entry.not_before) == (State.DEFERRED, 3, 1234.5)
    assert (entry.reason, entry.error) == ("no_signature", "the service answered null")
    assert abs(entry.since - time.time()) < 10
    assert (known[b"failed"].state, known[b"failed"].attempts) == (State.FAILED, 3)
    assert (known[b"refused"].reason, known[b"refused"].fingerprint) == ("fifo", OTHER)


@pytest.mark.parametrize("name", [b"\xff\xfe", b"new\nline", b"'; DROP TABLE drops; --", b"\x01", "ü😀".encode(), b" "])
def test_names_are_bytes(journal: Journal, name: bytes) -> None:
    """Whatever a name holds, in a file or a directory, it comes back as the very same bytes."""
    for path in (name, name + b"/" + name, b"d/" + name):
        journal.queue(drop(path, journal))
        assert lookup(journal, path)[path].path == path
    assert [waiting.path for waiting in asyncio.run(journal.waiting(0, 9))] == [name, name + b"/" + name, b"d/" + name]
    assert name in journal.known_directories()
    assert [known.name for known in journal.known(name)] == [name]


def test_a_directory_is_known_while_it_has_entries(journal: Journal) -> None:
    """One that only the history knows is none that a scan has to look for."""
    for path in (b"gone/a", b"gone/b", b"kept/a", b"top"):
        journal.sign(drop(path), SIGNATURE)
    journal.forget([b"gone/a", b"gone/b"])
    assert sorted(journal.known_directories()) == [b"", b"kept"]


def test_history_outlives_the_file_and_the_change(journal: Journal) -> None:
    """Every signature ever made stays: after forgetting the path, after a new version, and if its file moved on."""
    journal.sign(drop(b"a"), SIGNATURE)
    first = lookup(journal, b"a")[b"a"].signature_id
    journal.sign(drop(b"a", version=OTHER), Signature(b"second", b"e" * 32, 4))
    second = lookup(journal, b"a")[b"a"].signature_id
    journal.forget([b"a"])
    journal.obtained(drop(b"moved on"), Signature(b"third", b"f" * 32, 5))
    assert first is not None
    assert second is not None
    assert asyncio.run(journal.signature(first)) == SIGNATURE
    assert asyncio.run(journal.signature(second)) == Signature(b"second", b"e" * 32, 4)
    assert asyncio.run(journal.signature(10_000)) is None
    texts = asyncio.run(_texts(journal))
    assert texts == [b"MEUCIQ==", b"second", b"third"]
    assert lookup(journal, b"moved on") == {}


async def _texts(journal: Journal) -> list[bytes]:
    rows: list[tuple[bytes]] = await journal._ask(
        lambda connection: connection.execute("SELECT text FROM signatures ORDER BY id").fetchall()
    )
    return [text for (text,) in rows]


def test_failed_or_queued_file_keeps_what_was_signed_last(journal: Journal) -> None:
    """The last signature stays with its path through other states, so that a file put back needs no new one."""
    journal.sign(drop(b"a"), SIGNATURE)
    journal.queue(drop(b"a", journal, OTHER))
    assert lookup(journal, b"a")[b"a"].sha256 == SIGNATURE.sha256
    journal.fail(drop(b"a", version=OTHER), "http_400", "")
    entry = lookup(journal, b"a")[b"a"]
    assert (entry.state, entry.sha256, entry.signed_size) == (State.FAILED, SIGNATURE.sha256, 3)
    assert entry.signature_id is not None
    journal.keep(b"a", VERSION, entry.signature_id)
    assert lookup(journal, b"a")[b"a"].state is State.SIGNED


def test_waiting_drops_come_in_the_order_of_their_tickets(journal: Journal) -> None:
    """The backlog is given out lowest ticket first, after a ticket, and never more than asked."""
    paths = [b"%d/x" % number for number in (5, 3, 9, 1)]
    for path in paths:
        journal.queue(drop(path, journal))
    waiting = asyncio.run(journal.waiting(0, 3))
    assert [each.path for each in waiting] == paths[:3]
    assert [each.ticket for each in waiting] == [1, 2, 3]
    assert [each.path for each in asyncio.run(journal.waiting(3, 3))] == paths[3:]
    journal.queue(drop(paths[0], journal, OTHER))  # a new version goes to the end
    assert [each.path for each in asyncio.run(journal.waiting(0, 9))] == [*paths[1:], paths[0]]


def test_tickets_ascend_over_a_restart(path: Path) -> None:
    """The next process gives out places behind all that wait."""
    journal = Journal(path)
    given = [journal.next_ticket() for _ in range(3)]
    assert given == [1, 2, 3]
    for ticket in given:
        journal.queue(Drop(b"%d" % ticket, VERSION, ticket=ticket))
    journal.close()
    again = Journal(path)
    assert again.last_ticket == 3
    assert again.next_ticket() == 4
    assert [each.ticket for each in asyncio.run(again.waiting(0, 9))] == given
    again.close()


def test_rested_drops(journal: Journal) -> None:
    """Deferred drops come back once their time has come, and the first such time is known."""
    assert asyncio.run(journal.next_rested()) is None
    for name, not_before in ((b"late", 300.0), (b"soon", 100.0)):
        journal.queue(drop(name, journal))
        journal.defer(drop(name), not_before, "r", "e")
    assert asyncio.run(journal.next_rested()) == 100.0
    assert asyncio.run(journal.rested(99.9, 400.0, 9)) == []
    assert [entry.path for entry in asyncio.run(journal.rested(100.0, 400.0, 9))] == [b"soon"]
    assert len(asyncio.run(journal.rested(300.0, 400.0, 1))) == 1
    set_back = asyncio.run(journal.rested(-3600.0, -3000.0, 9))
    assert len(set_back) == 2, "after the clock was set back an hour, none rests for that hour as well"


def test_counts_and_the_oldest(journal: Journal) -> None:
    """How many are in each state, and since when the first one waits."""
    assert asyncio.run(journal.oldest_waiting()) is None
    for number in range(5):
        journal.queue(drop(b"%d" % number, journal))
    journal.sign(drop(b"0"), SIGNATURE)
    journal.sign(drop(b"1"), SIGNATURE)
    journal.fail(drop(b"2"), "r", "e")
    counts = asyncio.run(journal.counts())
    assert counts == {
        State.QUEUED: 2,
        State.SIGNED: 2,
        State.FAILED: 1,
        State.DEFERRED: 0,
        State.REFUSED: 0,
    }
    oldest = asyncio.run(journal.oldest_waiting())
    assert oldest is not None
    assert oldest <= time.time()


def test_known_is_sorted_and_paged(journal: Journal) -> None:
    """The scan gets a directory's entries sorted as bytes, page by page, without those of other directories."""
    names = sorted([b"%d" % number for number in range(2 * PAGE + 7)] + [b"\xff", b"A", b"a"])
    for name in reversed(names):
        journal.sign(drop(b"d/" + name), SIGNATURE)
        journal.sign(drop(b"d/sub/" + name[:1]), SIGNATURE)
    assert list(journal.known(b"d")) == [Known(name, State.SIGNED, VERSION) for name in names]
    assert list(journal.known(b"nowhere")) == []


def test_lookup_of_very_many(journal: Journal) -> None:
    """Forty thousand paths of one directory can be asked for at once."""
    paths = [b"d/%d" % number for number in range(40_000)]
    journal.sign(drop(paths[-1]), SIGNATURE)
    assert lookup(journal, *paths).keys() == {paths[-1]}


def test_illegal_move_is_told_and_costs_nobody_else_a_write(path: Path) -> None:
    """A write that the table of states refuses is left out and told; those of the same transaction are kept."""
    defects: list[Exception] = []
    journal = Journal(path, on_defect=defects.append)
    journal.sign(drop(b"before"), SIGNATURE)
    journal.sign(drop(b"a"), SIGNATURE)
    journal.fail(drop(b"a"), "r", "e")  # a signed file cannot fail
    journal.sign(drop(b"after"), SIGNATURE)
    known = lookup(journal, b"before", b"a", b"after")
    assert {entry.state for entry in known.values()} == {State.SIGNED}
    assert len(known) == 3
    assert len(defects) == 1
    assert "illegal move" in str(defects[0])
    journal.close()


def test_value_that_sqlite_cannot_hold_does_not_end_the_journal(path: Path) -> None:
    """A number or text that no database takes is told as a defect; the journal goes on for all the others."""
    defects: list[Exception] = []
    journal = Journal(path, on_defect=defects.append)
    journal.sign(drop(b"a", version=Fingerprint(1, 2**64 - 1, 3, 4, 5)), SIGNATURE)
    journal.refuse(b"b", VERSION, "text with a surrogate \udcff")
    journal.sign(drop(b"c"), SIGNATURE)
    assert lookup(journal, b"a", b"b", b"c").keys() == {b"c"}
    assert len(defects) == 2
    assert journal.is_alive
    journal.close()


# Commits


def test_writes_of_many_files_share_a_commit(journal: Journal) -> None:
    """A thousand writes of one moment are a handful of transactions, each at most some milliseconds of work."""

    def work() -> None:
        for number in range(1000):
            journal.sign(drop(b"%d" % number), SIGNATURE)
        flush(journal)

    commits = [statement for statement in traced(journal, work) if statement.startswith("COMMIT")]
    assert 1 <= len(commits) <= 20


def test_lone_write_is_committed_within_a_moment(journal: Journal, path: Path) -> None:
    """Without anything behind it, a write is on disk soon, seen by another connection."""
    journal.sign(drop(b"a"), SIGNATURE)
    with closing(schema.connect(path, read_only=True)) as other:
        end = time.monotonic() + 5
        while other.execute("SELECT count(*) FROM drops").fetchone() != (1,):
            assert time.monotonic() < end, "not committed"
            time.sleep(COMMIT_SECONDS)


def test_steady_stream_does_not_put_off_the_commit(journal: Journal, path: Path) -> None:
    """The time limit counts from the first write of a group: more of them do not prolong it."""
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            journal.sign(drop(b"%d" % number), SIGNATURE)
            number += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        with closing(schema.connect(path, read_only=True)) as other:
            end = time.monotonic() + 5
            while other.execute("SELECT count(*) FROM drops").fetchone()[0] < 20:
                assert time.monotonic() < end, "not committed"
                time.sleep(COMMIT_SECONDS)
    finally:
        stop.set()
        thread.join()


def test_flush_returns_only_when_it_is_on_disk(journal: Journal, path: Path) -> None:
    """What was written before a flush is there for any other process when it returns."""
    with closing(schema.connect(path, read_only=True)) as other:
        for number in range(20):
            journal.sign(drop(b"%d" % number), SIGNATURE)
            flush(journal)
            assert other.execute("SELECT count(*) FROM drops").fetchone() == (number + 1,)


def test_close_keeps_everything(path: Path) -> None:
    """Writes right before the end are there after it."""
    journal = Journal(path)
    for number in range(500):
        journal.sign(drop(b"%d" % number), SIGNATURE)
    journal.close()
    journal.close()
    again = Journal(path)
    assert asyncio.run(again.counts())[State.SIGNED] == 500
    again.close()


# Who asks may be cancelled, and may come too late


@pytest.mark.parametrize("question", ["lookup", "waiting", "flush"])
def test_cancelled_question_does_not_end_the_journal(journal: Journal, question: str) -> None:
    """A caller that is cancelled while the journal is busy costs nobody else anything."""

    async def scenario() -> None:
        gate = threading.Event()
        busy = asyncio.ensure_future(journal._ask(lambda _: gate.wait(10)))
        questions: dict[str, Callable[[], Any]] = {
            "lookup": lambda: journal.lookup([b"a"]),
            "waiting": lambda: journal.waiting(0, 9),
            "flush": journal.flush,
        }
        asked = [asyncio.ensure_future(questions[question]()) for _ in range(3)]
        journal.sign(drop(b"a"), SIGNATURE)
        await asyncio.sleep(0.01)
        asked[0].cancel()
        asked[2].cancel()
        await asyncio.sleep(0.01)
        gate.set()
        await busy
        await asyncio.wait_for(asked[1], 5)
        await asyncio.wait_for(journal.flush(), 5)
        assert (await journal.lookup([b"a"]))[b"a"].state is State.SIGNED

    asyncio.run(scenario())
    assert journal.is_alive


def test_question_after_the_end_is_answered_with_an_error(path: Path) -> None:
    """Nobody waits for ever for a journal that is closed: neither a coroutine nor the scan's thread."""
    journal = Journal(path)
    journal.close()

    async def scenario() -> None:
        with pytest.raises(JournalError, match="closed"):
            await asyncio.wait_for(journal.lookup([b"a"]), 5)

    asyncio.run(scenario())
    with pytest.raises(JournalError, match="closed"):
        list(journal.known(b""))


def test_thread_that_asks_while_the_journal_closes_never_hangs(path: Path) -> None:
    """A scan's thread that asks on and on is told of the end at whatever moment it comes."""
    for _ in range(10):
        journal = Journal(path)
        ended = threading.Event()

        def ask(journal: Journal = journal, ended: threading.Event = ended) -> None:
            try:
                while True:
                    journal.known_directories()
            except JournalError:
                ended.set()

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        time.sleep(0.005)
        journal.close()
        assert ended.wait(5), "a question was left without an answer"
        thread.join()


# Files that are no journal, or not ours now


def test_file_knows_what_it_is(journal: Journal, path: Path) -> None:
    """The database carries our application id and its schema's version, is in WAL mode, and private to its user."""
    flush(journal)
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA application_id").fetchone() == (schema.APPLICATION_ID,)
        assert other.execute("PRAGMA user_version").fetchone() == (len(schema.MIGRATIONS),)
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert path.parent.stat().st_mode & 0o777 == 0o700


def refusal(path: Path) -> str:
    with pytest.raises(JournalError) as caught:
        Journal(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"journal.path: {path} ")
    return str(caught.value)


def test_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    """A journal of a later version is not touched, and the message says what to install."""
    Journal(path).close()
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    assert "was written by a newer dropsign (schema 99)" in refusal(path)
    assert path.read_bytes() == before
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS)}")
    Journal(path).close()  # a refusal keeps no lock


@pytest.mark.parametrize("kind", ["tables", "application id", "version"])
def test_other_programs_database_is_refused_and_left_alone(path: Path, kind: str) -> None:
    """A database with another program's tables, id or version is never written to."""
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as other:
        other.execute(
            {
                "tables": "CREATE TABLE theirs (x)",
                "application id": "PRAGMA application_id = 4711",
                "version": "PRAGMA user_version = 1",
            }[kind]
        )
    before = path.read_bytes()
    assert "is a database of some other program" in refusal(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"not a database at all, but long enough to be looked at" * 100, b"SQLite format 3"]
)
def test_file_that_is_no_database_is_one_clear_line(path: Path, content: bytes) -> None:
    """Any other file at the journal's path is refused in one line, and left as it was."""
    path.parent.mkdir()
    path.write_bytes(content)
    refusal(path)
    assert path.read_bytes() == content


def test_corrupt_journal_is_one_clear_line(path: Path) -> None:
    """A journal whose schema page was overwritten is refused in one line."""
    Journal(path).close()
    content = bytearray(path.read_bytes())
    content[100:4096] = os.urandom(3996)
    path.write_bytes(content)
    refusal(path)


@pytest.mark.parametrize("what", ["parent is a file", "is a directory"])
def test_path_that_cannot_be_is_one_clear_line(tmp_path: Path, what: str) -> None:
    """A path through a file, or to a directory, is an error of the configuration in one line, not a traceback."""
    place = tmp_path / "x"
    if what == "is a directory":
        place.mkdir()
        target = place
    else:
        place.touch()
        target = place / "journal.sqlite3"
    with pytest.raises(JournalError, match=r"journal\.path: ") as caught:
        Journal(target)
    assert "\n" not in str(caught.value)


def test_second_process_is_kept_off(journal: Journal, path: Path) -> None:
    """Two daemons never share a journal; the second is told so, and reading for `status` still works."""
    script = "import sys; from pathlib import Path; from dropsign.journal import Journal; Journal(Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "another dropsign uses" in done.stderr
    with pytest.raises(OutboxLockedError):
        Journal(path)
    journal.sign(drop(b"a"), SIGNATURE)
    flush(journal)
    with closing(schema.connect(path, read_only=True)) as reader:
        assert schema.counts(reader)[State.SIGNED] == 1


def test_failed_migration_changes_nothing(path: Path) -> None:
    """The schema comes whole or not at all: a journal cut off in its making is made anew."""
    path.parent.mkdir()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("BEGIN EXCLUSIVE")
        other.execute(schema.MIGRATIONS[0][0])
        other.rollback()
    journal = Journal(path)
    journal.sign(drop(b"a"), SIGNATURE)
    assert lookup(journal, b"a")
    journal.close()


# Crashes and full disks

WRITER = """
import asyncio, sys
from pathlib import Path
from dropsign.journal import Journal
from dropsign.model import Drop, Fingerprint, Signature

async def main():
    journal = Journal(Path(sys.argv[1]))
    number = int(sys.argv[2])
    while True:
        for _ in range(50):
            journal.sign(Drop(b"d%d/%d" % (number % 7, number), Fingerprint(1, number, 3, 4, 5)),
                         Signature(b"s%d" % number, b"d" * 32, 3))
            number += 1
        await journal.flush()
        print(number, flush=True)

asyncio.run(main())
"""


def test_kill_9_keeps_all_that_was_flushed(path: Path) -> None:
    """Killed at any moment, the journal opens again, whole, with everything that a flush had promised."""
    promised = 0
    for round_ in range(5):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, path, str(promised)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        for _ in range(2 + round_):
            promised = int(writer.stdout.readline())
        time.sleep(0.003 * round_)
        writer.send_signal(signal.SIGKILL)
        rest, _ = writer.communicate()
        promised = max([promised, *map(int, rest.splitlines())])
        journal = Journal(path)

        async def check(journal: Journal = journal, promised: int = promised) -> None:
            whole = await journal._ask(lambda connection: connection.execute("PRAGMA integrity_check").fetchall())
            assert whole == [("ok",)]
            known = await journal.lookup([b"d%d/%d" % (number % 7, number) for number in range(promised)])
            assert len(known) == promised
            for entry in known.values():
                assert entry.signature_id is not None

        asyncio.run(check())
        journal.close()
        with closing(Reader(path)) as history:
            assert not list(Audit(history.anchor()).flaws(history.links()))


FULL_DISK = """
import asyncio, os, subprocess, sys, threading, time
from contextlib import closing
from pathlib import Path
from dropsign.chain import Audit
from dropsign.history import Reader
from dropsign.journal import Journal
from dropsign.model import Drop, Fingerprint, Signature, Stamp, State

root = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", root], check=True)
told, mended = [], threading.Event()

def trouble(text):
    told.append(text)
    if text is None:
        mended.set()

journal = Journal(root / "journal.sqlite3", on_trouble=trouble)
journal.sign(Drop(b"first", Fingerprint(1, 2, 3, 4, 5)), Signature(b"s", b"d" * 32, 3))
asyncio.run(journal.flush())
with open(root / "filler", "wb", buffering=0) as filler:
    try:
        while filler.write(bytes(4096)) == 4096:
            pass
    except OSError:
        pass
for number in range(200):
    drop = Drop(b"d%d/%d" % (number % 7, number), Fingerprint(1, 2, 3, 4, 5))
    journal.sign(drop, Signature(b"s" * 1000, b"d" * 32, 3))
end = time.monotonic() + 10
while not told:
    assert time.monotonic() < end, "no trouble told"
    time.sleep(0.01)
assert told[0].reason == "disk" and "full" in told[0].text, told
os.unlink(root / "filler")
assert mended.wait(10), "not mended"

async def check():
    await asyncio.wait_for(journal.flush(), 10)
    assert len(await journal.lookup([b"d%d/%d" % (number % 7, number) for number in range(200)])) == 200
    return await journal.counts()

assert asyncio.run(check())[State.SIGNED] == 201
assert journal.is_alive
assert told.count(None) == 1 and told[-1] is None and len(told) == 2, told
journal.close()
with closing(Reader(root / "journal.sqlite3")) as history:
    audit = Audit(history.anchor())
    assert not list(audit.flaws(history.links())) and audit.count == 201, audit.count
print("nothing lost")
"""


STOP_ON_A_FULL_DISK = """
import asyncio, subprocess, sys, time
from pathlib import Path
from dropsign.errors import JournalError
from dropsign.journal import Journal
from dropsign.model import Drop, Fingerprint, Signature

root = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", root], check=True)
told = []
journal = Journal(root / "journal.sqlite3", on_trouble=told.append)
with open(root / "filler", "wb", buffering=0) as filler:
    try:
        while filler.write(bytes(4096)) == 4096:
            pass
    except OSError:
        pass

async def main():
    for number in range(200):
        journal.sign(Drop(b"%d" % number, Fingerprint(1, 2, 3, 4, 5)), Signature(b"s" * 1000, b"d" * 32, 3))
    flush = asyncio.create_task(journal.flush())
    while not told:
        await asyncio.sleep(0.01)
    await asyncio.to_thread(journal.close)
    try:
        await flush
    except JournalError as error:
        print("not written, and says so")

asyncio.run(main())
assert None not in told, told
"""


def test_stop_on_a_full_disk_ends_and_promises_nothing(tmp_path: Path) -> None:
    """With no room left, closing does not wait for ever, and a flush that could not be kept is no success."""
    assert on_a_small_disk(STOP_ON_A_FULL_DISK, tmp_path) == "not written, and says so\n"


def on_a_small_disk(script: str, directory: Path) -> str:
    """Run a script that mounts a small file system where nobody else sees it; return what it prints."""
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        subprocess.run([*unshare, "mount", "-t", "tmpfs", "tmpfs", directory], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"needs a private mount namespace with a small tmpfs: {error}")
    done = subprocess.run(
        [*unshare, sys.executable, "-c", script, directory], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_full_disk_is_told_and_nothing_is_lost(tmp_path: Path) -> None:
    """With no room left, the trouble is told once; when there is room again, that is told, and all is recorded."""
    assert on_a_small_disk(FULL_DISK, tmp_path) == "nothing lost\n"


def test_disk_use_a_file(path: Path) -> None:
    """20,000 signed files, with real names and signatures, take under 400 bytes each."""
    journal = Journal(path)
    for number in range(20_000):
        name = b"release-%d.%d/package-%05d_amd64.deb" % (number // 1000, number % 3, number)
        version = Fingerprint(
            66306,
            10_000_000 + number,
            123_456 + number,
            1_790_000_000_123_456_789 + number,
            1_790_000_000_223_456_789 + number,
        )
        drop = Drop(name, version, ticket=journal.next_ticket())
        journal.queue(drop)
        signature = Signature(os.urandom(72).hex().encode()[:96], os.urandom(32), version.size)
        journal.sign(drop, signature, Stamp(20_000_000 + number, version.ctime_ns + 1))
    journal.close()
    assert path.stat().st_size / 20_000 < 400
    assert not path.with_name(path.name + "-wal").exists()
