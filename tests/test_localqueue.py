"""localqueue.py with a real journal as its tail: bounded in memory, in order, and nothing is ever lost."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dropsign.journal import Journal
from dropsign.localqueue import LARGE, ROOM, LocalQueue
from dropsign.model import Drop, Fingerprint, Signature

VERSION = Fingerprint(1, 2, 3, 4, 5)


@contextmanager
def opened(path: Path | None = None) -> Iterator[Journal]:
    journal = Journal(path)
    try:
        yield journal
    finally:
        journal.close()


def put(queue: LocalQueue, journal: Journal, path: bytes) -> Drop:
    """Queue a drop just as the intake does: first in the journal, then here."""
    drop = Drop(path, VERSION, ticket=journal.next_ticket())
    journal.queue(drop)
    queue.put(drop)
    return drop


def finish(queue: LocalQueue, journal: Journal, drop: Drop) -> None:
    """End a drop just as the pool does: first in the journal, then here."""
    journal.sign(drop, Signature(b"s", b"d" * 32, 3))
    queue.done(drop)


async def take(queue: LocalQueue) -> Drop:
    return await asyncio.wait_for(queue.take(), 5)


def test_first_come_first_served() -> None:
    """What fits is given out in the order in which it was put, without asking the journal."""

    async def scenario(journal: Journal) -> None:
        queue = LocalQueue(journal, journal.last_ticket)
        drops = [put(queue, journal, b"%d" % number) for number in range(10)]
        assert [await take(queue) for _ in range(10)] == drops

    with opened() as journal:
        asyncio.run(scenario(journal))


def test_take_waits_for_a_put() -> None:
    """Who takes from an empty queue waits, and gets the next drop at once; each drop goes to one taker."""

    async def scenario(journal: Journal) -> None:
        queue = LocalQueue(journal, 0)
        takers = [asyncio.create_task(queue.take()) for _ in range(3)]
        await asyncio.sleep(0.01)
        assert not any(taker.done() for taker in takers)
        for number in range(3):
            put(queue, journal, b"%d" % number)
        taken = await asyncio.wait_for(asyncio.gather(*takers), 5)
        assert sorted(drop.path for drop in taken) == [b"0", b"1", b"2"]

    with opened() as journal:
        asyncio.run(scenario(journal))


def test_memory_is_bounded_and_the_order_kept() -> None:
    """Five times what fits: no more than the room is ever held, and all come back in order."""

    async def scenario(journal: Journal) -> None:
        queue = LocalQueue(journal, 0)
        total = 5 * ROOM + 17
        for number in range(total):
            put(queue, journal, b"%d" % number)
            assert len(queue) <= ROOM
        for number in range(total):
            drop = await take(queue)
            assert (drop.path, drop.ticket) == (b"%d" % number, number + 1)
            assert len(queue) <= ROOM
            finish(queue, journal, drop)
        assert len(queue) == 0

    with opened() as journal:
        asyncio.run(scenario(journal))


def test_memory_is_bounded_however_many_ask_at_once() -> None:
    """Workers that all begin at once on a long backlog have it loaded once, not once each."""

    async def scenario(journal: Journal) -> None:
        for number in range(5 * ROOM):
            journal.queue(Drop(b"%d" % number, VERSION, ticket=journal.next_ticket()))
        queue = LocalQueue(journal, journal.last_ticket)
        taken = await asyncio.wait_for(asyncio.gather(*(queue.take() for _ in range(8))), 5)
        assert sorted(drop.ticket for drop in taken) == list(range(1, 9))
        assert len(queue) <= ROOM

    with opened() as journal:
        asyncio.run(scenario(journal))


def test_restart_continues_where_the_last_process_ended(tmp_path: Path) -> None:
    """All that the journal holds as queued is given out again, in order, before what comes new."""
    path = tmp_path / "journal.sqlite3"

    async def before(journal: Journal) -> None:
        queue = LocalQueue(journal, journal.last_ticket)
        for number in range(ROOM + 50):
            put(queue, journal, b"%d" % number)
        for _ in range(3):
            finish(queue, journal, await take(queue))
        await take(queue)  # on its way when the process dies

    async def after(journal: Journal) -> None:
        queue = LocalQueue(journal, journal.last_ticket)
        put(queue, journal, b"new")
        taken = []
        for _ in range(ROOM + 48):
            drop = await take(queue)
            taken.append(drop.path)
            finish(queue, journal, drop)
        assert taken == [*(b"%d" % number for number in range(3, ROOM + 50)), b"new"]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(queue.take(), 0.05)

    with opened(path) as journal:
        asyncio.run(before(journal))
    with opened(path) as journal:
        asyncio.run(after(journal))


def test_entries_that_are_gone_are_passed_over() -> None:
    """What was forgotten while it waited in the journal alone is not given out, and nobody waits for it."""

    async def scenario(journal: Journal) -> None:
        queue = LocalQueue(journal, 0)
        for number in range(2 * ROOM):
            put(queue, journal, b"%d" % number)
        journal.forget(b"%d" % number for number in range(ROOM, 2 * ROOM))
        for _ in range(ROOM):
            queue.done(await take(queue))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(queue.take(), 0.05)
        drop = put(queue, journal, b"next")
        assert (await take(queue)).ticket == drop.ticket

    with opened() as journal:
        asyncio.run(scenario(journal))


def test_new_version_of_a_path_that_waits_takes_one_place() -> None:
    """A path queued anew while it waits in the journal alone is given out once, in its newest version, at the end."""

    async def scenario(journal: Journal) -> None:
        queue = LocalQueue(journal, 0)
        for number in range(ROOM + 5):
            put(queue, journal, b"%d" % number)
        last = b"%d" % (ROOM + 1)
        assert not queue.holds(last)
        newest = put(queue, journal, last)
        taken = [await take(queue) for _ in range(ROOM + 5)]
        assert [drop.path for drop in taken].count(last) == 1
        assert (taken[-1].path, taken[-1].ticket) == (last, newest.ticket)

    with opened() as journal:
        asyncio.run(scenario(journal))


def test_holds_from_put_to_done() -> None:
    """A path in memory is held until `done`, so that nobody queues it twice."""

    async def scenario(journal: Journal) -> None:
        queue = LocalQueue(journal, 0)
        put(queue, journal, b"a")
        assert queue.holds(b"a")
        drop = await take(queue)
        assert queue.holds(b"a")
        queue.done(drop)
        assert not queue.holds(b"a")

    with opened() as journal:
        asyncio.run(scenario(journal))


def large(path: bytes, journal: Journal) -> Drop:
    drop = Drop(path, VERSION._replace(size=LARGE), ticket=journal.next_ticket())
    journal.queue(drop)
    return drop


def test_small_files_do_not_wait_for_large_ones() -> None:
    """Large files take no more workers than they may; small ones pass them, and each lane keeps its order."""

    async def scenario(journal: Journal) -> None:
        queue = LocalQueue(journal, 0, lambda: 2)
        for number in range(5):
            queue.put(large(b"large %d" % number, journal))
        for number in range(3):
            put(queue, journal, b"small %d" % number)
        taken = [await take(queue) for _ in range(5)]
        assert [drop.path for drop in taken] == [b"large 0", b"large 1", b"small 0", b"small 1", b"small 2"]
        waiting = asyncio.create_task(queue.take())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        finish(queue, journal, taken[2])
        await asyncio.sleep(0.01)
        assert not waiting.done()  # a small one that is done makes no room for a large one
        finish(queue, journal, taken[0])
        assert (await asyncio.wait_for(waiting, 5)).path == b"large 2"

    with opened() as journal:
        asyncio.run(scenario(journal))


def test_what_failed_waits_in_a_lane_of_its_own() -> None:
    """However many drops failed, they take a part of the workers; fresh ones, small or large, pass them."""

    async def scenario(journal: Journal) -> None:
        queue = LocalQueue(journal, 0, lambda: 4)
        for number in range(20):
            put(queue, journal, b"failing %d" % number)
        failing = [await take(queue) for _ in range(20)]
        for drop in failing:
            drop.failures += 1
            assert queue.put_back(drop, 0)
            assert queue.holds(drop.path)
        again = [await take(queue) for _ in range(2)]
        waiting = asyncio.create_task(queue.take())
        await asyncio.sleep(0.01)
        assert not waiting.done(), "half of the slow ones' places are for large files"
        put(queue, journal, b"fresh")
        assert (await asyncio.wait_for(waiting, 5)).path == b"fresh"
        queue.put(large(b"large", journal))
        assert (await take(queue)).path == b"large"
        assert queue.put_back(again[0], 3600)
        queue.done(again[1])
        assert [(await take(queue)).path for _ in range(2)] == [drop.path for drop in failing[2:4]]
        assert not queue.holds(again[1].path)

    with opened() as journal:
        asyncio.run(scenario(journal))


def test_what_failed_is_taken_when_its_time_has_come() -> None:
    """A worker that waits gets it by itself; more than fit are not taken back."""

    async def scenario(journal: Journal) -> None:
        queue = LocalQueue(journal, 0)
        put(queue, journal, b"failing")
        drop = await take(queue)
        queue.put_back(drop, 0.2)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(queue.take(), 0.01)
        assert (await take(queue)) is drop
        assert [queue.put_back(drop, 3600) for _ in range(ROOM + 1)] == [True] * ROOM + [False]

    with opened() as journal:
        asyncio.run(scenario(journal))


def test_small_files_behind_a_backlog_of_large_ones() -> None:
    """Small files that wait in the journal alone, behind more large ones than fit, are brought forward too."""

    async def scenario(journal: Journal) -> None:
        for number in range(2 * ROOM):
            large(b"large %d" % number, journal)
        journal.queue(Drop(b"small", VERSION, ticket=journal.next_ticket()))
        queue = LocalQueue(journal, journal.last_ticket, lambda: 1)
        assert (await take(queue)).path == b"large 0"
        assert (await take(queue)).path == b"small"

    with opened() as journal:
        asyncio.run(scenario(journal))


def test_newer_version_of_a_held_path_has_its_turn_when_the_older_is_done() -> None:
    """A path queued anew while its older version is on its way is given out after that one, never beside it."""

    async def scenario(journal: Journal) -> None:
        queue = LocalQueue(journal, 0)
        put(queue, journal, b"a")
        older = await take(queue)
        newer = put(queue, journal, b"a")
        waiting = asyncio.create_task(queue.take())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        queue.done(older)
        assert (await asyncio.wait_for(waiting, 5)).ticket == newer.ticket
        assert queue.holds(b"a")
        queue.done(newer)
        assert not queue.holds(b"a")

    with opened() as journal:
        asyncio.run(scenario(journal))


class Slow:
    """A journal whose answers take the time that they are given."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.may_answer = asyncio.Event()
        self.asked = asyncio.Event()

    async def waiting(self, after: int, limit: int) -> Sequence[Drop]:
        drops = await self.journal.waiting(after, limit)
        self.asked.set()
        await self.may_answer.wait()
        return drops


