"""scan.py on real trees with a real journal: it tells all that differs and nothing else, and costs little."""

import asyncio
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dropsign.errors import JournalError, OutboxError
from dropsign.filters import Filters
from dropsign.journal import Journal
from dropsign.model import Drop, Fingerprint, Known, Signature, Stamp
from dropsign.outbox import Outbox
from dropsign.scan import CHUNK, Finding, Scan, Tally, below

EXCLUDE = [".*", "*.tmp", "skipped/"]
NOBODY = 65534


class Site:
    """An outbox, a journal, and scans of the one against the other."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.outbox = Outbox(root)
        self.journal = Journal(None)
        self.filters = Filters(["**"], EXCLUDE)
        self.asked: list[bytes] = []
        self.portions: list[int] = []

    def close(self) -> None:
        self.journal.close()
        self.outbox.close()

    def drop(self, path: bytes, content: bytes = b"content") -> Fingerprint:
        full = os.path.join(os.fsencode(self.root), path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "wb") as file:
            file.write(content)
        return Fingerprint.of(os.lstat(full))

    def sign(self, path: bytes, content: bytes = b"content") -> Fingerprint:
        """Drop a file, put a signature beside it, and have the journal know."""
        fingerprint = self.drop(path, content)
        self.drop(path + b".sign", b"s")
        stamp = Stamp.of(os.lstat(os.path.join(os.fsencode(self.root), path + b".sign")))
        self.journal.sign(Drop(path, fingerprint), Signature(b"s", b"d" * 32, len(content)), stamp)
        return fingerprint

    def scan(
        self,
        *,
        recursive: bool = True,
        republish_missing: bool = True,
        emit: Callable[[list[Finding]], None] | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> tuple[dict[bytes, Fingerprint | None], Tally]:
        told: list[Finding] = []

        def known(directory: bytes) -> Iterable[Known]:
            self.asked.append(directory)
            return self.journal.known(directory)

        def take(findings: list[Finding]) -> None:
            self.portions.append(len(findings))
            told.extend(findings)
            if emit is not None:
                emit(findings)

        scan = Scan(
            self.outbox,
            self.filters,
            recursive=recursive,
            republish_missing=republish_missing,
            known=known,
            emit=take,
            stopped=stopped,
        )
        tally = scan.run(self.journal.known_directories())
        assert len({path for path, _ in told}) == len(told), "a path was told twice"
        return dict(told), tally


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    root = tmp_path / "outbox"
    root.mkdir()
    made = Site(root)
    yield made
    made.close()


@contextmanager
def open_to_all() -> Iterator[Site]:
    """A site that a user without privileges can reach."""
    root = Path(tempfile.mkdtemp())
    root.chmod(0o777)
    made = Site(root)
    try:
        yield made
    finally:
        made.close()
        for directory, _, _ in os.walk(root):
            os.chmod(directory, 0o755)
        shutil.rmtree(root)


@contextmanager
def without_privileges() -> Iterator[None]:
    """Act as a user for whom permissions count."""
    if os.geteuid() != 0:
        yield
        return
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def test_what_is_signed_and_unchanged_is_not_told(site: Site) -> None:
    """A tree in order, flat and nested, gives no finding at all."""
    for path in (b"a", b"sub/b", b"sub/deeper/c", b"\xff\n/d"):
        site.sign(path)
    told, tally = site.scan()
    assert told == {}
    assert (tally.files, tally.differences, tally.complete, tally.unreadable) == (4, 0, True, {})


def test_every_kind_of_difference_is_told(site: Site) -> None:
    """New, changed, gone, and signed without a signature: each is told, a file gone without a fingerprint."""
    for path in (b"changed", b"gone", b"kept", b"unsigned", b"sub/changed", b"sub/gone", b"lost/a", b"lost/er/b"):
        site.sign(path)
    wanted: dict[bytes, Fingerprint | None] = {
        b"gone": None,
        b"sub/gone": None,
        b"lost/a": None,
        b"lost/er/b": None,
        b"changed": site.drop(b"changed", b"other content"),
        b"sub/changed": site.drop(b"sub/changed", b"other content"),
        b"new": site.drop(b"new"),
        b"fresh/new": site.drop(b"fresh/new"),
        b"unsigned": Fingerprint.of(os.stat(site.root / "unsigned")),
    }
    (site.root / "unsigned.sign").unlink()
    (site.root / "gone").unlink()
    (site.root / "sub" / "gone").unlink()
    shutil.rmtree(site.root / "lost")
    told, tally = site.scan()
    assert told == wanted
    assert tally.differences == len(wanted)


def test_missing_signature_is_no_difference_if_so_configured(site: Site) -> None:
    """With republish_missing = false a removed FILE.sign is nobody's business."""
    site.sign(b"a")
    (site.root / "a.sign").unlink()
    assert site.scan(republish_missing=False)[0] == {}
    assert list(site.scan(republish_missing=True)[0]) == [b"a"]


