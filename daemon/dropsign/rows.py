"""The journal's rows -> entries, for the journal and for whoever only reads it."""

import sqlite3
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

from dropsign.model import Entry, Fingerprint, Stamp, State

COLUMNS: Final = (
    "d.name, d.state, d.device, d.inode, d.size, d.mtime_ns, d.ctime_ns, s.sha256, d.signature, d.attempts,"
    " d.not_before, d.since, d.reason, d.error, s.size, s.text, s.at,"
    " c.service, c.client, d.sign_inode, d.sign_ctime_ns"
)
"""What `entry` makes an entry of, from `drops d LEFT JOIN signatures s` and the certificates."""

_CERTIFICATES: Final = "LEFT JOIN certificates c ON c.id = s.certificates"

_ORDER: Final = {
    State.QUEUED: "ORDER BY d.ticket",
    State.DEFERRED: "ORDER BY d.not_before",
    State.SIGNED: "",
    State.FAILED: "ORDER BY d.since DESC",
    State.REFUSED: "ORDER BY d.since DESC",
}
"""Who is to be done next, or what happened last, comes first; the signed may be millions, and have no index for it."""


def join(directory: bytes, name: bytes) -> bytes:
    """Return a path of its directory and its name in there."""
    return directory + b"/" + name if directory else name


def entry(directory: bytes, row: Sequence[Any]) -> Entry:
    """Return one entry.

    Args:
        directory: relative to the outbox.
        row: the values of `COLUMNS`.
    """
    values = (*row[7:-2], stamp(*row[-2:]))
    return Entry(join(directory, row[0]), State(row[1]), Fingerprint(*row[2:7]), *values)


def stamp(inode: int | None, ctime_ns: int | None) -> Stamp | None:
    """Return the stamp that a row holds, if any."""
    return None if inode is None or ctime_ns is None else Stamp(inode, ctime_ns)


def lookup(connection: sqlite3.Connection, paths: Sequence[bytes]) -> dict[bytes, Entry]:
    """Return what is known of some paths (so many at most as SQLite takes values); those unknown are left out."""
    found = {}
    for directory, group in groupby(sorted(paths), key=lambda path: path.rpartition(b"/")[0]):
        names = [path.rpartition(b"/")[2] for path in group]
        query = (
            f"SELECT {COLUMNS} FROM drops d LEFT JOIN signatures s ON s.id = d.signature {_CERTIFICATES}"  # noqa: S608
            " WHERE d.directory = (SELECT id FROM directories WHERE path = ?)"
            f" AND d.name IN ({','.join('?' * len(names))})"
        )
        for row in connection.execute(query, (directory, *names)):
            known = entry(directory, row)
            found[known.path] = known
    return found


def entries(
    connection: sqlite3.Connection, state: State, limit: int, condition: str = "", values: Sequence[object] = ()
) -> list[Entry]:
    """Return entries in one state, in the order of `_ORDER`.

    Args:
        connection: to the journal.
        state: wanted.
        limit: so many at most.
        condition: more of SQL's WHERE, from AND on.
        values: for the condition.
    """
    query = (
        f"SELECT p.path, {COLUMNS} FROM drops d JOIN directories p ON p.id = d.directory"  # noqa: S608
        f" LEFT JOIN signatures s ON s.id = d.signature {_CERTIFICATES} WHERE d.state = '{state}' {condition}"
        f" {_ORDER[state]} LIMIT ?"
    )
    return [entry(row[0], row[1:]) for row in connection.execute(query, (*values, limit))]
