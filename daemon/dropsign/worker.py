"""The pool: take a drop, have it signed, publish, record.

What the journal and the outbox hold if the process dies in between is in docs/architecture.md. A drop is held by
one worker from `take` to `done`; in an outage it keeps its place there, and nothing is charged to it.
"""

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from random import Random
from typing import Final, Protocol

from dropsign.admission import UNPUBLISHABLE, UNREADABLE
from dropsign.backoff import full_jitter
from dropsign.config import Service
from dropsign.descriptors import SHORTAGE
from dropsign.directory import MovedOnError, OpenDrop
from dropsign.errors import Fault, SigningError, is_shortage, unwritable_reason
from dropsign.failpoints import reach
from dropsign.grouping import Grouping
from dropsign.model import Drop, Signature
from dropsign.outage import LONGEST_RETRY_AFTER_SECONDS
from dropsign.outbox import Publication
from dropsign.parts import CHANGED, Parts
from dropsign.signer import Request, SourceError

SMALL: Final = 256 * 1024
"""Bytes up to which a file is read into memory once; larger ones are streamed in two passes."""

STREAM_COST: Final = 1024 * 1024
"""Bytes of memory that one streamed request takes, with its buffers."""

UNPUBLISHED: Final = 256
"""Signatures that may wait for the disk before workers wait for it."""

_CHANGED_SECONDS: Final = 1.0

STALE_MOST: Final = 3
"""So often a request is made again at once whose connection had been closed before it began."""

BLIPS_MOST: Final = 5
"""So often a file is tried again soon that fails while others succeed; then it rests, uncharged."""

_BLIP_SECONDS: Final = 0.1
_LONGEST_BLIP_SECONDS: Final = 2.0

LONGEST_DEFERRAL_SECONDS: Final = 600.0

_DEFERRAL_TRIES: Final = 6
"""Where on the backoff a drop starts that waits for someone to mend its file: up to half a minute."""


class Feeder(Protocol):
    """Who brings drops, and is told when the pool lets go of one."""

    def released(self, path: bytes, *, moved_on: bool) -> None:
        """The pool is done with a path; its file may have moved on meanwhile."""

    def retry(self, paths: Sequence[bytes]) -> None:
        """Failed drops are to be tried again."""


class MemoryBudget:
    """A number of bytes that all requests share; whoever asks first gets first."""

    def __init__(self, total: int) -> None:
        self._total = self._free = total
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()

    async def take(self, size: int) -> int:
        """Wait for `size` bytes, or for all there are if it is more; return how many were taken."""
        size = min(size, self._total)
        async with self._turn:
            while self._free < size:
                self._freed.clear()
                await self._freed.wait()
            self._free -= size
        return size

    def give(self, size: int) -> None:
        """Give bytes back."""
        self._free += size
        self._freed.set()