def test_waiting_and_given_up_files_are_not_told_again(site: Site) -> None:
    """A file that is queued, deferred or failed in this very version is known; after a change it is told."""
    for path in (b"queued", b"deferred", b"failed"):
        drop = Drop(path, site.drop(path), ticket=site.journal.next_ticket())
        site.journal.queue(drop)
        if path == b"deferred":
            site.journal.defer(drop, 0.0, "r", "e")
        elif path == b"failed":
            site.journal.fail(drop, "r", "e")
    assert site.scan()[0] == {}
    site.drop(b"failed", b"mended content")
    assert list(site.scan()[0]) == [b"failed"]


def test_only_drops_are_told(site: Site) -> None:
    """Signatures, error notes, temporaries, excluded names and excluded directories are passed over."""
    for path in (b"a.sign", b"b.sign-error", b"c.tmp", b".hidden", b"skipped/x", b".git/config", b".dropsign-x.tmp"):
        site.drop(path)
    (site.root / "link").symlink_to("/etc/passwd")
    (site.root / "linked directory").symlink_to("/etc")
    told, tally = site.scan()
    # Links are told so that they are refused with their reason; nobody walks through them.
    assert set(told) == {b"link", b"linked directory"}
    assert tally.directories == 1


def test_without_recursion_sub_directories_are_not_read(site: Site) -> None:
    """With recursive = false a scan sees the outbox's own files alone."""
    site.drop(b"a")
    site.drop(b"sub/b")
    assert list(site.scan(recursive=False)[0]) == [b"a"]


def test_leftover_temporaries_of_others_go_and_our_own_stay(site: Site) -> None:
    """A temporary of a process before this one is removed, wherever it lies; our own are in use."""
    other, own = b"0123456789ab", site.outbox.instance
    leftovers = [b".dropsign-%s-1f.tmp" % other, b"sub/.dropsign-%s-0.tmp" % other]
    keep = [b".dropsign-%s-2.tmp" % own, b".dropsign-notes.tmp", b"x.dropsign-%s-1.tmp" % other]
    for path in leftovers + keep:
        site.drop(path)
    os.mkdir(os.path.join(os.fsencode(site.root), b".dropsign-%s-3.tmp" % other))
    (site.root / ".dropsign-aaaaaaaaaaaa-4.tmp").symlink_to("/etc/passwd")
    site.scan()
    for path in leftovers:
        assert not os.path.lexists(os.path.join(os.fsencode(site.root), path))
    for path in [*keep, b".dropsign-%s-3.tmp" % other, b".dropsign-aaaaaaaaaaaa-4.tmp"]:
        assert os.path.lexists(os.path.join(os.fsencode(site.root), path))


