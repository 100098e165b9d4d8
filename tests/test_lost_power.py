"""No power cut shows a torn, empty or wrong FILE.sign, or takes one that the journal calls signed (contract, 2)."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

import pytest

from dropsign.model import Fingerprint
from tests.conftest import require_part
from tests.support import evidence
from tests.support.evidence import Evidence, Row
from tests.support.powercut import TRACED, Call, Change, Disk, File, parse
from tests.support.sandbox import Sandbox, Site, sandbox, wait_until

STATES: Final = int(os.environ.get("DROPSIGN_TEST_STATES", "3"))
"""How many of the possible states the daemon is started from."""

_FRAME_HEADER: Final = 24
"""Bytes before each page in SQLite's write-ahead log; four of them tell whether the page ends a transaction."""

pytestmark = [pytest.mark.strace, pytest.mark.slow]


@dataclass
class Recording:
    """What the daemon did, and to what.

    Attributes:
        box: where.
        calls: its system calls.
        contents: the versions of each file, in order.
        versions: which of them a path had under a fingerprint.
        removed: whose FILE.sign somebody removed.
        failed: what ends without a signature.
    """

    box: Sandbox
    calls: list[Call] = field(default_factory=list)
    contents: dict[bytes, list[bytes]] = field(default_factory=dict)
    versions: dict[tuple[bytes, Fingerprint], int] = field(default_factory=dict)
    removed: set[bytes] = field(default_factory=set)
    failed: set[bytes] = field(default_factory=set)

    def write(self, name: str, content: bytes) -> Path:
        """Drop a file, or a new version of it."""
        path = self.box.drop(name, content)
        self.contents.setdefault(name.encode(), []).append(content)
        self.remember(path)
        return path

    def remember(self, path: Path) -> None:
        """Remember the present fingerprint as one of the last version."""
        name = os.fsencode(path.relative_to(self.box.outbox))
        self.versions[name, Fingerprint.of(path.lstat())] = len(self.contents[name]) - 1

    def version(self, name: bytes, text: bytes) -> int | None:
        """Return the version that a signature is of."""
        matching = (number for number, content in enumerate(self.contents[name]) if self.box.verifies(text, content))
        return next(matching, None)

    def disk(self, calls: Sequence[Call]) -> Disk:
        return Disk(calls, os.fsencode(self.box.outbox), os.fsencode(self.box.journal))


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recording]:
    """The real daemon signing, rewriting, keeping, putting back and failing files, under strace, until it stops."""
    directory = tmp_path_factory.mktemp("lost-power")
    trace = directory / "trace"
    site = Site(directory, "--max-mib", "0.1")
    try:
        with sandbox(directory / "s", site) as box:
            box.start_service()
            box.configure("outbox", error_files=True)
            box.is_measured = False
            box.journal.parent.mkdir()
            options = ["-D", "-f", "-y", "-q", "-xx", "-s", "70000", "-e", f"trace={TRACED}", "-e", "signal=none"]
            daemon = box.start_daemon(prefix=["strace", *options, "-o", str(trace)])
            made = Recording(box)
            act(made)
            assert box.stop_daemon() == 0
            over = re.compile(rf"^{daemon.pid} +\+\+\+ exited", re.MULTILINE)
            wait_until(lambda: over.search(trace.read_text()), what="the end of the trace")
            with trace.open() as lines:
                made.calls = parse(lines)
            yield made
    finally:
        site.stop()


def act(made: Recording) -> None:
    """Do to the outbox what people do."""
    box = made.box
    files = [
        made.write(f"{folder}f{number}", b"%d of " % number + folder.encode())
        for folder in ("", "sub/")
        for number in range(4)
    ]
    box.wait_signed(*files)
    touched, bare, grown = files[0], files[1], files[2]
    os.utime(touched)
    made.remember(touched)
    box.sign_of(bare).unlink()
    made.removed.add(os.fsencode(bare.name))
    for path in files[3:6]:
        made.write(str(path.relative_to(box.outbox)), b"rewritten: " + path.read_bytes())
    made.write(grown.name, bytes(200_000))
    made.write("never", bytes(300_000))
    made.failed |= {os.fsencode(grown.name), b"never"}
    box.rescan()
    box.wait_signed(touched, bare, *files[3:])
    wait_until(lambda: box.known("failed").keys() == made.failed, what="the failures")
    wait_until(partial(box.knows_version, touched), what="the touched file's row")
    for path in files[5:7]:
        made.write(str(path.relative_to(box.outbox)), b"again: " + path.read_bytes())
    box.wait_signed(*files[3:])


@dataclass
class Commit:
    """One state of the journal.

    Attributes:
        last: the change to its log that ends the transaction; None for the state before all.
        rows: of that state.
        changes: all to the log up to it.
    """

    last: Change | None
    rows: dict[bytes, Row]
    changes: list[Change] = field(default_factory=list)


