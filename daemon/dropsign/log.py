"""Structured logs: one JSON object a line, or coloured columns on a terminal (contract, section 6)."""

import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TextIO, cast

import structlog

from dropsign.errors import ConfigurationError
from dropsign.journald import JournalSocket, is_journal

_LEVELS: Final[Mapping[str, int]] = logging.getLevelNamesMapping()

_PRIORITIES: Final = {"debug": b"7", "info": b"6", "warning": b"4", "error": b"3", "critical": b"2"}
"""The journal's, as in syslog(3)."""

_PLAIN: Final = frozenset({str, int, float})

_REOPEN_SECONDS: Final = 1.0


class _Forgiving:
    """A stream whose failures cost log lines, and nothing else: a full disk must not stop the signing."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write if that can be done."""
        with suppress(OSError, ValueError):
            return self._stream.write(text)
        return 0

    def flush(self) -> None:
        """Flush if that can be done."""
        with suppress(OSError, ValueError):
            self._stream.flush()


class _LogFile:
    """A file that is opened anew, within a second, when a rotation has put another one in its place."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream = self._open()
        self._due = 0.0

    def _open(self) -> TextIO:
        return self._path.open("a", encoding="ascii", errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write a line."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + _REOPEN_SECONDS
            with suppress(OSError):  # where no new one can be made, the old one is still good
                self._replace_if_rotated()
        return self._stream.write(text)

    def flush(self) -> None:
        """Hand it to the kernel."""
        self._stream.flush()

    def isatty(self) -> bool:
        """Tell whether it is a terminal."""
        return self._stream.isatty()

    def _replace_if_rotated(self) -> None:
        with suppress(FileNotFoundError):
            if os.path.samestat(self._path.stat(), os.fstat(self._stream.fileno())):
                return
        fresh = self._open()
        self._stream.close()
        self._stream = fresh


Log = structlog.typing.FilteringBoundLogger


def path_text(path: bytes) -> str:
    """Return a path for a log line: bytes that are no UTF-8 become surrogates, which JSON escapes."""
    return os.fsdecode(path)


def configure(style: str, level: str, file: Path | None) -> Log:
    """Set up logging and return the logger.

    Args:
        style: `json`, `console`, or `auto`: columns on a terminal, else JSON.
        level: the lowest that is written.
        file: where to; standard output by default.

    Raises:
        ConfigurationError: the file cannot be opened.
    """
    stream: TextIO | _LogFile = sys.stdout
    if file is not None:
        try:
            stream = _LogFile(file)
        except OSError as error:
            msg = f"log.file: {file} cannot be written: {error.strerror}"
            raise ConfigurationError(msg) from None
    render: structlog.typing.Processor = _json
    if style == "console" or (style == "auto" and stream.isatty()):
        render = _columns()
    elif file is None and is_journal(os.environ, sys.stdout.fileno()):
        render = _to_journal(JournalSocket())
    structlog.configure(
        processors=[structlog.processors.add_log_level, _stamp, render],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _Forgiving(cast("TextIO", stream)))),
        cache_logger_on_first_use=True,
    )
    logger: Log = structlog.get_logger()
    return logger


def _stamp(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Put the time first: UTC, RFC 3339, with microseconds."""
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return {"timestamp": now, "level": event.pop("level"), "event": event.pop("event"), **event}


def _json(logger: object, name: str, event: MutableMapping[str, Any]) -> str:
    """Render as ASCII, so that no file name can break the line, the JSON or a terminal."""
    if "exc_info" in event:
        event = structlog.processors.format_exc_info(logger, name, event)
    return json.dumps(event, separators=(",", ":"), default=str)


def _to_journal(journal: JournalSocket) -> structlog.typing.Processor:
    """Send each line with its fields; what the journal's socket does not take goes to standard output, as text."""

    def send(logger: object, name: str, event: MutableMapping[str, Any]) -> str:
        line = _json(logger, name, event)
        if journal.send(journal_fields(line, event)):
            raise structlog.DropEvent
        return line

    return send


def journal_fields(line: str, event: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Yield the fields of a journal entry: the line as message, and each of its keys with DROPSIGN_ before it."""
    yield "MESSAGE", line.encode("ascii")
    yield "PRIORITY", _PRIORITIES.get(event["level"], b"6")
    yield "SYSLOG_IDENTIFIER", b"dropsign"
    for key, value in event.items():
        if key == "path":
            yield "DROPSIGN_PATH", os.fsencode(value)
        elif key not in {"timestamp", "level"}:
            text = str(value) if type(value) in _PLAIN else json.dumps(value, default=str)
            yield f"DROPSIGN_{key.upper()}", text.encode("utf-8", "backslashreplace")


def _columns() -> structlog.typing.Processor:
    # Others than the plain ones show local variables, and with them contents and secrets.
    plain = structlog.dev.plain_traceback
    render = structlog.dev.ConsoleRenderer(colors=True, sort_keys=False, exception_formatter=plain)

    def escaped(logger: object, name: str, event: MutableMapping[str, Any]) -> str:
        for key, value in event.items():
            if isinstance(value, str) and not value.isprintable():
                event[key] = json.dumps(value)[1:-1]
        return str(render(logger, name, event))

    return escaped
