"""Bounds on clients: a connection ends when its time is over, and the oldest makes room for the newest."""

import asyncio

from dropsign.connections import Bound


class Echo(asyncio.Protocol):
    """Sends back what comes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def connect(server: asyncio.Server) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect, and see that the connection is served."""
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    return reader, writer


async def ended(reader: asyncio.StreamReader) -> bool:
    """Wait for a connection's end."""
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True


def test_the_oldest_makes_room() -> None:
    """Beyond the bound, each new connection is served, and the oldest is cut; the others stay."""

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Bound(Echo, most=3), "127.0.0.1", 0)
        connections = [await connect(server) for _ in range(5)]
        for reader, _ in connections[:2]:
            assert await ended(reader)
        for reader, writer in connections[2:]:
            writer.write(b"still")
            assert await reader.readexactly(5) == b"still"
        for _, writer in connections:
            writer.close()
        server.close()

    asyncio.run(main())


def test_a_life_ends() -> None:
    """However busy, a connection is cut when its time is over, also while its client reads nothing."""

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Bound(Echo, seconds=2), "127.0.0.1", 0)
        silent, deaf = await connect(server), await connect(server)
        deaf[1].write(bytes(20_000_000))
        assert await ended(silent[0])
        while not deaf[1].transport.is_closing():
            deaf[1].write(b"more")
            await asyncio.sleep(0.01)
        for _, writer in (silent, deaf):
            writer.close()
        server.close()

    asyncio.run(main())