class Pool:
    """`concurrency` workers, and the publishing of what they get."""

    def __init__(self, service: Service, parts: Parts, feeder: Feeder, *, error_files: bool = False) -> None:
        """Prepare the pool.

        Args:
            service: how many workers, how many attempts, how much memory.
            parts: what it works with.
            feeder: told of each path that the pool is done with.
            error_files: put FILE.sign-error beside failed drops.
        """
        self._service = service
        self._parts = parts
        self._feeder = feeder
        self._error_files = error_files
        self._random = Random()  # noqa: S311 - jitter is no secret
        self._budget = MemoryBudget(service.memory_mib * 1024 * 1024)
        self._loading: Grouping[Drop, Request | OpenDrop] = Grouping(self._load_group, name="load", limit=32)
        self._workers: list[asyncio.Task[None]] = []
        self._busy: set[asyncio.Task[None]] = set()
        self._finishing: set[asyncio.Task[None]] = set()
        self._stopping = False
        self.concurrency = service.concurrency
        self.in_flight = 0
        """Requests on their way."""

    def start(self) -> None:
        """Start the workers."""
        self._workers = [asyncio.create_task(self._work()) for _ in range(self._service.concurrency)]

    async def stop(self, grace_seconds: float) -> None:
        """Take no more drops; let what is on its way end within the grace, then cut it short; record it all.

        A signature that cannot be published for want of room goes into the journal; the next start publishes it.
        """
        self._stopping = True
        for worker in set(self._workers) - self._busy:
            worker.cancel()
        if self._busy:
            _, late = await asyncio.wait(set(self._busy), timeout=grace_seconds)
            for worker in late:
                worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        self._parts.publish.hurry()
        if self._finishing:
            await asyncio.wait(self._finishing, timeout=max(1.0, grace_seconds))
        for task in self._finishing:
            task.cancel()
        await self._loading.close()

    async def _work(self) -> None:
        while not self._stopping:
            while len(self._finishing) >= UNPUBLISHED:
                await asyncio.wait(self._finishing, return_when=asyncio.FIRST_COMPLETED)
            drop = await self._parts.queue.take()
            reach("taken")
            moved_on: bool | None = False
            try:
                moved_on = await self._process(drop)
            except Exception as error:  # noqa: BLE001 - a defect must not cost other files their signature
                self._parts.observer.defect(error)
                self._defer(drop, "defect", f"{type(error).__name__}: {error}", _DEFERRAL_TRIES)
            finally:
                if moved_on is not None:
                    self._release(drop, moved_on=moved_on)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Mark this worker as one that a stop gives time to end."""
        task = asyncio.current_task()
        assert task is not None, "runs as a task"
        self._busy.add(task)
        try:
            yield
        finally:
            self._busy.discard(task)

    def _release(self, drop: Drop, *, moved_on: bool) -> None:
        self._parts.queue.done(drop)
        self._feeder.released(drop.path, moved_on=moved_on)

    async def _process(self, drop: Drop) -> bool | None:
        """Get a drop its signature; return whether its file moved on, or None while others still hold it."""
        for tries in count(1):
            began = time.monotonic()
            try:
                async with self._parts.gate.passage(drop.path, failed=tries > 1 or drop.failures > 0):
                    began = time.monotonic()
                    with self._asking():
                        signature, seconds = await self._attempt(drop)
            except MovedOnError:
                self._parts.observer.changed(drop.path)
                # Should it be the same version after all, as where a file system's attributes lag, it is taken again.
                self._parts.journal.defer(drop, time.time() + _CHANGED_SECONDS, CHANGED, "changed while it was read")
                return True
            except OSError as error:
                if not is_shortage(error):
                    self._unreadable(drop, error)
                    return False
                failure = SigningError(Fault.MACHINE, "resources", f"no file can be opened: {SHORTAGE}")
            except SigningError as error:
                failure = error
            else:
                finishing = asyncio.create_task(self._finish(drop, signature, seconds))
                self._finishing.add(finishing)
                finishing.add_done_callback(self._finishing.discard)
                return None
            if failure.stale and tries <= STALE_MOST and not self._stopping:
                continue
            if (again := self._again(drop, failure, began)) is None:
                return None
            if not again or self._stopping:
                return False
        return False

    async def _attempt(self, drop: Drop) -> tuple[Signature, float]:
        """Make one attempt.

        Raises:
            MovedOnError: the file is not that version any more.
            OSError: it cannot be read.
            SigningError: no signature came, or it does not verify.
        """
        size = drop.fingerprint.size
        memory = await self._budget.take(STREAM_COST if size > SMALL else 4 * size + 4096)
        opened: OpenDrop | None = None
        try:
            loaded = await self._loading(drop)
            if isinstance(loaded, OpenDrop):
                opened = loaded
                request = await asyncio.get_running_loop().run_in_executor(None, self._first_pass, opened)
            else:
                request = loaded
            reach("loaded")
            signature, seconds = await self._send(drop, request)
            if opened is not None:
                opened.check()
            if not await self._parts.proves(drop.path, drop.fingerprint, signature):
                text = "the service's signature does not verify with verify.key"
                raise SigningError(Fault.ANSWER, "bad_signature", text)
            reach("verified")
            return signature, seconds  # noqa: TRY300 - what raises stands above, all of it
        except SourceError as error:
            if isinstance(error.__cause__, OSError):
                raise error.__cause__ from None
            raise MovedOnError(os.fsdecode(drop.path)) from None
        finally:
            if opened is not None:
                opened.close()
            self._budget.give(memory)

    async def _send(self, drop: Drop, request: Request) -> tuple[Signature, float]:
        started = time.perf_counter()
        result = "cut"
        self.in_flight += 1
        reach("sending")
        try:
            signature = await self._parts.signer.send(request)
            result = "signed"
        except SigningError as error:
            result = error.reason
            raise
        finally:
            self.in_flight -= 1
            seconds = time.perf_counter() - started
            self._parts.observer.requested(result, seconds)
        self._parts.gate.answered(drop.path)
        reach("answered")
        return signature, seconds

    def _again(self, drop: Drop, error: SigningError, began: float) -> bool | None:
        """Put a failed attempt to whoever's account it is.

        Returns:
            Whether the drop is to be tried again by us, or None when the queue holds it for another try.
        """
        if error.fault in {Fault.ANSWER, Fault.FILE}:
            self._blame(drop, error)
            return False
        queue = self._parts.queue
        if not self._parts.gate.fault(error, began, drop.path):
            # The gate is closed, and this drop keeps its place before it, unless another may do better as a probe.
            return None if error.passing and queue.has_fresh and queue.put_back(drop, 0) else True
        drop.failures += 1
        pause = full_jitter(drop.failures, _BLIP_SECONDS, _LONGEST_BLIP_SECONDS, self._random)
        pause = max(pause, min(error.retry_after or 0.0, LONGEST_RETRY_AFTER_SECONDS))
        if drop.failures <= BLIPS_MOST and queue.put_back(drop, pause):
            return None
        self._defer(drop, error.reason, str(error), _DEFERRAL_TRIES)
        return False

    def _blame(self, drop: Drop, error: SigningError) -> None:
        """Put a failed attempt to a file's account."""
        parts = self._parts
        if error.fault is Fault.FILE:
            if parts.gate.refused(drop.path, error):
                self._feeder.retry(parts.gate.blamed())
                self._send_to_the_end(drop)
                return
            drop.attempts += 1
            self._fail(drop, error.reason, str(error))
            return
        parts.gate.answered(drop.path)
        drop.attempts += 1
        if drop.attempts >= self._service.attempts:
            self._fail(drop, error.reason, str(error))
        else:
            self._defer(drop, error.reason, str(error), drop.attempts)

    def _send_to_the_end(self, drop: Drop) -> None:
        """Queue a refused drop again, so that the next probe is another file's: it may be these files' fault."""
        again = replace(drop, ticket=self._parts.journal.next_ticket(), failures=drop.failures + 1)
        self._parts.journal.queue(again)
        self._parts.queue.put(again)

    def _unreadable(self, drop: Drop, error: OSError) -> None:
        self._defer(drop, UNREADABLE, f"cannot be read: {error.strerror or error}", _DEFERRAL_TRIES)

    def _defer(self, drop: Drop, reason: str, text: str, tries: int, *, told: bool = False) -> None:
        """Have a drop rest; say so, unless the gate has told why already."""
        seconds = full_jitter(tries, 1.0, LONGEST_DEFERRAL_SECONDS, self._random)
        self._parts.journal.defer(drop, time.time() + seconds, reason, text)
        reach("deferred")
        if not told:
            self._parts.observer.deferred(drop, reason, text, seconds)

    def _fail(self, drop: Drop, reason: str, text: str) -> None:
        if self._error_files:
            self._parts.outbox.write_error(drop.path, reason, text)
        self._parts.journal.fail(drop, reason, text)
        reach("failed")
        self._parts.observer.failed(drop, reason, text)

    async def _finish(self, drop: Drop, signature: Signature, seconds: float) -> None:
        """Publish and record; a signature that cannot be published is kept in the journal."""
        parts = self._parts
        moved_on = False
        try:
            stamp = await parts.publish(Publication(drop.path, drop.fingerprint, signature.text))
            if self._error_files:
                parts.outbox.remove_error(drop.path)
            parts.journal.sign(drop, signature, stamp)
            reach("recorded")
            parts.observer.signed(drop, signature, seconds)
        except MovedOnError:
            moved_on = True
            parts.journal.obtained(drop, signature)
            reach("outdated")
            parts.observer.changed(drop.path)
            # Should it be the same version after all, as where its directory was away, the signature is at hand.
            parts.journal.defer(drop, time.time() + _CHANGED_SECONDS, UNPUBLISHABLE, "moved on before it was published")
        except OSError as error:
            parts.journal.obtained(drop, signature)
            told = unwritable_reason(error) is not None
            text = f"cannot write beside it: {error.strerror}"
            self._defer(drop, UNPUBLISHABLE, text, _DEFERRAL_TRIES, told=told)
        except Exception as error:  # noqa: BLE001 - a defect must not cost other files their signature
            parts.observer.defect(error)
            self._defer(drop, "defect", f"{type(error).__name__}: {error}", _DEFERRAL_TRIES)
        finally:
            self._release(drop, moved_on=moved_on)

    # In threads

    def _load_group(self, drops: Sequence[Drop]) -> list[Request | OpenDrop | Exception]:
        with self._parts.outbox.directories() as directories:
            loaded: list[Request | OpenDrop | Exception] = []
            for drop in drops:
                try:
                    opened = self._parts.outbox.open_in(directories, drop.path, drop.fingerprint)
                    loaded.append(self._load(opened))
                except (OSError, MovedOnError) as error:
                    loaded.append(error)
        return loaded

    def _load(self, opened: OpenDrop) -> Request | OpenDrop:
        """Make the request for a small file; a large one is given back open."""
        size = opened.fingerprint.size
        if size > SMALL:
            return opened
        with opened:
            content = opened.read_at(0, size + 1)
            opened.check()
            if len(content) != size:
                raise MovedOnError(os.fsdecode(opened.path))
        return self._parts.signer.prepare(content)

    def _first_pass(self, opened: OpenDrop) -> Request:
        request = self._parts.signer.prepare_stream(
            opened.read_at, opened.fingerprint.size, lambda: self._stopping and opened.is_closed
        )
        opened.check()
        return request
