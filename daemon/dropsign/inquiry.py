"""Asks what is known: the running daemon, or its journal where none runs."""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from dropsign import __version__, rows, schema
from dropsign.config import Configuration
from dropsign.control import Control
from dropsign.errors import OutboxError, UnreachableError
from dropsign.model import Entry, State
from dropsign.status import describe, from_journal
from dropsign.units import unit_of

_PAGE: Final = 500
"""Paths asked about at a time."""


class Inquiry:
    """Answers about one outbox; they have the same form, whoever gives them."""

    def __init__(self, configuration: Configuration) -> None:
        self._journal = configuration.journal.path
        self._outbox = configuration.outbox.path
        self._control = Control(configuration.http.socket) if configuration.http.socket is not None else None
        self._unit = unit_of(configuration.http.socket)
        self.root = os.path.realpath(os.fsencode(self._outbox))

    def relative(self, path: Path) -> bytes:
        """Return a path as the journal knows it; b"" for the outbox itself.

        Raises:
            OutboxError: it lies elsewhere.
        """
        # The last name may be a link; that is what is asked about, and not what it leads to.
        named = path.name not in {"", ".."}
        absolute = os.fsencode(Path(os.path.realpath(path.parent)) / path.name if named else path.resolve())
        if os.path.realpath(absolute) == self.root:
            return b""
        prefix = self.root.rstrip(b"/") + b"/"
        if not absolute.startswith(prefix):
            msg = f"{path}: lies outside of the outbox {self._outbox}; give a file in it, or --config for another"
            raise OutboxError(msg)
        return absolute[len(prefix) :]

    def status(self) -> dict[str, Any]:
        """Return how things are; its `running` tells whose answer it is.

        Raises:
            UnreachableError: no daemon answers, and there is no journal; or the daemon is there, and
                refuses this user or keeps silent.
            JournalError: no daemon answers, and the journal cannot be read.
        """
        if (running := self.running_status()) is not None:
            return running
        return from_journal(self._journal, __version__, str(self._outbox), self._unit, time.time()).as_dict()

    def running_status(self) -> dict[str, Any] | None:
        """Return the running daemon's status; None where none runs, but its journal can tell something.

        Raises:
            UnreachableError: as for `status`.
        """
        try:
            return self._control.status() if self._control is not None else None
        except UnreachableError as error:
            if error.is_denial or not os.path.exists(self._journal):
                raise
        return None

    def lookup(self, paths: Sequence[bytes]) -> Iterator[dict[str, Any]]:
        """Yield what is known of each path, relative to the outbox.

        Raises:
            UnreachableError: as for `status`.
            JournalError: as for `status`.
        """
        pages = [paths[start : start + _PAGE] for start in range(0, len(paths), _PAGE)]
        if self._control is not None and self.running_status() is not None:
            for page in pages:
                yield from self._control.lookup(page)
            return
        with schema.reading(self._journal) as connection:
            for page in pages:
                known = rows.lookup(connection, page)
                yield from (_record(path, known.get(path)) for path in page)

    def files(self, state: str, limit: int) -> list[dict[str, Any]]:
        """Return files in one state: failed and refused ones the last first.

        Raises:
            UnreachableError: as for `status`.
            JournalError: as for `status`.
        """
        if self._control is not None and self.running_status() is not None:
            return self._control.files(state, limit)
        with schema.reading(self._journal) as connection:
            return [describe(entry) for entry in rows.entries(connection, State(state), limit)]


def _record(path: bytes, known: Entry | None) -> dict[str, Any]:
    found = {"state": None} if known is None else describe(known)
    return {**found, "path": os.fsdecode(path), "settling": False}
