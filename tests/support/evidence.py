"""What a stopped or killed daemon left behind: the journal, read beside the outbox, row by row."""

import os
import shutil
import sqlite3
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from dropsign.filters import TEMPORARY
from dropsign.model import Fingerprint


class Row(NamedTuple):
    """What the journal says of one path."""

    state: str
    fingerprint: Fingerprint
    text: bytes | None
    """Of the signature last made for the path."""


@dataclass
class Evidence:
    """A journal's content.

    Attributes:
        rows: by path relative to the outbox.
        recorded: SHA-256, in hexadecimal, of every content whose signature is in the history.
    """

    rows: dict[bytes, Row] = field(default_factory=dict)
    recorded: set[str] = field(default_factory=set)


def read(journal: Path) -> Evidence:
    """Read a journal that nobody has open, from a copy: what lies there stays as it is for the next start."""
    if not journal.exists():
        return Evidence()
    with tempfile.TemporaryDirectory() as directory:
        for suffix in ("", "-wal"):
            part = journal.with_name(journal.name + suffix)
            if part.exists():
                shutil.copy(part, Path(directory, "copy" + suffix))
        connection = sqlite3.connect(Path(directory, "copy"))
        try:
            return _read(connection)
        finally:
            connection.close()


def _read(connection: sqlite3.Connection) -> Evidence:
    (problem,) = connection.execute("PRAGMA integrity_check").fetchone()
    assert problem == "ok", problem
    if connection.execute("PRAGMA user_version").fetchone() == (0,):
        return Evidence()  # its tables were not made yet
    query = (
        "SELECT p.path, d.name, d.state, d.device, d.inode, d.size, d.mtime_ns, d.ctime_ns, s.text FROM drops d"
        " JOIN directories p ON p.id = d.directory LEFT JOIN signatures s ON s.id = d.signature"
    )
    rows = {
        os.path.join(row[0], row[1]): Row(row[2], Fingerprint(*row[3:8]), row[8]) for row in connection.execute(query)
    }
    recorded = {row[0].hex() for row in connection.execute("SELECT sha256 FROM signatures")}
    return Evidence(rows, recorded)


def disagreements(outbox: Path, evidence: Evidence, *, notes: bool = False) -> list[str]:
    """Compare a journal at rest with the disk, row by row; return each point where they differ.

    Args:
        outbox: at rest as well.
        evidence: the journal's.
        notes: FILE.sign-error is to lie beside each failed file.
    """
    names = _names(outbox)
    drops = {name for name in names if not name.endswith((b".sign", b".sign-error"))}
    found = [f"{name!r} lies about" for name in drops if TEMPORARY.match(os.path.basename(name))]
    found += [f"{name!r} is unknown" for name in drops - evidence.rows.keys()]
    found += [f"{name!r} is {row.state}, and gone" for name, row in evidence.rows.items() if name not in drops]
    for name in drops & evidence.rows.keys():
        row, sign = evidence.rows[name], name + b".sign"
        if Fingerprint.of(names[name]) != row.fingerprint:
            found.append(f"{name!r} is {row.state} in another version")
        if row.state in {"queued", "deferred"}:
            found.append(f"{name!r} is {row.state} still")
        if row.state != "signed" and sign in names:
            found.append(f"{name!r} is {row.state}, with a signature beside it")
        if row.state == "signed" and (sign not in names or _content(outbox, sign) != row.text):
            found.append(f"{name!r} is signed, and the signature beside it is missing or not the recorded one")
        if notes and (row.state == "failed") != (name + b".sign-error" in names):
            found.append(f"{name!r} is {row.state}, and its note says something else")
    return found


def broken_promises(outbox: Path, evidence: Evidence) -> list[str]:
    """Return each version that a killed daemon's journal calls signed and that lacks the recorded signature."""
    names = _names(outbox)
    return [
        f"{name!r} is signed, without the recorded signature"
        for name, row in evidence.rows.items()
        if row.state == "signed"
        and name in names
        and Fingerprint.of(names[name]) == row.fingerprint
        and (name + b".sign" not in names or _content(outbox, name + b".sign") != row.text)
    ]


def _names(outbox: Path) -> dict[bytes, os.stat_result]:
    root = os.fsencode(outbox)
    found = {}
    for directory, _, names in os.walk(root):
        for path in (os.path.join(directory, name) for name in names):
            with suppress(FileNotFoundError):  # somebody goes on dropping files
                found[os.path.relpath(path, root)] = os.lstat(path)
    return found


def _content(outbox: Path, name: bytes) -> bytes:
    with open(os.path.join(os.fsencode(outbox), name), "rb") as file:
        return file.read()