class Journal:
    """The states that a traced journal went through, and which of them may be left after a power cut."""

    def __init__(self, disk: Disk, path: Path, scratch: Path) -> None:
        self._disk = disk
        self._path, self._log = os.fsencode(path), os.fsencode(path) + b"-wal"
        self._file, self._log_file = self._only(self._path), self._only(self._log)
        self.commits = [Commit(None, {})]
        changes: list[Change] = []
        ends = False
        for change in self._log_file.changes:
            changes.append(change)
            data = change.data or b""
            if ends:
                rows = self._rows(self._log_file.whole(changes), change.call.start, scratch)
                self.commits.append(Commit(change, rows, list(changes)))
            ends = len(data) == _FRAME_HEADER and any(data[4:8])

    def _only(self, path: bytes) -> File:
        (made,) = [change.file for change in self._disk.entries[path] if change.file is not None]
        return made

    def _rows(self, log: bytes, at: int, scratch: Path) -> dict[bytes, Row]:
        written = [change for change in self._file.changes if change.call.start <= at]
        return read(self._file.whole(written), log, scratch).rows

    def possible(self, at: int) -> list[Commit]:
        """Return the states that may be left if the power goes after a trace line.

        Checksums chain the pieces of the log: what is there of it counts up to the first one that is missing.
        """
        begun = [commit for commit in self.commits if commit.last is None or commit.last.call.start <= at]
        there = all(self._disk.files(path, at)[0] is not None for path in (self._path, self._log))
        lasting = [
            number
            for number, commit in enumerate(begun)
            if all(self._log_file.lasts(change, at) for change in commit.changes)
        ]
        return begun[max(lasting) if there else 0 :]


def read(database: bytes, log: bytes, scratch: Path) -> Evidence:
    """Have SQLite read a journal that lies there like this."""
    path = scratch / "journal"
    path.write_bytes(database)
    path.with_name("journal-wal").write_bytes(log)
    return evidence.read(path)


def wrong(made: Recording, disk: Disk, name: bytes, row: Row | None, text: bytes | None, at: int) -> str | None:
    """Say what is wrong with a FILE.sign and what a journal tells of it, if the power went after a trace line."""
    signed = None if text is None else made.version(name, text)
    version = None if row is None else made.versions.get((name, row.fingerprint))
    problem = None
    if text is not None and signed is None:
        problem = "a torn, empty or wrong signature"
    elif row is not None and version is None:
        problem = "recorded in a version that never was"
    elif row is not None and version is not None and signed is not None:
        if signed < version:
            problem = f"a stale signature beside a file that is recorded as {row.state}"
        elif signed == version and row.state == "signed" and text != row.text:
            problem = "another signature than the recorded one"
    elif row is not None and version is not None and row.state == "signed" and name not in made.removed:
        # Withdrawn, its row speaks of a fingerprint that the file no longer has: the next scan sees that.
        path = os.path.join(os.fsencode(made.box.outbox), name + b".sign")
        withdrawn = any(change.file is None and change.call.start <= at for change in disk.entries[path])
        if not withdrawn or version == len(made.contents[name]) - 1:
            problem = "recorded as signed, without its signature"
    return problem


def first_wrong(made: Recording, calls: Sequence[Call], scratch: Path) -> str | None:
    """Judge what may be left after each trace line; describe the first state that is wrong, with its trace lines."""
    disk = made.disk(calls)
    journal = Journal(disk, made.box.journal, scratch)
    lines = sorted({line for call in calls for line in (call.start, call.end) if isinstance(line, int)})
    for at in lines:
        commits = journal.possible(at)
        for name in made.contents:
            path = os.path.join(os.fsencode(made.box.outbox), name + b".sign")
            texts = disk.contents(path, at)
            for commit in commits:
                row = commit.rows.get(name)
                for text in texts:
                    if (problem := wrong(made, disk, name, row, text, at)) is not None:
                        return describe(problem, disk, path, commit, at)
    return None


def describe(problem: str, disk: Disk, path: bytes, commit: Commit, at: int) -> str:
    """Tell of a wrong state, with what led to it."""
    files = {id(change.file): change.file for change in disk.entries.get(path, ()) if change.file is not None}
    own = [change.call for change in disk.entries.get(path, ())]
    for file in files.values():
        own += [change.call for change in file.changes] + file.syncs
    own += disk.directory(os.path.dirname(path)).syncs + ([commit.last.call] if commit.last is not None else [])
    return "\n".join([f"{path!r} after trace line {at + 1}: {problem}", *map(str, sorted(own))])


