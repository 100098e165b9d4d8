"""The journal's tables: what the database file is, how it is opened, and how an older one becomes this one."""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Final

from dropsign import claim
from dropsign.chain import GENESIS, Head, Record, digest
from dropsign.errors import JournalError
from dropsign.model import State
from dropsign.states import MOVES
from dropsign.trouble import explain

APPLICATION_ID: Final = 0x64727073
"""'drps': how file(1) and we tell a journal from any other database."""

_FIRST_BUSY_MILLISECONDS: Final = 5000
"""How long a start waits for another process to let go of the journal."""

_BUSY_MILLISECONDS: Final = 1000

_CHECK_SECONDS: Final = 2.0
"""How long a start looks for damage; a journal so large that this is too short is read in part."""


def _legal_beginnings() -> str:
    """Return a trigger that refuses a new path in a state that the table of states does not let it begin in."""
    legal = ", ".join(f"'{new}'" for new in sorted(filter(None, MOVES[None])))
    return (
        f"CREATE TRIGGER legal_beginnings AFTER INSERT ON drops WHEN new.state NOT IN ({legal})"
        " BEGIN SELECT RAISE(ABORT, 'illegal beginning'); END"
    )


def _legal_moves() -> str:
    """Return a trigger that refuses what the table of states does not have."""
    legal = " OR ".join(
        f"(old.state = '{old}' AND new.state = '{new}')" for old, news in MOVES.items() if old for new in news if new
    )
    return (
        "CREATE TRIGGER legal_moves BEFORE UPDATE OF state ON drops WHEN NOT ("
        f"{legal}) BEGIN SELECT RAISE(ABORT, 'illegal move'); END"
    )


MIGRATIONS: Final[list[list[str]]] = [
    [
        "CREATE TABLE directories (id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE) STRICT",
        """CREATE TABLE signatures (
            id INTEGER PRIMARY KEY, at REAL NOT NULL, directory INTEGER NOT NULL REFERENCES directories (id),
            name BLOB NOT NULL, size INTEGER NOT NULL, sha256 BLOB NOT NULL, text BLOB NOT NULL,
            attempt INTEGER NOT NULL) STRICT""",
        """CREATE TABLE drops (
            directory INTEGER NOT NULL REFERENCES directories (id), name BLOB NOT NULL, state TEXT NOT NULL,
            device INTEGER NOT NULL, inode INTEGER NOT NULL, size INTEGER NOT NULL,
            mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, since REAL NOT NULL,
            ticket INTEGER, attempts INTEGER NOT NULL DEFAULT 0, not_before REAL NOT NULL DEFAULT 0,
            reason TEXT, error TEXT, signature INTEGER REFERENCES signatures (id),
            PRIMARY KEY (directory, name)) STRICT, WITHOUT ROWID""",
        "CREATE INDEX made ON signatures (directory, name)",
        "CREATE INDEX queued ON drops (ticket) WHERE state = 'queued'",
        "CREATE INDEX deferred ON drops (not_before) WHERE state = 'deferred'",
        "CREATE INDEX given_up ON drops (state) WHERE state IN ('failed', 'refused')",
        _legal_beginnings(),
        _legal_moves(),
    ],
    [
        """CREATE TABLE certificates (
            id INTEGER PRIMARY KEY, service BLOB NOT NULL, client TEXT NOT NULL, UNIQUE (service, client)) STRICT""",
        "CREATE TABLE anchor (number INTEGER NOT NULL, hash BLOB NOT NULL) STRICT",
        "INSERT INTO anchor VALUES (0, zeroblob(32))",  # chain.GENESIS
        "ALTER TABLE signatures ADD COLUMN certificates INTEGER REFERENCES certificates (id)",
        "ALTER TABLE signatures ADD COLUMN hash BLOB NOT NULL DEFAULT x''",
        "UPDATE signatures SET attempt = attempt + 1",
    ],
    [  # the model.Stamp of a signed drop's FILE.sign; where it is not known, a scan has it looked at once
        "ALTER TABLE drops ADD COLUMN sign_inode INTEGER",
        "ALTER TABLE drops ADD COLUMN sign_ctime_ns INTEGER",
    ],
    ["CREATE INDEX waiting ON drops (since) WHERE state IN ('queued', 'deferred')"],
]
"""For each version, what makes it of the one before; the last is the present one."""


