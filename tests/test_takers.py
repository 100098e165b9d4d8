"""localqueue.py with many takers: each drop wakes one of them, and none waits beside a drop that it may take."""

import asyncio
from collections.abc import Iterator

import pytest

from dropsign.journal import Journal
from dropsign.localqueue import LARGE, LocalQueue
from dropsign.model import Drop, Fingerprint


@pytest.fixture
def journal() -> Iterator[Journal]:
    made = Journal(None)
    yield made
    made.close()


def put(queue: LocalQueue, journal: Journal, path: bytes, size: int = 3) -> None:
    drop = Drop(path, Fingerprint(1, 2, size, 4, 5), ticket=journal.next_ticket())
    journal.queue(drop)
    queue.put(drop)


def test_each_drop_wakes_one_taker(journal: Journal) -> None:
    """Of many who wait, those that there is nothing for are left alone."""

    async def scenario() -> None:
        looks = 0

        def count() -> int:
            nonlocal looks
            looks += 1
            return 4

        queue = LocalQueue(journal, 0, count)
        takers = [asyncio.create_task(queue.take()) for _ in range(50)]
        await asyncio.sleep(0.01)
        looks = 0
        for number in range(50):
            put(queue, journal, b"%d" % number)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        drops = await asyncio.wait_for(asyncio.gather(*takers), 20)
        assert [drop.path for drop in drops] == [b"%d" % number for number in range(50)]
        assert looks == 50, looks

    asyncio.run(scenario())


def test_taker_that_is_cancelled_hands_its_drop_on(journal: Journal) -> None:
    """In the very moment when it was woken, too."""

    async def scenario() -> None:
        queue = LocalQueue(journal, 0)
        takers = [asyncio.create_task(queue.take()) for _ in range(4)]
        await asyncio.sleep(0.01)
        takers[1].cancel()
        put(queue, journal, b"a")
        takers[0].cancel()
        put(queue, journal, b"b")
        drops = await asyncio.wait_for(asyncio.gather(*takers[2:]), 20)
        assert {drop.path for drop in drops} == {b"a", b"b"}

    asyncio.run(scenario())


def test_more_may_be_taken_than_before(journal: Journal) -> None:
    """When the service bears more large files than when they came, the next drop wakes as many as may take one."""

    async def scenario() -> None:
        most = 1
        queue = LocalQueue(journal, 0, lambda: most)
        takers = [asyncio.create_task(queue.take()) for _ in range(6)]
        await asyncio.sleep(0.01)
        for number in range(5):
            put(queue, journal, b"large %d" % number, LARGE)
        await asyncio.sleep(0.01)
        assert [taker.done() for taker in takers].count(True) == 1
        most = 5
        put(queue, journal, b"small")
        assert len(await asyncio.wait_for(asyncio.gather(*takers), 20)) == 6

    asyncio.run(scenario())
