"""Sees to it that what is watched is what lies at the outbox's path, polls what cannot be watched, and says so."""

import asyncio
import errno
import time
from typing import Final

from dropsign.config import Outbox as Settings
from dropsign.contention import Contention
from dropsign.errors import OutboxError
from dropsign.gate import Gate
from dropsign.intake import Intake
from dropsign.log import Log
from dropsign.metrics import Metrics
from dropsign.model import Notice
from dropsign.outbox import Outbox
from dropsign.rescan import Rescan
from dropsign.watcher import Batch, Loss, Watcher

_LIMITS: Final = {errno.ENOSPC: "fs.inotify.max_user_watches", errno.EMFILE: "fs.inotify.max_user_instances"}
"""What runs out when nothing can be watched at all."""


class WatchKeeper:
    """Keeps a watcher alive, and looks itself where notices do not come from."""

    def __init__(  # noqa: PLR0913 - what it connects
        self,
        settings: Settings,
        outbox: Outbox,
        *,
        intake: Intake,
        rescan: Rescan,
        gate: Gate,
        contention: Contention,
        log: Log,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._outbox = outbox
        self._intake = intake
        self._rescan = rescan
        self._gate = gate
        self._contention = contention
        self._log = log
        self._metrics = metrics
        self._watcher: Watcher | None = None
        self._is_watched = True
        self._degraded = False
        self._cause = ""
        self._arming = asyncio.Lock()
        self.lost: str | None = None
        """Why the outbox cannot be served just now; None while all is well."""

    async def arm(self) -> None:
        """Start watching, unless the outbox is polled; if the kernel gives no watch, it is polled until it does.

        Raises:
            OutboxError: it cannot be watched for another reason.
        """
        if self._settings.watcher == "poll":
            return
        path, watcher, self._watcher = self._settings.path, None, None
        try:
            watcher = Watcher(path, recursive=self._settings.recursive, on_batch=self._on_batch, on_loss=self._on_loss)
            await asyncio.to_thread(watcher.start)
        except OSError as error:
            if watcher is not None:
                watcher.close()
            if error.errno not in _LIMITS:
                msg = f"outbox.path: {path} cannot be watched: {error.strerror}"
                raise OutboxError(msg) from None
            self._degrade(Loss.LIMIT, error.strerror or str(error), f"raise {_LIMITS[error.errno]}")
        else:
            self._watcher = watcher

    async def close(self) -> None:
        """Stop watching."""
        if self._watcher is not None:
            await asyncio.to_thread(self._watcher.close)

    @property
    def is_alive(self) -> bool:
        """Tell whether the watcher lives, and watched the outbox at the last check, or is being brought back."""
        return self._watcher is None or self.lost is not None or (self._is_watched and self._watcher.is_reading)

    def ping(self) -> None:
        """Ask the watcher's thread for a sign of life."""
        if self._watcher is not None:
            self._watcher.ping()

    @property
    def has_answered(self) -> bool:
        """Whether the watcher gave a sign of life since it was asked for one; who polls has none to give."""
        return self._watcher is None or self._watcher.has_answered

    async def check(self) -> None:
        """Find out whether the outbox is still there and watched; bring it back if it is not."""
        async with self._arming:
            absence, self._is_watched = await asyncio.to_thread(self._look)
            if absence is None and self._is_watched and self.lost is None:
                if self._watcher is not None and await asyncio.to_thread(self._watcher.follow_mounts):
                    self._rescan.request()
                return
            if absence is not None:
                self._lose("outbox_gone", absence)
                self._gate.hold("outbox", absence)
            elif self.lost is None:
                self._lose("watcher_died", f"no notices come any more: {self._cause or 'the watch is gone'}")
                self._cause = ""
            try:
                if absence is not None:
                    await asyncio.to_thread(self._outbox.reopen)
                if self._watcher is not None:
                    await asyncio.to_thread(self._watcher.close)
                await self.arm()
            except OutboxError as error:
                self.lost = str(error)
                return
            self.lost, self._is_watched = None, True
            self._gate.release("outbox")
            self._log.info("watch.restored", outbox=str(self._outbox.root))
            self._rescan.request()

    def _look(self) -> tuple[str | None, bool]:
        """Return why the outbox is not there, if it is not, and whether it is watched; blocks."""
        return self._outbox.absence(), self._watcher is None or self._watcher.healthy()

    async def poll(self) -> None:
        """Look where no notices come from, every so often, and try again to have them; for ever."""
        while True:
            await asyncio.sleep(self._settings.poll_seconds)
            if self.lost is not None or not self._unwatched:
                continue
            if self._settings.watcher != "poll":
                await self._mend()
            if readable := [path for path, loss in self._unwatched.items() if loss is not Loss.ACCESS]:
                await self._rescan.poll(readable)

    @property
    def _unwatched(self) -> dict[bytes, Loss]:
        """The directories that no notices come from, nor from below them; b"" is the whole outbox."""
        return {b"": Loss.LIMIT} if self._watcher is None else self._watcher.unwatched

    async def _mend(self) -> None:
        """Try to watch what is not watched yet."""
        async with self._arming:
            try:
                if self._watcher is None:
                    await self.arm()
                else:
                    await asyncio.to_thread(self._watcher.mend)
            except OutboxError:  # it vanished meanwhile, and the next check says so
                return
            if self._degraded and {Loss.ACCESS}.issuperset(self._unwatched.values()):
                self._degraded = False
                self._log.info("watch.restored", outbox=str(self._outbox.root))
                self._rescan.request()

    def _lose(self, reason: str, error: str) -> None:
        if self.lost is None:
            self._log.error("watch.lost", reason=reason, error=error, outbox=str(self._outbox.root))
        self.lost = error

    def _degrade(self, loss: Loss, error: str, remedy: str) -> None:
        """Say that something is polled that was to be watched; once, until all is watched."""
        if not self._degraded:
            self._degraded = True
            text = f"{remedy}; until then it is polled every {self._settings.poll_seconds:g} s"
            self._log.warning("watch.degraded", reason=str(loss), error=error, remedy=text)

    def _on_batch(self, batch: Batch) -> None:
        notice = self._intake.notice
        for path, kind in batch:
            if kind is not Notice.BESIDE or not self._contention.is_on(path, time.monotonic()):
                notice(path, kind)

    def _on_loss(self, loss: Loss, detail: str) -> None:
        if loss is Loss.OVERFLOW:
            self._metrics.overflows.inc()
            self._log.warning("watch.overflow", reason=str(loss))
        elif loss is Loss.READER:
            self._cause = f"the watcher's thread ended, {detail}"
        elif loss is Loss.LIMIT:
            self._degrade(loss, detail, f"raise {_LIMITS[errno.ENOSPC]}")
        elif loss is Loss.WATCH:
            self._degrade(loss, detail, "see that the kernel can watch it")
        # Of a directory that may not be read, the scan tells that is asked for here.
        self._rescan.request()
