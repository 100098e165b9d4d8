"""One thread for one database: operations in order, and the writes of many callers in one commit.

Writes are committed within `COMMIT_SECONDS`. A commit that fails for want of space is tried again until it succeeds,
with everything behind it waiting.
"""

import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from dropsign.errors import JournalError
from dropsign.failpoints import reach

T = TypeVar("T")

COMMIT_SECONDS: Final = 0.02
RETRY_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class _Operation:
    """What to do, whether it writes, and who waits for it; nothing to do means the end."""

    work: Callable[[sqlite3.Connection], Any] | None
    writes: bool
    future: "Future[Any] | None" = None


class CommitThread:
    """Carries out operations on a connection that nobody else uses."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        on_trouble: Callable[[str | None], None],
        on_defect: Callable[[Exception], None],
        on_rollback: Callable[[], None],
    ) -> None:
        """Start the thread.

        Args:
            connection: in autocommit mode; closed at the end.
            on_trouble: told, from the thread, why committing fails, and None once it works again.
            on_defect: told, from there too, of a write that the tables refuse.
            on_rollback: told, from there too, that writes were undone and will be done again.
        """
        self._connection = connection
        self._on_trouble = on_trouble
        self._on_defect = on_defect
        self._on_rollback = on_rollback
        self._operations: queue.SimpleQueue[_Operation] = queue.SimpleQueue()
        self._trouble = ""
        self._closing = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._live, name="journal", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Tell whether the thread lives."""
        return self._thread.is_alive()

    def ask(self, work: Callable[[sqlite3.Connection], T]) -> "Future[T]":
        """Have something read, after all writes before."""
        return self._submit(work, writes=False)

    def write(self, work: Callable[[sqlite3.Connection], Any]) -> None:
        """Have something written; it returns at once, and nobody is told when it is done."""
        self._operations.put(_Operation(work, writes=True))  # a future would cost more than the write

    def flush(self, work: Callable[[sqlite3.Connection], Any] = lambda _: None) -> "Future[None]":
        """Have something written; return what is done when that, and all writes before, are committed."""
        return self._submit(work, writes=True)

    def close(self) -> None:
        """Carry out what was asked for, commit, and end; blocks. A commit that fails now is given up."""
        if self._thread.is_alive():
            self._closing.set()
            self._operations.put(_Operation(None, writes=False))
            self._thread.join()

    def _submit(self, work: Callable[[sqlite3.Connection], T], *, writes: bool) -> "Future[T]":
        future: Future[T] = Future()
        self._operations.put(_Operation(work, writes, future))
        if self._ended:
            self._abandon()
        return future

    def _live(self) -> None:
        try:
            self._run()
        finally:
            self._ended = True
            self._connection.close()
            self._abandon()

    def _abandon(self) -> None:
        """Tell who asks a closed journal so, instead of letting them wait for ever."""
        with suppress(queue.Empty):
            while True:
                _give_up(self._operations.get_nowait())

    def _run(self) -> None:
        """Carry out operations; those that write wait in one transaction until it is due."""
        pending: list[_Operation] = []
        due = 0.0
        while True:
            try:
                operation = self._operations.get(timeout=max(0.0, due - time.monotonic()) if pending else None)
            except queue.Empty:
                self._commit(pending)
                continue
            if operation.work is None:
                self._commit(pending)
                return
            future = operation.future
            if future is not None and not future.set_running_or_notify_cancel():
                continue  # who asked was cancelled
            if operation.writes:
                if not pending:
                    due = time.monotonic() + COMMIT_SECONDS
                pending.append(operation)
                if not self._try([operation], begins=len(pending) == 1):
                    self._commit(pending, again=True)
            elif future is not None:
                _fulfil(future, operation.work, self._connection)
            if pending and time.monotonic() >= due:
                self._commit(pending)

    def _try(self, operations: Sequence[_Operation], *, begins: bool) -> bool:
        """Carry out writes inside the transaction; return whether they worked."""
        try:
            if begins:
                self._connection.execute("BEGIN IMMEDIATE")
            for operation in operations:
                self._carry_out(operation)
        except sqlite3.Error as error:
            self._trouble = str(error)
            return False
        return True

    def _carry_out(self, operation: _Operation) -> None:
        """Carry out one write; one that is refused by the tables is left out, and costs no other its place."""
        assert operation.work is not None, "the end is no write"
        try:
            operation.work(self._connection)
        except sqlite3.IntegrityError as error:
            self._on_defect(error)
        except sqlite3.Error:
            raise
        except Exception as error:  # noqa: BLE001 - a value that SQLite cannot hold must not cost others the thread
            self._on_defect(error)

    def _commit(self, pending: list[_Operation], *, again: bool = False) -> None:
        """Make the pending writes durable, however long that takes; everything behind them waits.

        Args:
            pending: they; empty afterwards.
            again: they were undone already.
        """
        told = False
        while pending:
            if not again and self._committed():
                break
            if self._connection.in_transaction:
                self._connection.rollback()
            if not told:
                self._on_trouble(self._trouble)
                told = True
            elif self._closing.wait(RETRY_SECONDS):
                self._lose(pending)
                return
            self._on_rollback()
            again = not self._try(pending, begins=True)
        if told:
            self._on_trouble(None)
        for operation in pending:
            if operation.future is not None:
                operation.future.set_result(None)
        pending.clear()

    def _lose(self, pending: list[_Operation]) -> None:
        """Give up writes at the end; what is lost is made again at the next start, and no flush says otherwise."""
        for operation in pending:
            if operation.future is not None:
                operation.future.set_exception(JournalError(f"the journal could not be written: {self._trouble}"))
        pending.clear()

    def _committed(self) -> bool:
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._trouble = str(error)
            return False
        reach("committed")
        return True


def _fulfil(future: "Future[Any]", work: Callable[[sqlite3.Connection], Any], connection: sqlite3.Connection) -> None:
    try:
        result = work(connection)
    except sqlite3.Error as error:
        future.set_exception(JournalError(f"the journal cannot be read: {error}"))
    except Exception as error:  # noqa: BLE001 - it is the asker's, and must not cost others the thread
        future.set_exception(error)
    else:
        future.set_result(result)


def _give_up(operation: _Operation) -> None:
    if operation.future is not None and operation.future.set_running_or_notify_cancel():
        operation.future.set_exception(JournalError("the journal is closed"))
