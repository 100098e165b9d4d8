"""A log line as people want to see it: JSON -> columns, and which lines they want to see."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any, Final, NamedTuple

from dropsign.printable import printable

LEVELS: Final = ("debug", "info", "warning", "error", "critical")

_PRIORITIES: Final = {"7": "debug", "6": "info", "5": "info", "4": "warning", "3": "error"}
_LEVEL_STYLES: Final = {"debug": "dim", "info": "green", "warning": "yellow", "error": "red", "critical": "bold red"}
_COLOURS: Final = re.compile(r"\x1b\[[0-9;]*m")
_COLUMNS: Final = frozenset({"timestamp", "level", "event", "path", "exception"})
"""Keys with a place of their own."""
_ALONE: Final = _COLUMNS - {"path"}
_EVENT_WIDTH: Final = 19


class Piece(NamedTuple):
    """Part of a line, safe for a terminal; `style` is one of rich's."""

    text: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which lines are wanted.

    Attributes:
        paths: patterns as in a shell; one of them must match the path or its last name. Empty: any.
        events: the same for the event.
        level: the lowest.
    """

    paths: Sequence[str] = ()
    events: Sequence[str] = ()
    level: str = "debug"

    def accepts(self, record: Mapping[str, Any] | None) -> bool:
        """Tell whether a line is wanted; one that is no record only where every line is."""
        if record is None:
            return self == Wanted()
        level = str(record.get("level"))
        if level in LEVELS and LEVELS.index(level) < LEVELS.index(self.level):
            return False
        path = str(record.get("path", ""))
        return _matches(self.events, str(record.get("event"))) and _matches(self.paths, path, path.rpartition("/")[2])


def parse(line: bytes) -> dict[str, Any] | None:
    """Return the record in a line, or in a line of `journalctl -o json`; None if it holds none."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    if "__REALTIME_TIMESTAMP" in value:
        return _of_journal(value)
    return value if "event" in value else None


def columns(record: Mapping[str, Any]) -> list[Piece]:
    """Return a record's columns: time, level, event, path, and the rest as key=value."""
    level, event = str(record.get("level", "")), str(record["event"])
    pieces = [
        Piece(printable(str(record.get("timestamp", ""))[:23].replace("T", " ")) + "  ", "dim"),
        Piece(f"{printable(level):<8} ", _LEVEL_STYLES.get(level, "")),
        Piece(printable(event), "bold"),
    ]
    if record.keys() - _ALONE:
        pieces.append(Piece(" " * (_EVENT_WIDTH - len(event))))
    if "path" in record:
        pieces.append(Piece("  " + printable(str(record["path"])), "cyan"))
    for key, value in record.items():
        if key not in _COLUMNS:
            text = value if isinstance(value, str) else json.dumps(value)
            pieces += [Piece(f"  {printable(key)}=", "dim"), Piece(printable(text))]
    for line in str(record.get("exception", "")).splitlines():
        pieces.append(Piece("\n    " + printable(line), "red"))
    return pieces


def plain(line: bytes) -> str:
    """Return a line that is no record as it is, without colours and whatever else would act on a terminal."""
    return printable(_COLOURS.sub("", line.decode("utf-8", "surrogateescape")).rstrip("\r\n").expandtabs())


def _matches(patterns: Sequence[str], *texts: str) -> bool:
    return not patterns or any(fnmatchcase(text, pattern) for text in texts for pattern in patterns)


def _of_journal(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the record that is an entry's message; what others say of the service becomes one as well."""
    message = entry.get("MESSAGE") or ""
    if isinstance(message, list):  # bytes that are no text for the journal
        message = bytes(message).decode("utf-8", "surrogateescape")
    record = parse(str(message).encode("utf-8", "surrogateescape"))
    if record is not None:
        return record
    try:
        at = datetime.fromtimestamp(int(entry["__REALTIME_TIMESTAMP"]) / 1e6, UTC).isoformat(timespec="microseconds")
    except (ValueError, OverflowError, TypeError):
        at = ""
    who = str(entry.get("SYSLOG_IDENTIFIER", "?"))
    level = _PRIORITIES.get(str(entry.get("PRIORITY", "6")), "critical")
    return {"timestamp": at, "level": level, "event": f"{who}: {message}"}
