"""states.py: the table of moves, and that the database holds to the very same table."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from dropsign import schema
from dropsign.model import State
from dropsign.states import MOVES, IllegalMoveError, check

ANY: list[State | None] = [None, *State]
PAIRS = [(old, new) for old in ANY for new in ANY if old or new]


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with closing(schema.connect(None)) as made:
        made.execute("INSERT INTO directories (id, path) VALUES (1, x'')")
        yield made


def way(state: State | None) -> list[State | None]:
    """The shortest way from nothing to a state by legal moves."""
    ways: list[list[State | None]] = [[None]]
    for known in ways:
        if known[-1] is state:
            return known[1:]
        ways += [[*known, new] for new in State if new in MOVES[known[-1]] and new not in known]
    raise AssertionError(f"no way leads to {state}")


def move(connection: sqlite3.Connection, new: State | None) -> None:
    """Make a move just as the journal does."""
    if new is None:
        connection.execute("DELETE FROM drops WHERE directory = 1 AND name = x'61'")
    else:
        connection.execute(schema.UPSERT, (1, b"a", new, 1, 2, 3, 4, 5, 6.0, 1, 0, 0.0, None, None, None, None, None))


def state_of(connection: sqlite3.Connection) -> State | None:
    row = connection.execute("SELECT state FROM drops").fetchone()
    return State(row[0]) if row else None


def by_table(old: State | None, new: State | None) -> bool:
    try:
        check(old, new)
    except IllegalMoveError:
        return False
    return True


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_database_and_table_agree_on_every_move(
    connection: sqlite3.Connection, old: State | None, new: State | None
) -> None:
    """Each move is accepted by both or refused by both; a refused one leaves the row as it was."""
    for step in way(old):
        move(connection, step)
    assert state_of(connection) is old
    legal = by_table(old, new)
    if legal:
        move(connection, new)
    else:
        with pytest.raises(sqlite3.IntegrityError, match="illegal"):
            move(connection, new)
    assert state_of(connection) is (new if legal else old)


def test_unknown_state_is_refused(connection: sqlite3.Connection) -> None:
    """No state but those of the table gets into the database."""
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(
            schema.UPSERT, (1, b"a", "lost", 1, 2, 3, 4, 5, 6.0, 1, 0, 0.0, None, None, None, None, None)
        )


def test_every_state_can_be_reached_left_and_forgotten() -> None:
    """No state is a dead end: from each, a changed file can be queued again, and a path that is gone forgotten."""
    for state in State:
        assert way(state)
        assert {State.QUEUED, None} <= MOVES[state]


def test_what_must_never_happen() -> None:
    """A file is never failed or deferred unasked, and a signed one never fails without being queued anew."""
    for old, new in [
        (None, State.FAILED),
        (None, State.DEFERRED),
        (State.SIGNED, State.FAILED),
        (State.SIGNED, State.DEFERRED),
        (State.REFUSED, State.FAILED),
        (State.FAILED, State.FAILED),
        (State.FAILED, State.DEFERRED),
    ]:
        with pytest.raises(IllegalMoveError, match="cannot go from"):
            check(old, new)
