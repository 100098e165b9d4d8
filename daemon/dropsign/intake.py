"""The way in: notice or scan -> settled drop -> journal -> queue.

Notices of the watcher and findings of scans end in the same place, so that events lost cost delay, never a file.
A path has one owner at a time: it is restless here, examined here, or held by the queue. A notice for a path that
is owned elsewhere is kept until its owner lets go.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from dropsign.admission import Verdict, doubted, insist, is_unpublished, is_unread, judge
from dropsign.directory import MovedOnError
from dropsign.examination import Examiner
from dropsign.failpoints import reach
from dropsign.filters import Filters
from dropsign.model import Drop, Entry, Look, Notice, State
from dropsign.parts import CHANGED, Parts
from dropsign.scan import Finding
from dropsign.settle import Settling, is_young
from dropsign.survey import Surveyor
from dropsign.withdrawal import GROUP, Withdrawal

RESTLESS_MOST: Final = 4096
"""Restless paths from which on a scan is slowed down."""

FORGETFUL: Final = 100_000
"""Restless paths from which on notices are dropped and left to a scan."""

EXAMINED_AT_ONCE: Final = 2


class Intake:
    """Settles what is noticed, decides about it, and queues what is to be signed."""

    def __init__(
        self,
        parts: Parts,
        filters: Filters,
        settling: Settling,
        *,
        republish_missing: bool,
        on_forgetful: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare the intake.

        Args:
            parts: what it works with.
            filters: which names count; may be replaced while it runs.
            settling: what is restless.
            republish_missing: put back a FILE.sign that is missing.
            on_forgetful: told when notices were dropped, so that a scan must look.
        """
        self._parts = parts
        self.filters = filters
        self.settling = settling
        self._republish_missing = republish_missing
        self._on_forgetful = on_forgetful
        self._surveyor = Surveyor(parts)
        self._withdrawal = Withdrawal(parts, settling, self._surveyor)
        self._examined: dict[bytes, asyncio.Task[None]] = {}
        self._examiner = Examiner(parts)
        self._examining = asyncio.Semaphore(EXAMINED_AT_ONCE)
        self._wishes: dict[bytes, bool] = {}  # asked for while they settle; true: to be signed in any case
        self._deciding = asyncio.Lock()  # from a look to its decisions, so that none rests on what was before another
        self._missed: dict[bytes, tuple[Notice, ...]] = {}
        self._wake = asyncio.Event()
        self._retries: set[asyncio.Task[None]] = set()

    @property
    def undecided(self) -> int:
        """How many paths are on their way in: restless, or being examined."""
        return len(self.settling) + len(self._examined)

    def is_undecided(self, path: bytes) -> bool:
        """Tell whether a path is on its way in."""
        return path in self.settling or path in self._examined

    # What others tell

    def notice(self, path: bytes, notice: Notice) -> None:
        """Take in that something may have happened at a path."""
        if self._is_owned(path):
            self._miss(path, notice)
            return
        if path not in self.settling and not self.filters.accepts(path):
            return
        if len(self.settling) >= FORGETFUL:
            self._on_forgetful()
            return
        reach("noticed")
        new = self.settling.touch(path, notice, time.monotonic())
        if new or notice is Notice.MODIFIED:
            self._withdrawal.notice(path)
        self._wake.set()

    async def found(self, findings: Sequence[Finding]) -> None:
        """Take in what a scan found; waits while there is much to settle already."""
        while self.undecided >= RESTLESS_MOST:  # noqa: ASYNC110 - the paths settle in their own time
            await asyncio.sleep(0.05)
        forgotten = []
        now = time.monotonic()
        for path, fingerprint in findings:
            if not self.filters.accepts(path):
                if not self._is_owned(path):  # its owner is to record what becomes of it
                    forgotten.append(path)
            elif path not in self.settling:
                self.notice(path, Notice.FOUND)
                if fingerprint is not None:
                    self.settling.observe(path, fingerprint, now)
        if forgotten:
            self._parts.journal.forget(forgotten)

    def released(self, path: bytes, *, moved_on: bool) -> None:
        """Take a path back that the pool is done with."""
        missed = self._missed.pop(path, ())
        for notice in missed or ((Notice.FOUND,) if moved_on else ()):
            self.notice(path, notice)

    def retry(self, paths: Sequence[bytes]) -> None:
        """Queue failed and deferred drops again, whatever their files look like."""
        task = asyncio.create_task(self._retry(paths))
        self._retries.add(task)
        task.add_done_callback(self._retries.discard)

    async def _retry(self, paths: Sequence[bytes]) -> None:
        known = await self._parts.journal.lookup(paths)
        for path, entry in known.items():
            if entry.state in {State.FAILED, State.DEFERRED}:
                if self._is_owned(path):
                    self._miss(path, Notice.ASKED)
                else:
                    self.requeue(entry)

    def requeue(self, entry: Entry, attempts: int = 0) -> bool:
        """Take up one failed or deferred drop again, at the queue's end; return False if it has an owner already."""
        if self._is_owned(entry.path) or entry.path in self.settling:  # restless: taken when it rests
            return False
        if not self.filters.accepts(entry.path):
            self._parts.journal.forget([entry.path])
            return True
        if is_unread(entry):  # a FILE.sign may lie beside it
            return self._notice_wish(entry.path, force=False)
        self._withdraw_note(entry)
        if is_unpublished(entry):  # its signature is at hand; the service is not asked again
            self._begin_examination(Look(entry.path, entry.fingerprint), entry, found=False)
            return True
        drop = Drop(entry.path, entry.fingerprint, attempts, time.time(), self._parts.journal.next_ticket())
        drop.failures = int(entry.reason != CHANGED)
        self._parts.journal.queue(drop)
        reach("retried")
        self._parts.queue.put(drop)
        return True

    async def take_in(self, paths: Sequence[bytes], *, force: bool = False) -> None:
        """Decide about paths at once that nobody writes to; those that somebody writes to are settled first.

        Args:
            paths: relative to the outbox, accepted by the filters.
            force: sign them again, whatever is known.
        """
        async with self._deciding:
            await self._take_in(paths, force=force)

    async def _take_in(self, paths: Sequence[bytes], *, force: bool) -> None:
        looks, known = await self._survey(paths)
        for path in set(paths) - {look.path for look in looks}:
            self._parts.observer.unseen(path)
        for look in looks:
            young = look.fingerprint is not None and is_young(look.fingerprint, time.time())
            if self._is_owned(look.path):
                self._miss(look.path, Notice.ASKED)
            elif look.writer is not False or young or look.path in self.settling:
                self._notice_wish(look.path, force=force)
            else:
                self._wishes[look.path] = force
                await self._decide(look, known.get(look.path), found=False)

    def _notice_wish(self, path: bytes, *, force: bool) -> bool:
        """Have a path settle, and remember that somebody asks for it; return whether that was possible."""
        self.notice(path, Notice.FOUND)
        if path not in self.settling:
            return False
        self._wishes[path] = force
        return True

    # The loop

    async def run(self) -> None:
        """Look at what is new and what is due, for ever."""
        while True:
            await self._wait()
            try:
                async with self._deciding:
                    if self._withdrawal.is_due:
                        await self._withdrawal.look()
                    if due := self.settling.due(time.monotonic(), GROUP):
                        await self._look_closely(due)
            except OSError as error:
                self._parts.observer.defect(error)
                await asyncio.sleep(1.0)

    async def close(self) -> None:
        """End what is being examined, and the thread."""
        tasks = [*self._examined.values(), *self._retries]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._surveyor.close()

    def tell_unsettled(self) -> None:
        """Report files that never rest, each once."""
        for path, seconds in self.settling.never_resting(time.monotonic()):
            self._parts.observer.unsettled(path, seconds)

    async def _wait(self) -> None:
        """Wait until there is something to look at."""
        while not self._withdrawal.is_due:
            due = self.settling.next_due()
            timeout = None if due is None else due - time.monotonic()
            if timeout is not None and timeout <= 0:
                return
            self._wake.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self._wake.wait()
            except TimeoutError:
                return

    async def _look_closely(self, paths: Sequence[bytes]) -> None:
        """Look at paths whose quiet time has passed, and decide about those that rest."""
        asked = time.monotonic()
        looks, known = await self._survey(paths)
        now, wall = time.monotonic(), time.time()
        seen = {look.path: look for look in looks}
        for path in paths:
            restless = self.settling.get(path)
            if restless is None or restless.due > asked:  # a notice came since, and the look may be older than it
                continue
            if (look := seen.get(path)) is None:  # a directory without permission, an I/O error
                self.settling.drop(path)
                self._wishes.pop(path, None)
                self._parts.observer.unseen(path)
                continue
            if look.fingerprint is None or look.refusal is not None:
                self.settling.drop(look.path)
            elif not self.settling.rests(look.path, look.fingerprint, writer=look.writer, now=now, wall=wall):
                continue
            try:
                await self._decide(look, doubted(known.get(look.path), restless.notice), found=restless.found)
            except OSError as error:
                self._parts.observer.defect(error)

    async def _survey(self, paths: Sequence[bytes]) -> tuple[list[Look], dict[bytes, Entry]]:
        return await self._surveyor.look(paths, closely=True), await self._withdrawal.lookup(paths)

    # Decisions carried out

    def _is_owned(self, path: bytes) -> bool:
        return self._parts.queue.holds(path) or path in self._examined

    def _miss(self, path: bytes, notice: Notice) -> None:
        """Keep a notice until the path's owner lets go: the last one, and before it that content was written."""
        written = notice is not Notice.MODIFIED and Notice.MODIFIED in self._missed.get(path, ())
        self._missed[path] = (Notice.MODIFIED, notice) if written else (notice,)

    async def _decide(self, look: Look, entry: Entry | None, *, found: bool) -> None:
        path = look.path
        if self._is_owned(path):
            self._miss(path, Notice.FOUND)
            return
        reach("settled")
        verdict = judge(look, entry, republish_missing=self._republish_missing)
        if (force := self._wishes.pop(path, None)) is not None:
            verdict = insist(verdict, look, entry, force=force)
        if verdict is not Verdict.NOTHING:
            self._withdraw_note(entry)
        match verdict:
            case Verdict.NOTHING:
                self._parts.observer.unchanged(path, look.refusal)
            case Verdict.FORGET:
                self._parts.journal.forget([path])
                reach("forgotten")
                self._parts.observer.gone(path)
            case Verdict.REFUSE:
                await self._refuse(look, entry)
            case Verdict.EXAMINE:
                self._begin_examination(look, entry, found=found)
            case Verdict.ADMIT:
                await self._admit(look, entry, found=found)

    async def _refuse(self, look: Look, entry: Entry | None) -> None:
        """Leave a file alone that can't be signed for what it is; say so once, however often it changes."""
        if entry is not None and entry.state is State.SIGNED:
            await self._withdrawal.withdraw([look.path])
        assert look.fingerprint is not None, "what is refused is there"
        reason = look.refusal or ""
        self._parts.journal.refuse(look.path, look.fingerprint, reason)
        reach("refused")
        if entry is None or entry.state is not State.REFUSED or entry.reason != reason:
            self._parts.observer.refused(look.path, reason)

    async def _admit(self, look: Look, entry: Entry | None, *, found: bool) -> None:
        """Queue a new version, without the signature of an older one beside it."""
        if look.sign_mtime_ns is not None:
            if entry is not None and entry.state is State.SIGNED:
                self._parts.observer.changed(look.path)
            await self._withdrawal.withdraw([look.path])
        assert look.fingerprint is not None, "what is admitted is there"
        drop = Drop(look.path, look.fingerprint, 0, time.time(), self._parts.journal.next_ticket())
        self._parts.journal.queue(drop)
        reach("queued")
        self._parts.queue.put(drop)
        reach("lined_up")
        self._parts.observer.queued(drop, found=found)

    def _withdraw_note(self, entry: Entry | None) -> None:
        """Remove the FILE.sign-error of a failure that no longer holds, or was about to be recorded at a crash."""
        if entry is not None and entry.state is not State.SIGNED:
            self._parts.outbox.remove_error(entry.path)

    def _begin_examination(self, look: Look, entry: Entry | None, *, found: bool) -> None:
        task = asyncio.create_task(self._examine(look, entry, found=found))
        self._examined[look.path] = task
        task.add_done_callback(lambda _: self._examination_over(look.path))

    def _examination_over(self, path: bytes) -> None:
        task = self._examined.pop(path)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._parts.observer.defect(error)
        self.released(path, moved_on=False)

    async def _examine(self, look: Look, entry: Entry | None, *, found: bool) -> None:
        """Read a file's content to tell whether its FILE.sign, or the journal's, is the one of this version."""
        async with self._examining:
            try:
                if entry is None or entry.signature_id is None:
                    done = await self._examiner.adopt(look)
                else:
                    done = await self._examiner.keep(look, entry)
            except MovedOnError:
                self._missed.setdefault(look.path, (Notice.FOUND,))
                return
            except OSError as error:
                self._examiner.defer_reading(look, error)
                return
            if not done:
                await self._admit(look, entry, found=found)