def test_put_during_a_refill_is_not_lost() -> None:
    """A drop put while the journal's answer is on its way, and so is not in it, is given out all the same."""

    async def scenario(journal: Journal) -> None:
        journal.queue(Drop(b"old", VERSION, ticket=journal.next_ticket()))
        slow = Slow(journal)
        queue = LocalQueue(slow, journal.last_ticket)
        first = asyncio.create_task(queue.take())
        await slow.asked.wait()
        put(queue, journal, b"put meanwhile")
        slow.may_answer.set()
        assert (await asyncio.wait_for(first, 5)).path == b"old"
        assert (await take(queue)).path == b"put meanwhile"

    with opened() as journal:
        asyncio.run(scenario(journal))


def test_taker_cancelled_during_a_refill_costs_nothing() -> None:
    """A worker that is cancelled while the journal is asked loses no drop, and does not keep others from asking."""

    async def scenario(journal: Journal) -> None:
        for number in range(3):
            journal.queue(Drop(b"%d" % number, VERSION, ticket=journal.next_ticket()))
        slow = Slow(journal)
        queue = LocalQueue(slow, journal.last_ticket)
        cancelled, patient = asyncio.create_task(queue.take()), asyncio.create_task(queue.take())
        await slow.asked.wait()
        cancelled.cancel()
        slow.may_answer.set()
        taken = [await asyncio.wait_for(patient, 5), await take(queue), await take(queue)]
        assert [drop.path for drop in taken] == [b"0", b"1", b"2"]

    with opened() as journal:
        asyncio.run(scenario(journal))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["put", "put many", "take", "done", "yield", "cancel"]), max_size=60),
    st.integers(0, 3),
    st.integers(1, 4),
)
def test_any_interleaving_loses_nothing(  # noqa: C901 - each step is one case
    steps: list[str], before: int, takers: int
) -> None:
    """Whatever puts, takes, refills and cancellations overlap: each drop is given out once, in order."""

    async def scenario(journal: Journal) -> None:  # noqa: C901 - as above
        expected = []
        for number in range(before * ROOM // 2):
            drop = Drop(b"before %d" % number, VERSION, ticket=journal.next_ticket())
            journal.queue(drop)
            expected.append(drop.path)
        queue = LocalQueue(journal, journal.last_ticket)
        given_out: list[Drop] = []
        unfinished: list[Drop] = []
        tasks: set[asyncio.Task[None]] = set()

        async def work() -> None:
            drop = await queue.take()
            given_out.append(drop)
            unfinished.append(drop)

        for number, step in enumerate(steps):
            match step:
                case "put" | "put many":
                    for part in range(1 if step == "put" else ROOM // 3):
                        path = b"%d/%d" % (number, part)
                        put(queue, journal, path)
                        expected.append(path)
                case "take":
                    if len(tasks) < takers:
                        task = asyncio.create_task(work())
                        tasks.add(task)
                        task.add_done_callback(tasks.discard)
                case "done" if unfinished:
                    finish(queue, journal, unfinished.pop(0))
                case "cancel" if tasks:
                    next(iter(tasks)).cancel()
                case _:
                    await asyncio.sleep(0)
            assert len(queue) <= ROOM + takers + len(unfinished)
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while len(given_out) < len(expected):
            await asyncio.wait_for(work(), 5)
            finish(queue, journal, unfinished.pop(0))
        assert [drop.path for drop in given_out] == expected
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(queue.take(), 0.001)

    with opened() as journal:
        asyncio.run(scenario(journal))
