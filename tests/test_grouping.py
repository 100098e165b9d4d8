"""grouping.py: many callers share one thread's calls, and each gets what is its own."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dropsign.directory import MovedOnError
from dropsign.grouping import Grouping


class Doubling:
    """Doubles numbers, refuses negative ones, and remembers its groups."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.groups: list[list[int]] = []
        self.threads: set[str] = set()
        self.seconds = seconds
        self.may_go = threading.Event()
        self.may_go.set()

    def __call__(self, numbers: Sequence[int]) -> list[int | Exception]:
        assert self.may_go.wait(10)
        self.groups.append(list(numbers))
        self.threads.add(threading.current_thread().name)
        time.sleep(self.seconds)
        return [2 * number if number >= 0 else ValueError(f"{number} is negative") for number in numbers]


def test_each_caller_gets_its_own_result() -> None:
    """A thousand callers at once each get the result of their item."""

    async def scenario() -> None:
        grouping: Grouping[int, int] = Grouping(Doubling(), name="t")
        assert await asyncio.gather(*(grouping(number) for number in range(1000))) == list(range(0, 2000, 2))
        await grouping.close()

    asyncio.run(scenario())


def test_calls_of_one_moment_go_together() -> None:
    """Calls of one turn of the loop are one group, up to the limit; the hop to the thread is paid once a group."""
    work = Doubling()

    async def scenario() -> None:
        grouping: Grouping[int, int] = Grouping(work, name="t", limit=64)
        await asyncio.gather(*(grouping(number) for number in range(200)))
        await grouping.close()

    asyncio.run(scenario())
    assert work.groups == [list(range(64)), list(range(64, 128)), list(range(128, 192)), list(range(192, 200))]
    assert len(work.threads) == 1


def test_groups_grow_while_the_thread_is_busy() -> None:
    """What comes while the thread works waits for it together, in order; a lone call waits for nobody."""
    work = Doubling()

    async def scenario() -> None:
        grouping: Grouping[int, int] = Grouping(work, name="t")
        assert await asyncio.wait_for(grouping(1), 5) == 2
        work.may_go.clear()
        calls = [asyncio.create_task(grouping(2))]
        for number in range(3, 10):
            await asyncio.sleep(0.002)
            calls.append(asyncio.create_task(grouping(number)))
        await asyncio.sleep(0.01)
        work.may_go.set()
        assert await asyncio.gather(*calls) == [4, 6, 8, 10, 12, 14, 16, 18]
        await grouping.close()

    asyncio.run(scenario())
    assert work.groups == [[1], [2], [3, 4, 5, 6, 7, 8, 9]]


def test_one_items_exception_is_its_callers_alone() -> None:
    """An exception among the results is raised where its item waits; the others of its group get theirs."""

    async def scenario() -> None:
        grouping: Grouping[int, int] = Grouping(Doubling(), name="t")
        good, bad, fine = await asyncio.gather(grouping(1), grouping(-5), grouping(2), return_exceptions=True)
        assert good == 2
        assert fine == 4
        assert isinstance(bad, ValueError)
        assert str(bad) == "-5 is negative"
        await grouping.close()

    asyncio.run(scenario())


def test_failure_of_the_whole_group_reaches_all_of_it_and_no_later_one() -> None:
    """If the work itself breaks, everyone in the group hears so, and the next group works."""
    broken = [True]

    def work(numbers: Sequence[int]) -> list[int | Exception]:
        if broken.pop() if broken else False:
            raise OSError("no disk")
        return list(numbers)

    async def scenario() -> None:
        grouping: Grouping[int, int] = Grouping(work, name="t")
        results = await asyncio.gather(grouping(1), grouping(2), return_exceptions=True)
        assert [str(result) for result in results] == ["no disk", "no disk"]
        assert await grouping(3) == 3
        await grouping.close()

    asyncio.run(scenario())