def _chain_history(connection: sqlite3.Connection) -> None:
    """Make a chain of signatures recorded before there was one."""
    query = (
        "SELECT s.id, s.at, p.path, s.name, s.size, s.sha256, s.text, s.attempt FROM signatures s"
        " JOIN directories p ON p.id = s.directory WHERE s.id > ? ORDER BY s.id LIMIT 1000"
    )
    before = GENESIS
    while rows := connection.execute(query, (before.number,)).fetchall():
        hashes = []
        for number, at, directory, name, size, sha256, text, attempt in rows:
            path = directory + b"/" + name if directory else name
            record = Record(number, at, path, size, sha256, text, None, None, attempt)
            before = Head(number, digest(record, before.hash))
            hashes.append((before.hash, number))
        connection.executemany("UPDATE signatures SET hash = ? WHERE id = ?", hashes)


_FILLINGS: Final[dict[int, Callable[[sqlite3.Connection], None]]] = {2: _chain_history}
"""What beside statements makes a version of the one before."""

UPSERT: Final = """
    INSERT INTO drops (directory, name, state, device, inode, size, mtime_ns, ctime_ns, since,
                       ticket, attempts, not_before, reason, error, signature,
                       sign_inode, sign_ctime_ns)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ifnull(?, 0), ifnull(?, 0), ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET state = excluded.state, device = excluded.device, inode = excluded.inode,
        size = excluded.size, mtime_ns = excluded.mtime_ns, ctime_ns = excluded.ctime_ns, since = excluded.since,
        ticket = excluded.ticket, attempts = excluded.attempts, not_before = excluded.not_before,
        reason = excluded.reason, error = excluded.error,
        signature = ifnull(excluded.signature, drops.signature),
        sign_inode = excluded.sign_inode, sign_ctime_ns = excluded.sign_ctime_ns"""


def connect(path: Path | None, *, read_only: bool = False, thorough: bool = True) -> sqlite3.Connection:
    """Open a journal, creating or migrating it unless it is only to be read.

    Args:
        path: of the database; None for one in memory.
        read_only: it is only to be read.
        thorough: look for damage first, which takes up to two seconds.

    Raises:
        JournalError: it cannot be opened, is no journal, is damaged, is newer than this program, or is older and only
            to be read.
    """
    name = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}" if path else ":memory:"
    with explained(path):
        if path is not None and not read_only:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        connection = sqlite3.connect(name, uri=True, isolation_level=None, check_same_thread=False)
        try:
            _prepare(connection, path, read_only=read_only)
            if thorough:
                _look_for_damage(connection)
            connection.execute(f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}")
        except BaseException:
            connection.close()
            raise
    return connection


@contextmanager
def reading(path: Path, *, thorough: bool = False) -> Iterator[sqlite3.Connection]:
    """Open a journal for somebody who only reads, and close it again.

    Args:
        path: of the database.
        thorough: as for `connect`; without it, damage shows where it is met.

    Raises:
        JournalError: there is none, or it cannot be read.
    """
    connection = connect(path, read_only=True, thorough=thorough)
    try:
        with explained(path):
            yield connection
    finally:
        connection.close()


@contextmanager
def explained(path: Path | None) -> Iterator[None]:
    """Say what an error means for a journal.

    Raises:
        JournalError: instead of it.
    """
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        text = explain(error).text if isinstance(error, sqlite3.Error) else error.strerror
        msg = f"journal.path: {path} cannot be opened: {text}"
        raise JournalError(msg) from None


def _prepare(connection: sqlite3.Connection, path: Path | None, *, read_only: bool) -> None:
    """Find out whether a database is a sound journal, and bring it up to date.

    Raises:
        JournalError: it is another program's, newer than this one, or older and only to be read.
        sqlite3.Error: it cannot be used.
    """
    connection.execute(f"PRAGMA busy_timeout = {_FIRST_BUSY_MILLISECONDS}")
    version = _identify(connection, path)
    if read_only and 0 < version < len(MIGRATIONS):
        msg = f"journal.path: {path} was written by an older dropsign; start the daemon once to bring it up to date"
        raise JournalError(msg)
    if not read_only:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        _migrate(connection)
        connection.execute("BEGIN IMMEDIATE")  # whoever holds it now is to be named now
        connection.execute("ROLLBACK")


