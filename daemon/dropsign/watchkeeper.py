"""Sees to it that what is watched is what lies at the outbox's path, and says so when it is not."""

import asyncio

from dropsign.config import Outbox as Settings
from dropsign.errors import OutboxError
from dropsign.gate import Gate
from dropsign.intake import Intake
from dropsign.log import Log
from dropsign.metrics import Metrics
from dropsign.outbox import Outbox
from dropsign.rescan import Rescan
from dropsign.watcher import Batch, Loss, Watcher


class WatchKeeper:
    """Keeps a watcher alive; there is none where the outbox is polled."""

    def __init__(  # noqa: PLR0913 - what it connects
        self,
        settings: Settings,
        outbox: Outbox,
        *,
        intake: Intake,
        rescan: Rescan,
        gate: Gate,
        log: Log,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._outbox = outbox
        self._intake = intake
        self._rescan = rescan
        self._gate = gate
        self._log = log
        self._metrics = metrics
        self._watcher: Watcher | None = None
        self._degraded = False
        self.lost: str | None = None
        """Why the outbox is not watched just now; None while all is well."""

    async def arm(self) -> None:
        """Start watching, unless the outbox is polled.

        Raises:
            OutboxError: it cannot be watched.
        """
        if self._settings.watcher == "poll":
            return
        path = self._settings.path
        try:
            watcher = Watcher(path, recursive=self._settings.recursive, on_batch=self._on_batch, on_loss=self._on_loss)
        except OSError as error:
            msg = f"outbox.path: {path} cannot be watched: {error.strerror}"
            raise OutboxError(msg) from None
        try:
            await asyncio.to_thread(watcher.start)
        except OSError as error:
            watcher.close()
            msg = (
                f"outbox.path: {path} cannot be watched: {error.strerror}; "
                'raise fs.inotify.max_user_instances and max_user_watches, or set outbox.watcher = "poll"'
            )
            raise OutboxError(msg) from None
        self._watcher = watcher

    async def close(self) -> None:
        """Stop watching."""
        if self._watcher is not None:
            await asyncio.to_thread(self._watcher.close)

    @property
    def is_alive(self) -> bool:
        """Tell whether the watcher lives, or is known to be lost and being brought back."""
        return self._watcher is None or self.lost is not None or self._watcher.healthy()

    async def check(self) -> None:
        """Find out whether the outbox is still there and watched; bring it back if it is not."""
        there = await asyncio.to_thread(self._outbox.is_there)
        watched = self._watcher is None or self._watcher.healthy()
        if there and watched and self.lost is None:
            return
        reason = "watcher_died" if there else "outbox_gone"
        if self.lost is None or (not there and self.lost != reason):  # the watcher's end may be seen first
            self.lost = reason
            self._log.error("watch.lost", reason=self.lost, outbox=str(self._outbox.root))
            if not there:
                self._gate.hold("outbox", f"{self._outbox.root} is not there")
        try:
            if not there:
                self._outbox.reopen()
            if self._watcher is not None:
                await asyncio.to_thread(self._watcher.close)
                await self.arm()
        except OutboxError:
            return
        self.lost = None
        self._gate.release("outbox")
        self._log.info("watch.restored", outbox=str(self._outbox.root))
        self._rescan.request()

    def _on_batch(self, batch: Batch) -> None:
        notice = self._intake.notice
        for path, kind in batch:
            notice(path, kind)

    def _on_loss(self, loss: Loss, detail: str) -> None:
        self._metrics.overflows.inc()
        if loss is Loss.OVERFLOW:
            self._log.warning("watch.overflow", reason=str(loss))
        elif loss is Loss.WATCH and not self._degraded:
            self._degraded = True
            hint = "raise fs.inotify.max_user_watches; until then scans find what lies there"
            self._log.warning("watch.degraded", reason=str(loss), error=detail, remedy=hint)
        self._rescan.request()
