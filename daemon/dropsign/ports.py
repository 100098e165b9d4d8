"""The interfaces that have more than one implementation, or that keep one door from knowing another."""

from collections.abc import Sequence
from typing import Protocol

from dropsign.model import Drop


class Backlog(Protocol):
    """Where drops wait that have no room in memory."""

    async def waiting(self, after: int, limit: int) -> Sequence[Drop]:
        """Return queued drops with a ticket above `after`, lowest first."""
        ...