def test_vanished_root_raises_and_nothing_is_gone(site: Site) -> None:
    """If the outbox is moved away or removed, the scan says so instead of taking all files for gone."""
    site.sign(b"a")
    site.sign(b"sub/b")
    told: list[Finding] = []
    shutil.rmtree(site.root)
    with pytest.raises(OutboxError, match="vanished"):
        site.scan(emit=told.extend)
    site.root.mkdir()  # another one at the same path, empty: not ours either
    with pytest.raises(OutboxError, match="vanished"):
        site.scan(emit=told.extend)
    assert told == []


def test_unreadable_directory_makes_nothing_gone() -> None:
    """Where a directory may not be read or searched, its files and those below are neither gone nor told."""
    with open_to_all() as site:
        for path in (b"locked/a", b"locked/below/b", b"unsearchable/c", b"fine/d"):
            site.sign(path)
        for name in ("locked", "unsearchable"):
            os.chmod(site.root / name, 0o000 if name == "locked" else 0o444)
        (site.root / "fine" / "d").unlink()
        with without_privileges():
            told, tally = site.scan()
        assert told == {b"fine/d": None}
        assert tally.unreadable == dict.fromkeys((b"locked", b"unsearchable"), "Permission denied")


@pytest.mark.parametrize("replacement", ["file", "link"])
def test_directory_replaced_by_something_else_takes_its_files_with_it(site: Site, replacement: str) -> None:
    """Where a file or a link has a directory's name now, what was below it is gone."""
    site.sign(b"sub/a")
    site.sign(b"sub/deeper/b")
    shutil.rmtree(site.root / "sub")
    if replacement == "file":
        site.drop(b"sub")
    else:
        (site.root / "sub").symlink_to("/etc")
    told, _ = site.scan()
    assert told.keys() == {b"sub", b"sub/a", b"sub/deeper/b"}
    assert told[b"sub"] is not None
    assert told[b"sub/a"] is told[b"sub/deeper/b"] is None


def test_stopped_scan_concludes_nothing(site: Site) -> None:
    """A scan that is cut short takes no directory that it did not reach for gone."""
    for number in range(20):
        site.sign(b"d%02d/a" % number)
    shutil.rmtree(site.root / "d19")
    turns = iter(range(100))
    told, tally = site.scan(stopped=lambda: next(turns) > 5)
    assert not tally.complete
    assert tally.directories < 21
    assert told == {}


def test_findings_come_in_portions(site: Site) -> None:
    """A hundred thousand new files would not be gathered in memory: they are handed over as they are found."""
    for number in range(CHUNK * 3 + 10):
        site.drop(b"%05d" % number, b"")
    told, _ = site.scan()
    assert len(told) == CHUNK * 3 + 10
    assert site.portions == [CHUNK] * 3 + [10]


def test_large_unchanged_tree_costs_few_queries(tmp_path: Path) -> None:
    """20,000 known files in 41 directories: a query a thousand files and directory, not one a file."""
    root = tmp_path / "outbox"
    root.mkdir()
    site = Site(root)
    for number in range(20_000):
        directory = b"" if number % 2 else b"d%02d/" % (number % 40)
        if number < 40 and directory:
            os.mkdir(os.path.join(os.fsencode(root), directory))
        path = directory + b"%05d" % number
        full = os.path.join(os.fsencode(root), path)
        os.close(os.open(full, os.O_CREAT | os.O_WRONLY))
        os.close(os.open(full + b".sign", os.O_CREAT | os.O_WRONLY))
        stamp = Stamp.of(os.lstat(full + b".sign"))
        site.journal.sign(Drop(path, Fingerprint.of(os.lstat(full))), Signature(b"s", b"d" * 32, 0), stamp)
    asyncio.run(site.journal.flush())
    statements: list[str] = []

    async def trace(collector: Callable[[str], None] | None) -> None:
        await site.journal._ask(lambda connection: connection.set_trace_callback(collector))

    asyncio.run(trace(statements.append))
    told, tally = site.scan()
    asyncio.run(trace(None))
    site.close()
    assert told == {}
    assert (tally.files, tally.directories) == (20_000, 21)
    assert sorted(site.asked) == sorted({b"", *(b"d%02d" % number for number in range(0, 40, 2))})
    assert len(statements) <= 21 + 20_000 // 1000 + 21, statements


