"""Structured logs: one JSON object a line, or coloured columns on a terminal (contract, section 6)."""

import json
import logging
import os
import sys
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TextIO, cast

import structlog

from dropsign.errors import ConfigurationError

_LEVELS: Final[Mapping[str, int]] = logging.getLevelNamesMapping()


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
    stream: TextIO = sys.stdout
    if file is not None:
        try:
            stream = file.open("a", encoding="ascii", errors="backslashreplace")
        except OSError as error:
            msg = f"log.file: {file} cannot be written: {error.strerror}"
            raise ConfigurationError(msg) from None
    columns = style == "console" or (style == "auto" and stream.isatty())
    render = _columns() if columns else _json
    structlog.configure(
        processors=[structlog.processors.add_log_level, _stamp, render],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _Forgiving(stream))),
        cache_logger_on_first_use=True,
    )
    logger: Log = structlog.get_logger()
    return logger


def _stamp(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Put the time first: UTC, RFC 3339, with microseconds."""
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return {"timestamp": now, "level": event.pop("level"), "event": event.pop("event"), **event}


def _json(_: object, __: str, event: MutableMapping[str, Any]) -> str:
    """Render as ASCII, so that no file name can break the line, the JSON or a terminal."""
    return json.dumps(event, separators=(",", ":"), default=str)


def _columns() -> structlog.typing.Processor:
    render = structlog.dev.ConsoleRenderer(colors=True, sort_keys=False)

    def escaped(logger: object, name: str, event: MutableMapping[str, Any]) -> str:
        for key, value in event.items():
            if isinstance(value, str) and not value.isprintable():
                event[key] = json.dumps(value)[1:-1]
        return str(render(logger, name, event))

    return escaped