def test_cancelled_waiter_costs_the_others_nothing() -> None:
    """Who is cancelled is out at once; its item is worked on all the same, and the others get their results."""
    work = Doubling()

    async def scenario() -> None:
        grouping: Grouping[int, int] = Grouping(work, name="t")
        work.may_go.clear()
        first, second, third = (asyncio.create_task(grouping(number)) for number in (1, 2, 3))
        await asyncio.sleep(0.01)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(second, 1)
        work.may_go.set()
        assert (await first, await third) == (2, 6)
        await grouping.close()

    asyncio.run(scenario())
    assert sorted(chain.from_iterable(work.groups)) == [1, 2, 3]


def test_nothing_is_lost_at_close() -> None:
    """All that was asked for before the end is done and answered, also what no group has begun yet."""
    work = Doubling(0.01)
    complaints: list[object] = []

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        grouping: Grouping[int, int] = Grouping(work, name="t", limit=2)
        calls = [asyncio.create_task(grouping(number)) for number in range(9)]
        await asyncio.sleep(0.005)
        await asyncio.wait_for(grouping.close(), 10)
        assert await asyncio.wait_for(asyncio.gather(*calls), 1) == list(range(0, 18, 2))

    asyncio.run(scenario())
    assert complaints == []
    assert not [thread for thread in threading.enumerate() if thread.name in work.threads]


def test_close_of_an_idle_one_is_immediate() -> None:
    """Nothing to wait for, nothing waited for, before the first call as after the last."""

    async def scenario() -> None:
        unused: Grouping[int, int] = Grouping(Doubling(), name="t")
        await asyncio.wait_for(unused.close(), 2)
        used: Grouping[int, int] = Grouping(Doubling(), name="t")
        await used(1)
        await asyncio.wait_for(used.close(), 2)

    asyncio.run(scenario())


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-3, 100), st.booleans(), st.sampled_from([0.0, 0.0, 0.0005])), max_size=60),
    st.integers(1, 7),
)
def test_any_interleaving(calls: list[tuple[int, bool, float]], limit: int) -> None:
    """Whoever calls when, and whoever is cancelled: every item is worked on once, in order, and answered to its own."""
    work = Doubling()

    async def scenario() -> None:
        grouping: Grouping[int, int] = Grouping(work, name="t", limit=limit)
        tasks = []
        for number, cancels, pause in calls:
            tasks.append(asyncio.create_task(grouping(number)))
            await asyncio.sleep(pause)
            if cancels:
                tasks[-1].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for (number, _, _), result in zip(calls, results, strict=True):
            if isinstance(result, asyncio.CancelledError):
                continue
            assert (isinstance(result, ValueError) and number < 0) or result == 2 * number
        await grouping.close()

    asyncio.run(scenario())
    assert list(chain.from_iterable(work.groups)) == [number for number, _, _ in calls]
    assert all(len(group) <= limit for group in work.groups)


def test_an_error_keeps_nothing_of_its_group_alive() -> None:
    """Once a caller has dealt with its error, what the group worked on is freed at once, without the collector."""

    class Content:
        pass

    contents: list[weakref.ref[Content]] = []

    def load(names: Sequence[str]) -> list[Content | Exception]:
        loaded: list[Content | Exception] = []
        for name in names:
            try:
                content = Content()
                contents.append(weakref.ref(content))
                if name == "moved on":
                    raise MovedOnError(name)  # noqa: TRY301 - where the traceback begins matters
                loaded.append(content)
            except MovedOnError as error:
                loaded.append(error)
        return loaded

    async def worker(grouping: Grouping[str, Content], name: str) -> None:
        with suppress(MovedOnError):
            await grouping(name)

    async def scenario() -> None:
        grouping: Grouping[str, Content] = Grouping(load, name="t")
        await asyncio.gather(*(worker(grouping, name) for name in ("a", "moved on", "b", "moved on")))
        await grouping.close()

    gc.disable()
    try:
        asyncio.run(scenario())
        assert [content() for content in contents] == [None] * 4
    finally:
        gc.enable()
