"""The one table of a drop's states and the moves between them; whatever is not in it is illegal.

None      nobody knows the path, or it is forgotten
queued    settled, waits for its signature (in memory or, beyond that, in the journal alone)
deferred  rests until a time: it cannot be read just now, or an attempt was charged
signed    FILE.sign lies beside it and matches
failed    tried and given up until it changes or someone asks
refused   can't be signed for what it is
"""

from typing import Final

from dropsign.errors import JournalError
from dropsign.model import State

MOVES: Final[dict[State | None, frozenset[State | None]]] = {
    None: frozenset({State.QUEUED, State.SIGNED, State.REFUSED}),
    State.QUEUED: frozenset({State.QUEUED, State.DEFERRED, State.SIGNED, State.FAILED, State.REFUSED, None}),
    State.DEFERRED: frozenset({State.QUEUED, State.DEFERRED, State.SIGNED, State.REFUSED, None}),
    State.SIGNED: frozenset({State.QUEUED, State.SIGNED, State.REFUSED, None}),
    State.FAILED: frozenset({State.QUEUED, State.SIGNED, State.REFUSED, None}),
    State.REFUSED: frozenset({State.QUEUED, State.SIGNED, State.REFUSED, None}),
}
"""From -> to. `failed` and `refused` lead to `signed` when the file changed and a valid FILE.sign is adopted."""


class IllegalMoveError(JournalError):
    """A drop was to make a move that the table of states does not have: a defect of the program."""


def check(old: State | None, new: State | None) -> None:
    """Raise unless the table has the move.

    Raises:
        IllegalMoveError: it has not.
    """
    if new not in MOVES[old]:
        msg = f"a drop cannot go from {old or 'unknown'} to {new or 'unknown'}"
        raise IllegalMoveError(msg)
