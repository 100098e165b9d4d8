"""The journal: SQLite rows <-> entries, in one thread, with the writes of many files in one commit.

Calls are carried out in the order in which they were made, so that a lookup sees every write before it. Writes are
committed within `COMMIT_SECONDS`; if the process dies before, a version is signed twice at worst, as its file and
its FILE.sign lie in the outbox. A write that fails for want of space is tried again until it succeeds, with
everything behind it waiting.
"""

import asyncio
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Final, TypeVar

from dropsign import schema
from dropsign.errors import JournalError
from dropsign.failpoints import reach
from dropsign.model import Drop, Entry, Fingerprint, Known, Signature, State

T = TypeVar("T")

COMMIT_SECONDS: Final = 0.02
RETRY_SECONDS: Final = 1.0
PAGE: Final = 1000
"""Rows fetched at a time by long reads, so that others get their turn in between."""

_Operation = Callable[[sqlite3.Connection], Any]

_COLUMNS: Final = (
    "d.name, d.state, d.device, d.inode, d.size, d.mtime_ns, d.ctime_ns, s.sha256, d.signature, d.attempts,"
    " d.not_before, d.since, d.reason, d.error, s.size"
)


class Journal:
    """What is known of every drop, and every signature ever made."""

    def __init__(
        self,
        path: Path | None,
        *,
        on_trouble: Callable[[str | None], None] = lambda _: None,
        on_defect: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        """Open the journal, creating or migrating it as needed.

        Args:
            path: the database; None keeps it in memory.
            on_trouble: told, from the journal's thread, why writing fails, and None once it works again.
            on_defect: told, from there too, of a write that the tables refuse, which only a defect can ask for.

        Raises:
            JournalError: it cannot be opened, is no journal, or is newer than this program.
        """
        self.path = path
        self._on_trouble = on_trouble
        self._on_defect = on_defect
        self._trouble = ""
        self._operations: queue.SimpleQueue[tuple[_Operation | None, bool, Future[Any] | None]] = queue.SimpleQueue()
        self._directories: dict[bytes, int] = {}
        self._lock = None if path is None else schema.lock(path)
        try:
            self._connection = schema.connect(path)
        except JournalError:
            self._unlock()
            raise
        self._counter = schema.Counter(self._connection)
        self.last_ticket = schema.highest_ticket(self._connection)
        """The last place in the queue; 0 when nothing waits."""
        self._ended = False
        self._thread = threading.Thread(target=self._live, name="journal", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Carry out what was asked for, commit, and close; blocks."""
        if self._thread.is_alive():
            self._submit(None, writes=False)
            self._thread.join()
        self._unlock()

    @property
    def is_alive(self) -> bool:
        """Tell whether the thread lives."""
        return self._thread.is_alive()

    def next_ticket(self) -> int:
        """Return a place at the end of the queue."""
        self.last_ticket += 1
        return self.last_ticket

    # Reads

    async def lookup(self, paths: Sequence[bytes]) -> dict[bytes, Entry]:
        """Return what is known of some paths; those nobody knows are left out."""
        return await self._ask(lambda connection: self._lookup(connection, paths))

    async def waiting(self, after: int, limit: int) -> Sequence[Drop]:
        """Return queued drops with a ticket above `after`, lowest first (see ports.Backlog)."""
        query = (
            "SELECT p.path, d.name, d.device, d.inode, d.size, d.mtime_ns, d.ctime_ns, d.attempts, d.since, d.ticket"
            " FROM drops d JOIN directories p ON p.id = d.directory"
            " WHERE d.state = 'queued' AND d.ticket > ? ORDER BY d.ticket LIMIT ?"
        )
        rows = await self._ask(lambda connection: connection.execute(query, (after, limit)).fetchall())
        return [Drop(_join(row[0], row[1]), Fingerprint(*row[2:7]), row[7], row[8], row[9]) for row in rows]

    async def rested(self, now: float, limit: int) -> Sequence[Entry]:
        """Return deferred drops whose time has come."""
        return await self.entries(State.DEFERRED, limit, "AND d.not_before <= ?", now)

    async def next_rested(self) -> float | None:
        """Return when the first deferred drop's time comes, in seconds since the epoch."""
        query = "SELECT min(not_before) FROM drops WHERE state = 'deferred'"
        value: float | None = await self._ask(lambda connection: connection.execute(query).fetchone()[0])
        return value

    async def entries(self, state: State, limit: int, condition: str = "", *values: object) -> list[Entry]:
        """Return entries in one state."""
        query = (
            f"SELECT p.path, {_COLUMNS} FROM drops d JOIN directories p ON p.id = d.directory"  # noqa: S608
            f" LEFT JOIN signatures s ON s.id = d.signature WHERE d.state = '{state}' {condition} LIMIT ?"
        )
        rows = await self._ask(lambda connection: connection.execute(query, (*values, limit)).fetchall())
        return [_entry(row[0], row[1:]) for row in rows]

    async def counts(self) -> dict[State, int]:
        """Return how many drops are in each state."""
        return await self._ask(lambda _: self._counter.counts(time.monotonic()))

    async def oldest_waiting(self) -> float | None:
        """Return since when the oldest drop waits, in seconds since the epoch."""
        return await self._ask(schema.oldest_waiting)

    async def signature(self, number: int) -> Signature | None:
        """Return a signature from the history."""
        query = "SELECT text, sha256, size FROM signatures WHERE id = ?"
        row = await self._ask(lambda connection: connection.execute(query, (number,)).fetchone())
        return Signature(*row) if row else None

    async def made(self, path: bytes, text: bytes) -> tuple[int, bytes] | None:
        """Return the number, and the digest of the content, of a signature once made for a path."""
        query = (
            "SELECT id, sha256 FROM signatures WHERE text = ? AND name = ?"
            " AND directory = (SELECT id FROM directories WHERE path = ?)"
        )
        directory, _, name = path.rpartition(b"/")
        row = await self._ask(lambda connection: connection.execute(query, (text, name, directory)).fetchone())
        return (row[0], row[1]) if row else None

    def known(self, directory: bytes) -> Iterator[Known]:
        """Yield the entries of one directory, sorted by name; blocks, and is for the scan's thread."""
        after = b""
        query = (
            "SELECT name, state, device, inode, size, mtime_ns, ctime_ns FROM drops"
            " WHERE directory = (SELECT id FROM directories WHERE path = ?) AND name > ? ORDER BY name LIMIT ?"
        )
        while True:
            page = (directory, after, PAGE)
            rows = self._submit(partial(_fetch, query=query, values=page), writes=False).result()
            for row in rows:
                yield Known(row[0], State(row[1]), Fingerprint(*row[2:]))
            if len(rows) < PAGE:
                return
            after = rows[-1][0]

    def known_directories(self) -> list[bytes]:
        """Return all directories that may have entries; blocks."""
        query = "SELECT path FROM directories"
        return [row[0] for row in self._submit(lambda c: c.execute(query).fetchall(), writes=False).result()]

    # Writes: they return at once; `flush` waits for the disk

    def queue(self, drop: Drop) -> None:
        """Record a drop as waiting for its signature, at its ticket's place."""
        self._put(drop.path, State.QUEUED, drop.fingerprint, ticket=drop.ticket, attempts=drop.attempts)

    def defer(self, drop: Drop, not_before: float, reason: str, error: str) -> None:
        """Record that a drop rests until a time (seconds since the epoch)."""
        self._put(
            drop.path, State.DEFERRED, drop.fingerprint,
            attempts=drop.attempts, not_before=not_before, reason=reason, error=error,
        )  # fmt: skip

    def fail(self, drop: Drop, reason: str, error: str) -> None:
        """Record that a drop is given up until it changes or someone asks."""
        self._put(drop.path, State.FAILED, drop.fingerprint, attempts=drop.attempts, reason=reason, error=error)

    def refuse(self, path: bytes, fingerprint: Fingerprint, reason: str) -> None:
        """Record that a file can't be signed for what it is."""
        self._put(path, State.REFUSED, fingerprint, reason=reason)

    def obtained(self, drop: Drop, signature: Signature) -> None:
        """Record a signature in the history, whose file moved on before it was published."""
        self._write(lambda connection: self._signed(connection, drop, signature, published=False))

    def sign(self, drop: Drop, signature: Signature) -> None:
        """Record that FILE.sign lies beside this version, and the signature in the history."""
        self._write(lambda connection: self._signed(connection, drop, signature, published=True))

    def keep(self, path: bytes, fingerprint: Fingerprint, signature_id: int) -> None:
        """Record that a signature of the history, unchanged, is the one of this version."""
        self._write(
            lambda connection: self._upsert(connection, path, State.SIGNED, fingerprint, signature=signature_id)
        )

    def forget(self, paths: Iterable[bytes]) -> None:
        """Remove the entries of paths that are gone; the history stays."""
        rows = list(paths)
        self._write(lambda connection: self._delete(connection, rows))

    async def flush(self) -> None:
        """Wait until all writes before this call are committed."""
        await asyncio.wrap_future(self._submit(lambda _: None, writes=True))

    # The thread

    def _ask(self, operation: Callable[[sqlite3.Connection], T]) -> "asyncio.Future[T]":
        return asyncio.wrap_future(self._submit(operation, writes=False))

    def _write(self, operation: _Operation) -> None:
        self._operations.put((operation, True, None))  # nobody waits: a future would cost more than the write

    def _submit(self, operation: Callable[[sqlite3.Connection], T] | None, *, writes: bool) -> "Future[T]":
        future: Future[T] = Future()
        self._operations.put((operation, writes, future))
        if self._ended:
            self._abandon()
        return future

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _live(self) -> None:
        try:
            self._run()
        finally:
            self._ended = True
            self._abandon()

    def _abandon(self) -> None:
        """Tell who asks a closed journal so, instead of letting them wait for ever."""
        with suppress(queue.Empty):
            while True:
                _, _, future = self._operations.get_nowait()
                if future is not None and future.set_running_or_notify_cancel():
                    future.set_exception(JournalError("the journal is closed"))

    def _run(self) -> None:
        """Carry out operations; those that write wait in one transaction until it is due."""
        pending: list[tuple[_Operation, Future[Any] | None]] = []
        due = 0.0
        while True:
            try:
                timeout = max(0.0, due - time.monotonic()) if pending else None
                operation, writes, future = self._operations.get(timeout=timeout)
            except queue.Empty:
                self._commit(pending)
                continue
            if operation is None:
                self._commit(pending)
                self._connection.close()
                return
            if future is not None and not future.set_running_or_notify_cancel():
                continue  # who asked was cancelled
            if writes:
                if not pending:
                    due = time.monotonic() + COMMIT_SECONDS
                pending.append((operation, future))
                if not self._try([pending[-1]], begins=len(pending) == 1):
                    self._commit(pending, again=True)
            elif future is not None:
                _fulfil(future, operation, self._connection)
            if pending and time.monotonic() >= due:
                self._commit(pending)

    def _try(self, operations: Sequence[tuple[_Operation, Future[Any] | None]], *, begins: bool) -> bool:
        """Carry out writes inside the transaction; return whether they worked."""
        try:
            if begins:
                self._connection.execute("BEGIN IMMEDIATE")
            for operation, _ in operations:
                self._carry_out(operation)
        except sqlite3.Error as error:
            self._trouble = str(error)
            return False
        return True

    def _carry_out(self, operation: _Operation) -> None:
        """Carry out one write; one that is refused by the tables is left out, and costs no other its place."""
        try:
            operation(self._connection)
        except sqlite3.IntegrityError as error:
            self._on_defect(error)
        except sqlite3.Error:
            raise
        except Exception as error:  # noqa: BLE001 - a value that SQLite cannot hold must not cost others the thread
            self._on_defect(error)

    def _commit(self, pending: list[tuple[_Operation, Future[Any] | None]], *, again: bool = False) -> None:
        """Make the pending writes durable, however long that takes; everything behind them waits."""
        told = False
        while pending:
            if not again:
                try:
                    self._connection.execute("COMMIT")
                    reach("committed")
                    break
                except sqlite3.Error as error:
                    self._trouble = str(error)
            if self._connection.in_transaction:
                self._connection.rollback()
            if told:
                time.sleep(RETRY_SECONDS)
            else:
                self._on_trouble(self._trouble)
                told = True
            self._directories.clear()
            again = not self._try(pending, begins=True)
        if told:
            self._on_trouble(None)
        for _, future in pending:
            if future is not None:
                future.set_result(None)
        pending.clear()

    # Rows

    def _put(self, path: bytes, state: State, fingerprint: Fingerprint, **values: object) -> None:
        self._write(lambda connection: self._upsert(connection, path, state, fingerprint, **values))

    def _upsert(
        self, connection: sqlite3.Connection, path: bytes, state: State, fingerprint: Fingerprint, **values: object
    ) -> None:
        directory, name = self._locate(connection, path)
        given = (values.get(key) for key in ("ticket", "attempts", "not_before", "reason", "error", "signature"))
        connection.execute(schema.UPSERT, (directory, name, state, *fingerprint, time.time(), *given))

    def _signed(self, connection: sqlite3.Connection, drop: Drop, signature: Signature, *, published: bool) -> None:
        directory, name = self._locate(connection, drop.path)
        row = (time.time(), directory, name, signature.size, signature.sha256, signature.text, drop.attempts)
        number = connection.execute(schema.INSERT_SIGNATURE, row).lastrowid
        if published:
            self._upsert(connection, drop.path, State.SIGNED, drop.fingerprint, signature=number)
        else:
            query = "UPDATE drops SET signature = ? WHERE directory = ? AND name = ?"
            connection.execute(query, (number, directory, name))

    def _delete(self, connection: sqlite3.Connection, paths: Sequence[bytes]) -> None:
        rows = [self._locate(connection, path) for path in paths]
        connection.executemany("DELETE FROM drops WHERE directory = ? AND name = ?", rows)

    def _lookup(self, connection: sqlite3.Connection, paths: Sequence[bytes]) -> dict[bytes, Entry]:
        found = {}
        for directory, group in groupby(sorted(paths), key=lambda path: path.rpartition(b"/")[0]):
            names = [path.rpartition(b"/")[2] for path in group]
            query = (
                f"SELECT {_COLUMNS} FROM drops d LEFT JOIN signatures s ON s.id = d.signature"  # noqa: S608
                " WHERE d.directory = (SELECT id FROM directories WHERE path = ?)"
                f" AND d.name IN ({','.join('?' * len(names))})"
            )
            for row in connection.execute(query, (directory, *names)):
                entry = _entry(directory, row)
                found[entry.path] = entry
        return found

    def _locate(self, connection: sqlite3.Connection, path: bytes) -> tuple[int, bytes]:
        """Return the number of a path's directory, and its name in there."""
        directory, _, name = path.rpartition(b"/")
        number = self._directories.get(directory)
        if number is None:
            connection.execute("INSERT OR IGNORE INTO directories (path) VALUES (?)", (directory,))
            (number,) = connection.execute("SELECT id FROM directories WHERE path = ?", (directory,)).fetchone()
            if len(self._directories) > PAGE:
                self._directories.clear()
            self._directories[directory] = number
        return number, name


def _fetch(connection: sqlite3.Connection, query: str, values: Sequence[Any]) -> list[Any]:
    return connection.execute(query, values).fetchall()


def _fulfil(future: "Future[Any]", operation: _Operation, connection: sqlite3.Connection) -> None:
    try:
        result = operation(connection)
    except sqlite3.Error as error:
        future.set_exception(JournalError(f"the journal cannot be read: {error}"))
    except Exception as error:  # noqa: BLE001 - it is the asker's, and must not cost others the thread
        future.set_exception(error)
    else:
        future.set_result(result)


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name


def _entry(directory: bytes, row: Sequence[Any]) -> Entry:
    return Entry(_join(directory, row[0]), State(row[1]), Fingerprint(*row[2:7]), *row[7:])