def _look_for_damage(connection: sqlite3.Connection) -> None:
    """Read the journal for damage, as far as there is time.

    Raises:
        sqlite3.DatabaseError: there is some.
    """
    end = time.monotonic() + _CHECK_SECONDS
    connection.set_progress_handler(lambda: time.monotonic() > end, 10_000)
    try:
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        return
    finally:
        connection.set_progress_handler(None, 0)
    if found != "ok":
        damage = sqlite3.DatabaseError(str(found).splitlines()[-1])
        damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise damage


def set_aside(path: Path) -> Path | None:
    """Move a journal out of the way, so that the next start makes a new one from what lies in the outbox.

    Returns:
        Where it is now; None if there was none.

    Raises:
        OutboxLockedError: another process uses it.
        JournalError: it cannot be moved.
    """
    held = claim.lock(path)
    moment = time.strftime("%Y%m%dT%H%M%S")
    names = (f"{path.name}.aside-{moment}{'-' if number else ''}{number or ''}" for number in count())
    aside = next(path.with_name(name) for name in names if not path.with_name(name).exists())
    try:
        for suffix in ("-wal", "-shm", ""):  # the database last: without it, the others mean nothing
            part = path.with_name(path.name + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix))
    except OSError as error:
        msg = f"journal.path: {path} cannot be moved aside: {error.strerror}"
        raise JournalError(msg) from None
    finally:
        os.close(held)
    return aside if aside.exists() else None


def _identify(connection: sqlite3.Connection, path: Path | None) -> int:
    """Return the version of a journal's tables; 0 of one that has none yet.

    Raises:
        JournalError: it is another program's, or newer than this one.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application != APPLICATION_ID and (application or version or tables):
        msg = f"journal.path: {path} is a database of some other program; name another file"
        raise JournalError(msg)
    if version > len(MIGRATIONS):
        msg = f"journal.path: {path} was written by a newer dropsign (schema {version}); install that or a later one"
        raise JournalError(msg)
    return int(version)


def _migrate(connection: sqlite3.Connection) -> None:
    """Bring the schema up to date, in one transaction."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == len(MIGRATIONS):
        return
    connection.execute("BEGIN EXCLUSIVE")
    try:
        for number, statements in enumerate(MIGRATIONS[version:], version + 1):
            for statement in statements:
                connection.execute(statement)
            if (fill := _FILLINGS.get(number)) is not None:
                fill(connection)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise


def highest_ticket(connection: sqlite3.Connection, path: Path | None) -> int:
    """Return the last place in the queue.

    Raises:
        JournalError: it cannot be read.
    """
    with explained(path):
        (ticket,) = connection.execute("SELECT max(ticket) FROM drops WHERE state = 'queued'").fetchone()
    return ticket or 0


def counts(connection: sqlite3.Connection) -> dict[State, int]:
    """Return how many drops are in each state."""
    (total,) = connection.execute("SELECT count(*) FROM drops").fetchone()
    numbers: dict[State, int] = {
        state: connection.execute(f"SELECT count(*) FROM drops WHERE state = '{state}'").fetchone()[0]  # noqa: S608
        for state in State
        if state is not State.SIGNED  # the others have an index
    }
    return {**numbers, State.SIGNED: total - sum(numbers.values())}


class Counter:
    """Counts drops without counting them all again each time somebody asks."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._changes = -1
        self._due = 0.0
        self._counts: dict[State, int] = {}

    def counts(self, now: float) -> dict[State, int]:
        """Return the numbers; in a journal so large that counting takes long, they may be some seconds old.

        Args:
            now: monotonic seconds.
        """
        changes = self._connection.total_changes
        if changes != self._changes and now >= self._due:
            started = time.monotonic()
            self._counts = counts(self._connection)
            self._due = now + 50 * (time.monotonic() - started)
            self._changes = changes
        return self._counts


def oldest_waiting(connection: sqlite3.Connection) -> float | None:
    """Return since when the drop waits that has waited longest, queued or deferred, in seconds since the epoch."""
    query = "SELECT min(since) FROM drops WHERE state IN ('queued', 'deferred')"  # the index's condition, to the letter
    value: float | None = connection.execute(query).fetchone()[0]
    return value