def test_files_below_a_directory(site: Site) -> None:
    """`below` yields every possible drop of a part of the tree, known or not, and nothing beside it."""
    site.sign(b"sub/a")
    site.drop(b"sub/deeper/b")
    site.drop(b"other/c")
    found = {finding.path for finding in below(site.outbox, site.filters, b"sub", recursive=True)}
    assert found == {b"sub/a", b"sub/deeper/b"}
    flat = {finding.path for finding in below(site.outbox, site.filters, b"sub", recursive=False)}
    assert flat == {b"sub/a"}


NAMES = st.sampled_from([b"a", b"b", b"a.b", b"a!", b"\xff", b"A", b"a.sign.x", b"zz", b"-"])
DIRECTORIES = st.sampled_from([b"", b"a-directory/", b"x/", b"x/y/", b"\xfe/"])
FATES = st.sampled_from(["signed", "signed", "unsigned", "changed", "gone", "new", "queued", "queued gone"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.tuples(DIRECTORIES, NAMES), FATES, max_size=30), st.booleans())
def test_merge_against_a_plain_model(
    tmp_path: Path, tree: dict[tuple[bytes, bytes], str], republish_missing: bool
) -> None:
    """For any tree, however its names sort, exactly those paths are told that differ from what is known."""
    root = Path(tempfile.mkdtemp(dir=tmp_path))
    site = Site(root)
    try:
        wanted = set()
        for (directory, name), fate in tree.items():
            path = directory + name
            full = os.path.join(os.fsencode(root), path)
            match fate:
                case "signed":
                    site.sign(path)
                case "unsigned":
                    site.sign(path)
                    os.unlink(full + b".sign")
                case "changed":
                    site.sign(path)
                    site.drop(path, b"another content")
                case "gone":
                    site.sign(path)
                    os.unlink(full)
                case "new":
                    site.drop(path)
                case _:
                    site.journal.queue(Drop(path, site.drop(path), ticket=site.journal.next_ticket()))
                    if "gone" in fate:
                        os.unlink(full)
            if fate in {"changed", "gone", "new", "queued gone"} or (fate == "unsigned" and republish_missing):
                wanted.add((path, "gone" in fate))
        told, tally = site.scan(republish_missing=republish_missing)
        assert {(path, fingerprint is None) for path, fingerprint in told.items()} == wanted
        assert tally.files == len([fate for fate in tree.values() if "gone" not in fate])
    finally:
        site.close()
        shutil.rmtree(root)


def test_read_only_questions_do_not_write(site: Site) -> None:
    """A scan changes neither journal nor tree."""
    site.sign(b"a")
    site.drop(b"new")

    async def changes() -> int:
        await site.journal.flush()
        result: int = await site.journal._ask(lambda connection: connection.total_changes)
        return result

    before = asyncio.run(changes()), sorted(os.listdir(site.root)), os.stat(site.root).st_mtime_ns
    site.scan()
    assert (asyncio.run(changes()), sorted(os.listdir(site.root)), os.stat(site.root).st_mtime_ns) == before


def test_journal_that_fails_is_no_reason_to_take_files_for_gone(site: Site) -> None:
    """If the journal can't be read, the scan raises instead of comparing with nothing."""
    site.sign(b"a")
    asyncio.run(_break(site.journal))
    with pytest.raises(JournalError, match="cannot be read: no such table"):
        site.scan()
    assert sorted(os.listdir(site.root)) == ["a", "a.sign"]


async def _break(journal: Journal) -> None:
    def drop_tables(connection: sqlite3.Connection) -> None:
        connection.execute("COMMIT" if connection.in_transaction else "SELECT 1")
        connection.execute("DROP TABLE drops")

    await journal.flush()
    await journal._ask(drop_tables)
