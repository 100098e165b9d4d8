"""The signatures ever made, as the audit chain in the journal's tables: appended, read, pruned."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Final

from dropsign import schema
from dropsign.chain import Head, Link, Record, digest
from dropsign.errors import JournalError
from dropsign.model import Signature

PAGE: Final = 1000
"""Records read or pruned at a time, so that the daemon gets its turn in between."""

_APPEND: Final = (
    "INSERT INTO signatures (id, at, directory, name, size, sha256, text, attempt, certificates, hash)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)

_READ: Final = (
    "SELECT s.id, s.at, ifnull(p.path, x''), s.name, s.size, s.sha256, s.text, c.service, c.client, s.attempt, s.hash"
    " FROM signatures s LEFT JOIN directories p ON p.id = s.directory"
    " LEFT JOIN certificates c ON c.id = s.certificates WHERE s.id > ? ORDER BY s.id LIMIT ?"
)

_PRUNE: Final = (
    "DELETE FROM signatures AS s WHERE s.id > ? AND s.id <= ? AND NOT EXISTS (SELECT 1 FROM drops d"
    " WHERE d.directory = s.directory AND d.name = s.name AND d.signature = s.id)"
)


class History:
    """Appends to the chain; for the one thread that writes."""

    def __init__(self) -> None:
        self._head: Head | None = None
        self._certificates: dict[tuple[bytes, str], int] = {}

    def forget(self) -> None:
        """Forget what may have been undone by a rollback."""
        self._head = None
        self._certificates.clear()

    def head(self, connection: sqlite3.Connection) -> Head:
        """Return the chain's end."""
        if self._head is None:
            self._head = head(connection)
        return self._head

    def append(
        self, connection: sqlite3.Connection, directory: int, path: bytes, signature: Signature, attempt: int
    ) -> int:
        """Append a signature to the chain; return its number.

        Args:
            connection: in a transaction.
            directory: the number of the path's directory.
            path: of the file, relative to the outbox.
            signature: which was made.
            attempt: which one it was.
        """
        before = self.head(connection)
        proof, pair = signature.proof, None
        service, client = (None, None) if proof is None else proof
        if proof is not None:
            pair = self._locate(connection, proof)
        record = Record(
            before.number + 1, time.time(), path, signature.size, signature.sha256, signature.text,
            service, client, attempt if proof is not None else 0,
        )  # fmt: skip
        covered = digest(record, before.hash)
        name = path.rpartition(b"/")[2]
        row = (record.number, record.at, directory, name, *record[3:6], record.attempt, pair, covered)
        connection.execute(_APPEND, row)
        self._head = Head(record.number, covered)
        return record.number

    def _locate(self, connection: sqlite3.Connection, proof: tuple[bytes, str]) -> int:
        """Return the number of a pair of certificates."""
        number = self._certificates.get(proof)
        if number is None:
            connection.execute("INSERT OR IGNORE INTO certificates (service, client) VALUES (?, ?)", proof)
            query = "SELECT id FROM certificates WHERE service = ? AND client = ?"
            (number,) = connection.execute(query, proof).fetchone()
            self._certificates[proof] = number
        return int(number)


def anchor(connection: sqlite3.Connection) -> Head:
    """Return the last record that was forgotten, which the first one that is kept follows."""
    row = connection.execute("SELECT number, hash FROM anchor").fetchone()
    if row is None:
        msg = (
            "the journal does not say where its history begins: somebody emptied its table anchor;"
            " make it anew from the outbox: dropsign run --rebuild-journal"
        )
        raise JournalError(msg)
    return Head(*row)


def head(connection: sqlite3.Connection) -> Head:
    """Return the last record's number and hash."""
    kept = anchor(connection)
    query = "SELECT id, hash FROM signatures WHERE id > ? ORDER BY id DESC LIMIT 1"
    row = connection.execute(query, (kept.number,)).fetchone()
    return Head(*row) if row else kept


def prune(connection: sqlite3.Connection, after: int, before: float) -> int | None:
    """Forget a page of records made before a time.

    The chain is cut off at its old end only, and its anchor moved there in the same transaction. A signature whose
    file still lies in the outbox is kept, though no longer as a record of the chain.

    Args:
        connection: in a transaction.
        after: the number to go on after, at first 0.
        before: seconds since the epoch.

    Returns:
        The number to go on after; None at the end.
    """
    kept = anchor(connection)
    query = "SELECT id, at, hash FROM signatures WHERE id > ? ORDER BY id LIMIT ?"
    rows = connection.execute(query, (after, PAGE)).fetchall()
    old = list(takewhile(lambda row: row[0] <= kept.number or row[1] < before, rows))
    if not old:
        return None
    number, _, stored = old[-1]
    connection.execute(_PRUNE, (after, number))
    if number > kept.number:
        connection.execute("UPDATE anchor SET number = ?, hash = ?", (number, stored))
    return int(number) if len(old) == PAGE else None


class Reader:
    """Reads the history, beside a running daemon or without one."""

    def __init__(self, path: Path) -> None:
        """Open a journal.

        Raises:
            JournalError: there is none, or an older daemon made it.
        """
        try:
            path.stat()
        except FileNotFoundError:
            msg = f"journal.path: there is no {path}; the daemon makes it when it first runs"
            raise JournalError(msg) from None
        except OSError as error:
            msg = f"journal.path: {path} cannot be read: {error.strerror}; ask as the daemon's user, or as root"
            raise JournalError(msg) from None
        self._connection = schema.connect(path, read_only=True)

    def close(self) -> None:
        """Close it."""
        self._connection.close()

    def anchor(self) -> Head:
        """Return the last record that was forgotten, which the first one that is kept follows.

        Raises:
            JournalError: it cannot be read.
        """
        with _readable():
            return anchor(self._connection)

    def links(self) -> Iterator[Link]:
        """Yield the whole chain, oldest first, a page at a time; what is pruned meanwhile is passed over.

        Raises:
            JournalError: it cannot be read.
        """
        before = Head(-1, b"")
        while True:
            with _readable():
                self._connection.execute("BEGIN")  # one state of the journal for each page
                before = max(before, anchor(self._connection))
                rows = self._connection.execute(_READ, (before.number, PAGE)).fetchall()
                self._connection.execute("COMMIT")
            for number, at, directory, name, *values, stored in rows:
                path = directory + b"/" + name if directory else name
                yield Link(Record(number, at, path, *values), stored, before)
                before = Head(number, stored)
            if len(rows) < PAGE:
                return


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        msg = f"the journal cannot be read: {error}"
        raise JournalError(msg) from None
