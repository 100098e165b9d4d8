"""What an error of SQLite's means for the journal: the gate's reason, and the remedy."""

import sqlite3
from dataclasses import dataclass
from typing import Final

_REBUILD: Final = "make it anew from the outbox: dropsign run --rebuild-journal"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why the journal cannot be used: the gate's reason, and what it is with its remedy."""

    reason: str
    text: str


_KINDS: Final[dict[int, tuple[str, str]]] = {
    sqlite3.SQLITE_FULL: ("disk", "make room there"),
    sqlite3.SQLITE_IOERR: ("disk", "check the disk, and the quota"),
    sqlite3.SQLITE_READONLY: ("disk", "it must be writable, with its directory"),
    sqlite3.SQLITE_NOMEM: ("resources", "there is not enough memory"),
    sqlite3.SQLITE_CANTOPEN: ("journal", "check that its directory exists and is writable"),
    sqlite3.SQLITE_BUSY: ("journal", "another process has it locked; fuser names it, end it"),
    sqlite3.SQLITE_LOCKED: ("journal", "another process has it locked; fuser names it, end it"),
}
"""For SQLite's primary result codes, the gate's reason and a remedy; all others mean that it is damaged."""


def explain(error: sqlite3.Error) -> Trouble:
    """Return what an error of the journal's means."""
    reason, remedy = _KINDS.get(_code(error), ("journal", _REBUILD))
    return Trouble(reason, f"{error}; {remedy}")


def is_of_the_database(error: sqlite3.Error) -> bool:
    """Tell whether an error is the database's, not that of who asked for something impossible."""
    return _code(error) in _KINDS or _code(error) in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_MISUSE) & 0xFF
