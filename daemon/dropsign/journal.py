"""The journal: SQLite rows <-> entries.

Calls are carried out in the order in which they were made, so that a lookup sees every write before it. Writes are
committed in groups (see commits.py); if the process dies before, a version is signed twice at worst, as its file and
its FILE.sign lie in the outbox.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from dropsign import claim, rows, schema
from dropsign.chain import Head
from dropsign.commits import CommitThread
from dropsign.errors import JournalError
from dropsign.history import History, prune
from dropsign.model import Drop, Entry, Fingerprint, Known, Signature, Stamp, State
from dropsign.trouble import Trouble

T = TypeVar("T")

_UNKNOWN: Final = (None, None)
"""A stamp that is not known."""

PAGE: Final = 1000
"""Rows fetched at a time by long reads, so that others get their turn in between."""


class Journal:
    """What is known of every drop, and every signature ever made."""

    def __init__(
        self,
        path: Path | None,
        *,
        on_trouble: Callable[[Trouble | None], object] = lambda _: None,
        on_defect: Callable[[Exception], None] = lambda _: None,
        purpose: str = "run",
    ) -> None:
        """Open the journal, creating or migrating it as needed.

        Args:
            path: the database; None keeps it in memory.
            on_trouble: told, from the journal's thread, why it cannot be used, and None once it can again.
            on_defect: told, from there too, of a write that the tables refuse, which only a defect can ask for.
            purpose: the verb that it is opened for.

        Raises:
            JournalError: it cannot be opened, is no journal, or is newer than this program.
        """
        self.path = path
        self._directories: dict[bytes, int] = {}
        self._history = History()
        self._lock = None if path is None else claim.lock(path, purpose)
        try:
            connection = schema.connect(path)
            self.last_ticket = schema.highest_ticket(connection, path)
            """The last place in the queue; 0 when nothing waits."""
            with schema.explained(path):
                self._history.head(connection)
        except JournalError:
            self._unlock()
            raise
        self._counter = schema.Counter(connection)
        self._thread = CommitThread(
            connection, on_trouble=on_trouble, on_defect=on_defect, on_rollback=self._on_rollback
        )

    def close(self) -> None:
        """Carry out what was asked for, commit, and close; blocks."""
        self._thread.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def is_alive(self) -> bool:
        """Tell whether the thread lives."""
        return self._thread.is_alive

    def ping(self) -> Future[None]:
        """Ask the thread for a sign of life, which it gives in trouble too."""
        return self._thread.ask(lambda _: None, at_once=True)

    def next_ticket(self) -> int:
        """Return a place at the end of the queue."""
        self.last_ticket += 1
        return self.last_ticket

    def _on_rollback(self) -> None:
        self._directories.clear()
        self._history.forget()

    # Reads

    async def lookup(self, paths: Sequence[bytes], *, at_once: bool = False) -> dict[bytes, Entry]:
        """Return what is known of some paths; those nobody knows are left out.

        Args:
            paths: relative to the outbox.
            at_once: while the journal cannot be written, tell what it holds, instead of waiting for what it will.
        """
        found: dict[bytes, Entry] = {}
        for start in range(0, len(paths), PAGE):
            some = paths[start : start + PAGE]
            found |= await self._ask(partial(rows.lookup, paths=some), at_once=at_once)
        return found

    async def waiting(self, after: int, limit: int) -> Sequence[Drop]:
        """Return queued drops with a ticket above `after`, lowest first (see ports.Backlog)."""
        query = (
            "SELECT p.path, d.name, d.device, d.inode, d.size, d.mtime_ns, d.ctime_ns, d.attempts, d.since, d.ticket"
            " FROM drops d JOIN directories p ON p.id = d.directory"
            " WHERE d.state = 'queued' AND d.ticket > ? ORDER BY d.ticket LIMIT ?"
        )
        found = await self._ask(lambda connection: connection.execute(query, (after, limit)).fetchall())
        return [Drop(rows.join(row[0], row[1]), Fingerprint(*row[2:7]), row[7], row[8], row[9]) for row in found]

    async def rested(self, now: float, latest: float, limit: int) -> Sequence[Entry]:
        """Return deferred drops whose time has come.

        Args:
            now: seconds since the epoch.
            latest: no drop rests beyond this; a time that lies later was set by a clock that was ahead since.
            limit: how many at most.
        """
        return await self.entries(State.DEFERRED, limit, "AND (d.not_before <= ? OR d.not_before > ?)", now, latest)

    async def next_rested(self) -> float | None:
        """Return when the first deferred drop's time comes, in seconds since the epoch."""
        query = "SELECT min(not_before) FROM drops WHERE state = 'deferred'"
        value: float | None = await self._ask(lambda connection: connection.execute(query).fetchone()[0])
        return value

    async def listed(self, state: State, limit: int) -> list[Entry]:
        """Return entries in one state for somebody who asks, at once (see `lookup`)."""
        return await self.entries(state, limit, at_once=True)

    async def entries(
        self, state: State, limit: int, condition: str = "", *values: object, at_once: bool = False
    ) -> list[Entry]:
        """Return entries in one state (see rows.entries); see `lookup` for `at_once`."""
        read = partial(rows.entries, state=state, limit=limit, condition=condition, values=values)
        return await self._ask(read, at_once=at_once)

    async def counts(self) -> dict[State, int]:
        """Return how many drops are in each state, at once (see `lookup`)."""
        return await self._ask(lambda _: self._counter.counts(time.monotonic()), at_once=True)

    async def oldest_waiting(self) -> float | None:
        """Return since when the drop waits that has waited longest (see schema), at once (see `lookup`)."""
        return await self._ask(schema.oldest_waiting, at_once=True)

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
            "SELECT name, state, device, inode, size, mtime_ns, ctime_ns, sign_inode, sign_ctime_ns FROM drops"
            " WHERE directory = (SELECT id FROM directories WHERE path = ?) AND name > ? ORDER BY name LIMIT ?"
        )
        while True:
            page = (directory, after, PAGE)
            found = self._thread.ask(partial(_fetch, query=query, values=page)).result()
            for row in found:
                yield Known(row[0], State(row[1]), Fingerprint(*row[2:7]), rows.stamp(*row[7:]))
            if len(found) < PAGE:
                return
            after = found[-1][0]

    def known_directories(self) -> list[bytes]:
        """Return all directories that have entries; blocks."""
        # Those that only the history knows grow in number for ever, and a scan would look for each of them.
        query = "SELECT path FROM directories WHERE EXISTS (SELECT 1 FROM drops WHERE directory = id)"
        return [row[0] for row in self._thread.ask(partial(_fetch, query=query, values=())).result()]

    # Writes: they return at once; `flush` waits for the disk

    def queue(self, drop: Drop) -> None:
        """Record a drop as waiting for its signature, at its ticket's place."""
        self._put(
            "queue", drop.path, State.QUEUED, drop.fingerprint,
            since=drop.settled_at, ticket=drop.ticket, attempts=drop.attempts,
        )  # fmt: skip

    def defer(self, drop: Drop, not_before: float, reason: str, error: str) -> None:
        """Record that a drop rests until a time (seconds since the epoch)."""
        self._put(
            "defer", drop.path, State.DEFERRED, drop.fingerprint,
            since=drop.settled_at, attempts=drop.attempts, not_before=not_before, reason=reason, error=error,
        )  # fmt: skip

    def fail(self, drop: Drop, reason: str, error: str) -> None:
        """Record that a drop is given up until it changes or someone asks."""
        self._put("fail", drop.path, State.FAILED, drop.fingerprint, attempts=drop.attempts, reason=reason, error=error)

    def refuse(self, path: bytes, fingerprint: Fingerprint, reason: str) -> None:
        """Record that a file can't be signed for what it is."""
        self._put("refuse", path, State.REFUSED, fingerprint, reason=reason)

    def obtained(self, drop: Drop, signature: Signature) -> None:
        """Record a signature in the history, whose file moved on before it was published."""
        self._write("obtain", lambda connection: self._obtained(connection, drop, signature))

    def sign(self, drop: Drop, signature: Signature, stamp: Stamp | None = None) -> None:
        """Record that FILE.sign, with this stamp, lies beside this version, and the signature in the history."""
        self._write("sign", lambda connection: self._signed(connection, drop, signature, stamp))

    def keep(self, path: bytes, fingerprint: Fingerprint, signature_id: int, stamp: Stamp | None = None) -> None:
        """Record that a signature of the history is this version's, and lies beside it, with this stamp."""
        self._put("keep", path, State.SIGNED, fingerprint, stamp=stamp, signature=signature_id)

    def forget(self, paths: Iterable[bytes]) -> None:
        """Remove the entries of paths that are gone; the history stays."""
        gone = list(paths)
        self._write("forget", lambda connection: self._delete(connection, gone))

    async def flush(self) -> None:
        """Wait until all writes before this call are committed."""
        await asyncio.wrap_future(self._thread.flush())

    async def head(self) -> Head:
        """Return the end of the audit chain, once it is committed."""
        return await self._changed(self._history.head)

    async def prune(self, before: float) -> None:
        """Forget signatures made before a time (seconds since the epoch), but for those of files that are there."""
        after: int | None = 0
        while after is not None:
            after = await self._changed(partial(prune, after=after, before=before))

    async def _changed(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """Have something written; return what it gave once it is committed."""
        results: list[T] = []  # it is carried out again after a rollback; the last time counts
        await asyncio.wrap_future(self._thread.flush(lambda connection: results.append(operation(connection))))
        return results[-1]

    def _ask(self, operation: Callable[[sqlite3.Connection], T], *, at_once: bool = False) -> "asyncio.Future[T]":
        return asyncio.wrap_future(self._thread.ask(operation, at_once=at_once))

    def _write(self, name: str, operation: Callable[[sqlite3.Connection], Any]) -> None:
        self._thread.write(operation, name)

    # Rows

    def _put(self, name: str, path: bytes, state: State, fingerprint: Fingerprint, **values: Any) -> None:
        self._write(name, lambda connection: self._upsert(connection, path, state, fingerprint, **values))

    def _upsert(
        self, connection: sqlite3.Connection, path: bytes, state: State, fingerprint: Fingerprint,
        *, stamp: Stamp | None = None, **values: object,
    ) -> None:  # fmt: skip
        directory, name = self._locate(connection, path)
        given = (values.get(key) for key in ("ticket", "attempts", "not_before", "reason", "error", "signature"))
        connection.execute(
            schema.UPSERT,
            (directory, name, state, *fingerprint, values.get("since") or time.time(), *given, *(stamp or _UNKNOWN)),
        )

    def _signed(self, connection: sqlite3.Connection, drop: Drop, signature: Signature, stamp: Stamp | None) -> None:
        directory, _ = self._locate(connection, drop.path)
        number = self._history.append(connection, directory, drop.path, signature, drop.attempts + 1)
        self._upsert(connection, drop.path, State.SIGNED, drop.fingerprint, stamp=stamp, signature=number)

    def _obtained(self, connection: sqlite3.Connection, drop: Drop, signature: Signature) -> None:
        directory, name = self._locate(connection, drop.path)
        number = self._history.append(connection, directory, drop.path, signature, drop.attempts + 1)
        query = "UPDATE drops SET signature = ? WHERE directory = ? AND name = ?"
        connection.execute(query, (number, directory, name))

    def _delete(self, connection: sqlite3.Connection, paths: Sequence[bytes]) -> None:
        located = [self._locate(connection, path) for path in paths]
        connection.executemany("DELETE FROM drops WHERE directory = ? AND name = ?", located)

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
