"""Groups calls of many coroutines into calls of one thread, so that a thread's hop is paid once a group.

While the thread works on one group, the next one collects: groups grow with the load and a lone call waits for
nobody.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Grouping(Generic[T, R]):
    """An asynchronous function made of a synchronous one that takes a list."""

    def __init__(self, work: Callable[[Sequence[T]], Sequence[R | Exception]], *, name: str, limit: int = 64) -> None:
        """Wrap a function.

        Args:
            work: gets up to `limit` items, and must return one result for each, in order; an exception among them
                is raised where its item waits.
            name: of the thread.
            limit: items in a group.
        """
        self._work = work
        self._limit = limit
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._busy = False
        self._idle = asyncio.Event()

    async def __call__(self, item: T) -> R:
        """Have the thread work on an item, together with others."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self._waiting.append((item, future))
        if not self._busy:
            self._busy = True
            loop.call_soon(self._start, loop)  # what else this turn of the loop brings goes along
        try:
            return await future
        finally:
            del future  # an error in there holds this frame by its traceback, and all that its caller holds

    async def close(self) -> None:
        """Finish what was asked for, and end the thread."""
        while self._busy:
            self._idle.clear()
            await self._idle.wait()
        await asyncio.get_running_loop().run_in_executor(None, self._executor.shutdown)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        group = [self._waiting.popleft() for _ in range(min(self._limit, len(self._waiting)))]
        running = self._executor.submit(self._work, [item for item, _ in group])

        def finished(running: Future[Sequence[R | Exception]]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._finish, loop, group, running)

        running.add_done_callback(finished)

    def _finish(
        self,
        loop: asyncio.AbstractEventLoop,
        group: list[tuple[T, asyncio.Future[R]]],
        running: Future[Sequence[R | Exception]],
    ) -> None:
        if self._waiting:
            self._start(loop)
        else:
            self._busy = False
            self._idle.set()
        error = running.exception()
        results: Sequence[R | BaseException] = [error] * len(group) if error else running.result()
        for (_, future), result in zip(group, results, strict=True):
            if future.done():  # who waited was cancelled
                continue
            if isinstance(result, BaseException):
                # By its traceback, an error among results holds the frame that lists it, and so itself and its group.
                future.set_exception(result if error else result.with_traceback(None))
            else:
                future.set_result(result)
