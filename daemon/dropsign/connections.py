"""Bounds what clients can cost: how many connections a server has at a time, and how long each may live.

asyncio's servers know neither: a client that connects and says nothing would stay for ever.
"""

import asyncio
from collections.abc import Callable
from typing import Final

CONNECTIONS_MOST: Final = 128
LIFETIME_SECONDS: Final = 60.0


class Bound:
    """Makes the protocols of one server; where there are too many connections, the oldest ends for the newest.

    The oldest is the one that has shown the least hurry: an honest client's connection lives for milliseconds.
    """

    def __init__(
        self,
        make: Callable[[], asyncio.BaseProtocol],
        *,
        most: int = CONNECTIONS_MOST,
        seconds: float = LIFETIME_SECONDS,
    ) -> None:
        """Begin without connections.

        Args:
            make: makes the protocol that does the talking.
            most: connections at a time.
            seconds: how long each may live.
        """
        self._make = make
        self._most = most
        self._seconds = seconds
        self._connections: dict[_Connection, None] = {}  # in the order in which they came

    def __call__(self) -> asyncio.Protocol:
        """Return the protocol of one more connection."""
        protocol = self._make()
        assert isinstance(protocol, asyncio.Protocol), "servers of streams have protocols of streams"
        return _Connection(protocol, self)

    def made(self, connection: "_Connection") -> None:
        """Take a connection in."""
        if len(self._connections) >= self._most:
            oldest = next(iter(self._connections))
            self.lost(oldest)
            oldest.abort()
        self._connections[connection] = None
        connection.live_for(self._seconds)

    def lost(self, connection: "_Connection") -> None:
        """Take notice of a connection's end."""
        self._connections.pop(connection, None)


class _Connection(asyncio.Protocol):
    """Passes everything on, until its time is over."""

    def __init__(self, protocol: asyncio.Protocol, bound: Bound) -> None:
        self._protocol = protocol
        self._bound = bound
        self._transport: asyncio.Transport | None = None
        self._end: asyncio.TimerHandle | None = None

    def live_for(self, seconds: float) -> None:
        self._end = asyncio.get_running_loop().call_later(seconds, self.abort)

    def abort(self) -> None:
        """End at once, whatever is still to be sent: its reader may never read it."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport), "connections are streams"
        self._transport = transport
        self._bound.made(self)
        self._protocol.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._end is not None:
            self._end.cancel()
        self._transport = None
        self._bound.lost(self)
        self._protocol.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._protocol.data_received(data)

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received()

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()
