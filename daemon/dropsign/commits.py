"""One thread for one database: operations in order, and the writes of many callers in one commit.

Writes are committed within `COMMIT_SECONDS`. What fails for a fault of this machine (no space, a lock, damage) is
tried again until it succeeds, with everything behind it waiting but those who only want to know how things are.

What is on disk if the process dies: what was committed, and nothing of what waits; it is found again by a scan, or
signed a second time at worst.
"""

import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from dropsign.errors import JournalError
from dropsign.failpoints import reach
from dropsign.threads import name_thread
from dropsign.trouble import Trouble, explain, is_of_the_database

T = TypeVar("T")

COMMIT_SECONDS: Final = 0.02
RETRY_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class _Operation:
    """What to do, whether it writes, who waits, what it is, and whether in trouble too; nothing to do means the end."""

    work: Callable[[sqlite3.Connection], Any] | None
    writes: bool
    future: "Future[Any] | None" = None
    name: str = ""
    at_once: bool = False


class CommitThread:
    """Carries out operations on a connection that nobody else uses."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        on_trouble: Callable[[Trouble | None], object],
        on_defect: Callable[[Exception], None],
        on_rollback: Callable[[], None],
    ) -> None:
        """Start the thread.

        Args:
            connection: in autocommit mode; closed at the end.
            on_trouble: told, from the thread, why the database cannot be used, and None once it can again.
            on_defect: told, from there too, of a write that the tables refuse.
            on_rollback: told, from there too, that writes were undone and will be done again.
        """
        self._connection = connection
        self._on_trouble = on_trouble
        self._on_defect = on_defect
        self._on_rollback = on_rollback
        self._operations: queue.SimpleQueue[_Operation] = queue.SimpleQueue()
        self._postponed: deque[_Operation] = deque()
        self._error = sqlite3.Error()
        self._in_trouble = False
        self._closing = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._live, name="journal", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Tell whether the thread lives."""
        return self._thread.is_alive()

    def ask(self, work: Callable[[sqlite3.Connection], T], *, at_once: bool = False) -> "Future[T]":
        """Have something read, after all writes before.

        Args:
            work: reads it.
            at_once: in trouble, read what is committed and fail if that cannot be done, instead of waiting.
        """
        return self._submit(work, writes=False, at_once=at_once)

    def write(self, work: Callable[[sqlite3.Connection], Any], name: str) -> None:
        """Have something written; it returns at once, and nobody is told when it is done.

        Args:
            work: what to do.
            name: what that is, one of `failpoints.WRITES`.
        """
        self._operations.put(_Operation(work, writes=True, name=name))  # a future would cost more than the write

    def flush(self, work: Callable[[sqlite3.Connection], Any] = lambda _: None) -> "Future[None]":
        """Have something written; return what is done when that, and all writes before, are committed."""
        return self._submit(work, writes=True)

    def close(self) -> None:
        """Carry out what was asked for, commit, and end; blocks. A commit that fails now is given up."""
        if self._thread.is_alive():
            self._closing.set()
            self._operations.put(_Operation(None, writes=False))
            self._thread.join()

    def _submit(self, work: Callable[[sqlite3.Connection], T], *, writes: bool, at_once: bool = False) -> "Future[T]":
        future: Future[T] = Future()
        self._operations.put(_Operation(work, writes, future, at_once=at_once))
        if self._ended:
            self._abandon()
        return future

    def _live(self) -> None:
        name_thread("journal")
        try:
            self._run()
        finally:
            self._ended = True
            self._connection.close()
            self._abandon()

    def _abandon(self) -> None:
        """Tell who asks a closed journal so, instead of letting them wait for ever."""
        while self._postponed:
            _give_up(self._postponed.popleft())
        with suppress(queue.Empty):
            while True:
                _give_up(self._operations.get_nowait())

    def _run(self) -> None:
        """Carry out operations; those that write wait in one transaction until it is due."""
        pending: list[_Operation] = []
        due = 0.0
        while True:
            try:
                operation = self._next(max(0.0, due - time.monotonic()) if pending else None)
            except queue.Empty:
                self._commit(pending)
                continue
            if self._is_given_up:
                _give_up(operation)
                return
            if operation.work is None:
                self._commit(pending)
                return
            if operation.future is not None and not operation.future.set_running_or_notify_cancel():
                continue  # who asked was cancelled
            if operation.writes:
                if not pending:
                    due = time.monotonic() + COMMIT_SECONDS
                pending.append(operation)
                if not self._try([operation], begins=len(pending) == 1):
                    self._commit(pending, again=True)
            else:
                self._answer(operation, pending)
            if pending and time.monotonic() >= due:
                self._commit(pending)

    def _next(self, timeout: float | None) -> _Operation:
        """Return the next operation in order.

        Raises:
            queue.Empty: none came within the timeout (seconds).
        """
        return self._postponed.popleft() if self._postponed else self._operations.get(timeout=timeout)

    @property
    def _is_given_up(self) -> bool:
        return self._in_trouble and self._closing.is_set()

    def _answer(self, operation: _Operation, pending: list[_Operation]) -> None:
        """Have something read; if the database fails, commit what is pending and try until it can be read."""
        while not self._is_answered(operation):
            self._commit(pending)
            if not self._rest():
                assert operation.future is not None, "who reads waits"
                operation.future.set_exception(self._failure())
                return
        if not pending:
            self._end_trouble()

    def _is_answered(self, operation: _Operation) -> bool:
        """Read something; return false where that is to be tried again."""
        assert operation.work is not None, "the end is nothing to read"
        assert operation.future is not None, "who reads waits"
        try:
            result = operation.work(self._connection)
        except sqlite3.Error as error:
            if operation.at_once or not is_of_the_database(error):
                operation.future.set_exception(JournalError(f"the journal cannot be read: {error}"))
                return True
            self._error = error
            return False
        except Exception as error:  # noqa: BLE001 - it is the asker's, and must not cost others the thread
            operation.future.set_exception(error)
        else:
            operation.future.set_result(result)
        return True

    def _rest(self) -> bool:
        """Say that there is trouble, and wait until the next try; return false when the end is asked for instead.

        Who wants to know something at once is answered meanwhile, from what is committed.
        """
        if not self._in_trouble:
            self._in_trouble = True
            self._on_trouble(explain(self._error))
        end = time.monotonic() + RETRY_SECONDS
        while not self._closing.is_set() and (left := end - time.monotonic()) > 0:
            with suppress(queue.Empty):
                operation = self._operations.get(timeout=left)
                if not operation.at_once:
                    self._postponed.append(operation)
                elif operation.future is not None and operation.future.set_running_or_notify_cancel():
                    self._is_answered(operation)
        return not self._closing.is_set()

    def _end_trouble(self) -> None:
        if self._in_trouble:
            self._in_trouble = False
            self._on_trouble(None)

    def _try(self, operations: Sequence[_Operation], *, begins: bool) -> bool:
        """Carry out writes inside the transaction; return whether they worked."""
        try:
            if begins:
                self._connection.execute("BEGIN IMMEDIATE")
            for operation in operations:
                self._carry_out(operation)
        except sqlite3.Error as error:
            self._error = error
            return False
        return True

    def _carry_out(self, operation: _Operation) -> None:
        """Carry out one write; one that is refused by the tables is left out, and costs no other its place."""
        assert operation.work is not None, "the end is no write"
        try:
            operation.work(self._connection)
            reach(operation.name + "_written")
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
            again: they failed already.
        """
        if not pending:
            return
        while again or not self._committed():
            with suppress(sqlite3.Error):
                self._connection.rollback()
            self._on_rollback()
            if not self._rest():
                self._lose(pending)
                return
            again = not self._try(pending, begins=True)
        for operation in pending:
            reach(operation.name + "_committed")
            if operation.future is not None:
                operation.future.set_result(None)
        pending.clear()
        self._end_trouble()

    def _lose(self, pending: list[_Operation]) -> None:
        """Give up writes at the end; what is lost is made again at the next start, and no flush says otherwise."""
        for operation in pending:
            if operation.future is not None:
                operation.future.set_exception(self._failure())
        pending.clear()

    def _failure(self) -> JournalError:
        return JournalError(f"the journal could not be used: {self._error}")

    def _committed(self) -> bool:
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._error = error
            return False
        return True


def _give_up(operation: _Operation) -> None:
    if operation.future is not None and operation.future.set_running_or_notify_cancel():
        operation.future.set_exception(JournalError("the journal is closed"))
