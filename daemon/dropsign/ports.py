"""The interfaces that have more than one implementation, or that keep one door from knowing another."""

import ssl
from collections.abc import Sequence
from typing import Protocol

from dropsign.esauth import Application
from dropsign.model import Drop


class Identity(Protocol):
    """What proves to the service who we are, and tells whom we trust."""

    @property
    def context(self) -> ssl.SSLContext:
        """For the session of mutual TLS."""

    @property
    def application(self) -> Application:
        """Who asks."""

    @property
    def serial(self) -> str:
        """The number of our certificate, in hexadecimal."""

    def require(self, now: float) -> None:
        """Raise a SigningError if it does not hold at a time (seconds since the epoch)."""


class Backlog(Protocol):
    """Where drops wait that have no room in memory."""

    async def waiting(self, after: int, limit: int) -> Sequence[Drop]:
        """Return queued drops with a ticket above `after`, lowest first."""
        ...