def test_no_state_is_wrong(recording: Recording, tmp_path: Path) -> None:
    """Whenever the power goes, and whatever was not fsynced gets lost: whole signatures, and none that is missing."""
    problem = first_wrong(recording, recording.calls, tmp_path)
    assert problem is None, problem


def _syncs(call: Call, *ends: bytes) -> bool:
    return call.name in {"fsync", "fdatasync"} and call.arguments[0].endswith(ends)


@pytest.mark.parametrize(
    ("forgotten", "problem"),
    [
        (lambda call: _syncs(call, b".tmp"), "torn, empty or wrong"),
        (lambda call: _syncs(call, b"/outbox", b"/sub"), "stale signature|without its signature"),
    ],
    ids=["file", "directory"],
)
def test_the_judge_sees_what_is_not_fsynced(
    recording: Recording, tmp_path: Path, forgotten: Callable[[Call], bool], problem: str
) -> None:
    """Without an fsync that the daemon makes, the same trace has wrong states: so the judgement above is not luck."""
    calls = [call for call in recording.calls if not forgotten(call)]
    assert len(calls) < len(recording.calls)
    found = first_wrong(recording, calls, tmp_path)
    assert found is not None
    assert re.search(problem, found), found


def test_the_daemon_goes_on_from_what_is_left(recording: Recording, tmp_path: Path) -> None:
    """Started from such a state, the daemon ends with every file signed or failed, and a journal that agrees."""
    seed = int(os.environ.get("DROPSIGN_TEST_SEED", time.time_ns() % 2**32))
    print(f"DROPSIGN_TEST_SEED={seed}")
    chance = Random(seed)
    box, disk = recording.box, recording.disk(recording.calls)
    journal = Journal(disk, box.journal, tmp_path)
    last = int(max(call.start for call in recording.calls))
    for _ in range(STATES):
        at = chance.randrange(last)
        lay_out(recording, disk, at, chance)
        left = evidence.read(box.journal).rows
        assert left in [commit.rows for commit in journal.possible(at)], (
            f"a journal that never was, after line {at + 1}"
        )
        box.start_daemon()
        paths = [box.outbox / os.fsdecode(name) for name in recording.contents.keys() - recording.failed]
        box.wait_signed(*paths)
        wait_until(partial(_ended, box, len(paths), len(recording.failed)), what="the end of all files")
        assert box.stop_daemon() == 0
        assert not evidence.disagreements(box.outbox, evidence.read(box.journal), notes=True)
        assert all(map(box.is_signed, paths))


def _ended(box: Sandbox, signed: int, failed: int) -> bool:
    status = box.status()
    waiting = status["backlog"] + status["in_flight"]
    return status["last_scan"] is not None and (status["signed"], status["failed"], waiting) == (signed, failed, 0)


def lay_out(made: Recording, disk: Disk, at: int, chance: Random) -> None:
    """Make outbox and journal what a power cut after a trace line may leave of them; the files themselves stay."""
    box = made.box
    for path in [*box.outbox.rglob("*.sign"), *box.outbox.rglob("*.sign-error"), *box.outbox.rglob(".dropsign-*")]:
        path.unlink()
    for path in box.journal.parent.glob(box.journal.name + "*"):
        path.unlink()
    for name in disk.entries:
        file = chance.choice(disk.files(name, at))
        if file is not None and not name.endswith((b"-shm", b".lock")):
            path = Path(os.fsdecode(name))
            path.write_bytes(file.some(at, chance))
            if path.suffix == ".sign" and not box.is_signed(path.with_suffix("")):
                os.utime(path, (0, 0))  # it was made before its file's present version


_WITHDRAW: Final = """
import os, sys
from pathlib import Path
from dropsign.outbox import Outbox
outbox = Outbox(Path(sys.argv[1]))
outbox.withdraw([b"d%d/f%d" % (number % 20, number) for number in range(40)])
"""


def test_withdrawals_from_many_directories_last(tmp_path: Path) -> None:
    """Whatever number of directories the files of a group lie in: each one's withdrawals are fsynced."""
    root, trace = tmp_path / "outbox", tmp_path / "trace"
    signs = [root / f"d{number % 20}" / f"f{number}.sign" for number in range(40)]
    for sign in signs:
        sign.parent.mkdir(parents=True, exist_ok=True)
        sign.write_bytes(b"stale")
    command = [require_part("strace"), "-f", "-y", "-q", "-xx", "-s", "4096", "-e", f"trace={TRACED}", "-o", str(trace)]
    subprocess.run([*command, sys.executable, "-c", _WITHDRAW, str(root)], check=True)
    with trace.open() as lines:
        calls = parse(lines)
    disk = Disk(calls, os.fsencode(root))
    end = max(call.start for call in calls) + 1
    assert [disk.files(os.fsencode(sign), end) for sign in signs] == [[None]] * len(signs)
    assert len(disk.entries) == len(signs)
