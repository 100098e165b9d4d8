"""The daemon: builds everything, in order; signals, reload, supervision; stops everything, in order."""

import asyncio
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from dropsign import __version__, config, credentials
from dropsign.api import Api, Sources, describe
from dropsign.config import Configuration
from dropsign.credentials import Credentials
from dropsign.errors import ConfigurationError, DropsignError, ExitCode, OutboxError, SigningError
from dropsign.filters import Filters
from dropsign.gate import Closed
from dropsign.journal import Journal
from dropsign.log import Log
from dropsign.metrics import Metrics
from dropsign.model import State
from dropsign.notify import Notifier
from dropsign.outbox import Outbox
from dropsign.pipeline import Doors, Listeners, Pipeline
from dropsign.report import Report
from dropsign.rescan import Finished
from dropsign.signer import Signer
from dropsign.status import GateStatus, Status
from dropsign.verifier import Verifier
from dropsign.watcher import Batch, Loss, Watcher

T = TypeVar("T")

SUPERVISION_SECONDS: Final = 2.0
"""How often threads, outbox and certificate files are looked at."""

EXPIRY_WARNING_DAYS: Final = 14

_HANDSHAKE_REASONS: Final = frozenset({"unreachable", "tls", "credentials"})
"""Why the gate may be closed that a handshake alone can disprove."""

_SWITCH_SECONDS: Final = 0.001
"""How long one thread may keep the others from Python's interpreter: the loop hands work to threads all the time,
and the default of 5 ms would be felt in every hand-over."""


class Daemon:
    """One outbox, served until a signal says stop."""

    def __init__(self, path: Path, environment: Mapping[str, str], log: Log, configuration: Configuration) -> None:
        self._path = path
        self._environment = environment
        self._log = log
        self._configuration = configuration
        self._notifier = Notifier(environment)
        self._metrics = Metrics(__version__)
        self._report = Report(log, self._metrics)
        self._started = time.monotonic()
        self._stop = asyncio.Event()
        self._cut_short = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._watcher: Watcher | None = None
        self._lost: str | None = None
        self._warned: set[str] = set()

    async def run(self) -> int:
        """Serve; return the exit code.

        Raises:
            DropsignError: the daemon cannot start.
        """
        sys.setswitchinterval(_SWITCH_SECONDS)
        self._log.info("daemon.starting", version=__version__, outbox=str(self._configuration.outbox.path))
        self._open()
        try:
            await self._start()
            await self._stop.wait()
        finally:
            await self._shut_down()
        return ExitCode.DONE

    # Start

    def _open(self) -> None:
        """Open all doors; what was opened is closed again if one stays shut."""
        configuration = self._configuration
        self._credentials = credentials.load(configuration, self._environment)
        verify = configuration.verify
        verifier = Verifier.load(verify.key, verify.scheme) if verify.key is not None else None
        loop = asyncio.get_running_loop()
        outbox = Outbox(
            configuration.outbox.path,
            sign_mode=int(configuration.outbox.sign_mode, 8),
            max_bytes=int(configuration.outbox.max_file_mib * 1024 * 1024),
        )
        outbox.lock()
        journal = Journal(
            configuration.journal.path,
            on_trouble=partial(self._in_loop, loop, self._on_journal_trouble),
            on_defect=partial(self._in_loop, loop, self._report.defect),
        )
        self._signer = Signer(configuration.service, self._credentials)
        self._pipeline = Pipeline(
            configuration,
            Doors(outbox, journal, self._signer, verifier),
            Listeners(
                observer=self._report,
                gate_closed=self._report.gate_closed,
                gate_opened=lambda closed, seconds: self._report.gate_opened(closed, seconds, self._waiting),
                before_probe=self._reread_credentials,
                scan_finished=self._on_scan,
            ),
        )
        self._outbox, self._journal = outbox, journal
        self._say_credentials()

    @staticmethod
    def _in_loop(loop: asyncio.AbstractEventLoop, callback: Callable[[T], None], value: T) -> None:
        """Call back in the event loop, from another thread."""
        loop.call_soon_threadsafe(callback, value)

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        signal.signal(signal.SIGIO, signal.SIG_IGN)  # a broken lease of ours would end the process
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._spawn(self._reload()))
        loop.add_signal_handler(signal.SIGUSR1, self._pipeline.rescan.request)
        self._watch_metrics()
        self._api = Api(self._sources())
        await self._api.start(self._configuration.http.socket, self._configuration.http.listen)
        await self._arm()
        self._pipeline.pool.start()
        self._spawn(self._pipeline.intake.run())
        self._spawn(self._pipeline.rescan.run())
        self._spawn(self._supervise())
        self._spawn(self._requeue())
        self._spawn(self._probe_when_idle())
        self._spawn(self._try_service())
        _calm_collector()
        self._notifier.ready("watching")
        self._log.info(
            "daemon.ready", outbox=str(self._outbox.root), duration_ms=round((time.monotonic() - self._started) * 1000)
        )

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._report.defect(error)
            self._stop.set()  # a supervisor restarts what cannot go on

    async def _arm(self) -> None:
        """Start watching, unless the outbox is polled."""
        outbox = self._configuration.outbox
        if outbox.watcher == "poll":
            return
        watcher = Watcher(outbox.path, recursive=outbox.recursive, on_batch=self._on_batch, on_loss=self._on_loss)
        try:
            await asyncio.to_thread(watcher.start)
        except OSError as error:
            watcher.close()
            msg = (
                f"outbox.path: {outbox.path} cannot be watched: {error.strerror}; "
                'raise fs.inotify.max_user_instances and max_user_watches, or set outbox.watcher = "poll"'
            )
            raise OutboxError(msg) from None
        self._watcher = watcher

    def _on_batch(self, batch: Batch) -> None:
        notice = self._pipeline.intake.notice
        for path, kind in batch:
            notice(path, kind)

    def _on_loss(self, loss: Loss, detail: str) -> None:
        self._metrics.overflows.inc()
        if loss is Loss.OVERFLOW:
            self._log.warning("watch.overflow", reason=str(loss))
        elif loss is Loss.WATCH and "watch" not in self._warned:
            self._warned.add("watch")
            hint = "raise fs.inotify.max_user_watches; until then scans find what lies there"
            self._log.warning("watch.degraded", reason=str(loss), error=detail, remedy=hint)
        self._pipeline.rescan.request()

    # Supervision

    async def _supervise(self) -> None:
        interval = SUPERVISION_SECONDS
        if (wanted := self._notifier.watchdog_seconds) is not None:
            interval = min(interval, wanted / 3)
        while True:
            await self._check_watch()
            await self._check_certificates()
            self._pipeline.intake.tell_unsettled()
            closed = self._pipeline.gate.closed
            if closed is not None and self._pipeline.policy.summary_due(time.monotonic()):
                self._report.gate_waiting(closed, self._waiting)
            if self._healthy():
                self._notifier.alive()
            self._notifier.status((await self._status()).as_line())
            await asyncio.sleep(interval)

    def _healthy(self) -> bool:
        return self._journal.is_alive and (self._watcher is None or self._lost is not None or self._watcher.healthy())

    async def _check_watch(self) -> None:
        """See to it that what is watched is what lies at the outbox's path."""
        there = await asyncio.to_thread(self._outbox.is_there)
        watched = self._watcher is None or self._watcher.healthy()
        if there and watched and self._lost is None:
            return
        if self._lost is None:
            self._lost = "outbox_gone" if not there else "watcher_died"
            self._log.error("watch.lost", reason=self._lost, outbox=str(self._outbox.root))
            self._pipeline.gate.hold("outbox", f"{self._outbox.root} is not there")
        try:
            if not there:
                self._outbox.reopen()
            if self._watcher is not None:
                self._watcher.close()
                await self._arm()
        except OutboxError:
            return
        self._lost = None
        self._pipeline.gate.release("outbox")
        self._log.info("watch.restored", outbox=str(self._outbox.root))
        self._pipeline.rescan.request()

    async def _check_certificates(self) -> None:
        """Take up credentials that changed on disk, after a trial handshake; warn of certificates that end soon."""
        if self._credentials.changed_on_disk():
            await self._reread_credentials()
        for which, ends in self._credentials.certificates.items():
            days = (ends - datetime.now(UTC)).days
            if days < EXPIRY_WARNING_DAYS and which not in self._warned:
                self._warned.add(which)
                self._log.warning("credentials.expiring", which=which, days=days, expires=ends.isoformat())

    async def _reread_credentials(self) -> None:
        """Use the credentials that now lie on disk, if they are others and good."""
        if not self._credentials.changed_on_disk():
            return
        try:
            fresh = await asyncio.to_thread(credentials.load, self._configuration, self._environment)
        except ConfigurationError as error:
            if str(error) not in self._warned:
                self._warned.add(str(error))
                self._log.error("credentials.refused", error=str(error))
            return
        if self._pipeline.gate.closed is None:
            try:
                await self._signer.handshake(fresh)
            except SigningError as error:
                if str(error) not in self._warned:
                    self._warned.add(str(error))
                    self._log.error("credentials.refused", error=str(error), reason=error.reason)
                return
        await self._use(fresh)

    async def _use(self, fresh: Credentials) -> None:
        self._credentials = fresh
        self._warned.clear()
        await self._signer.renew(fresh)
        self._say_credentials()

    def _say_credentials(self) -> None:
        ends = {which: end.isoformat() for which, end in self._credentials.certificates.items()}
        self._log.info("credentials.loaded", expires=ends)
        for which, end in self._credentials.certificates.items():
            self._metrics.expiry.labels(which=which).set(end.timestamp())

    async def _requeue(self) -> None:
        """Queue deferred drops when their time has come."""
        while True:
            wait = await self._pipeline.requeue_rested()
            await asyncio.sleep(min(1.0, 1.0 if wait is None else max(wait, 0.05)))

    async def _try_service(self) -> None:
        """Find out at start whether the service can be reached, before the first file needs it."""
        try:
            await self._signer.handshake()
        except SigningError as error:
            self._pipeline.gate.fault(error)

    async def _probe_when_idle(self) -> None:
        """While the gate is closed and no file waits at it, shake hands in a file's stead."""
        gate = self._pipeline.gate
        while True:
            await asyncio.sleep(0.5)
            closed = gate.closed
            if closed is None or closed.reason not in _HANDSHAKE_REASONS or self._pipeline.parts.queue:
                continue
            async with gate.passage():
                if gate.closed is None:
                    continue
                try:
                    await self._signer.handshake()
                except SigningError as error:
                    gate.fault(error)
                else:
                    gate.answered()

    def _on_journal_trouble(self, text: str | None) -> None:
        if text is None:
            self._pipeline.gate.release("journal")
        else:
            self._pipeline.gate.hold("journal", f"{self._journal.path}: {text}")

    def _on_scan(self, finished: Finished) -> None:
        self._metrics.scan.set(finished.seconds)
        polling = self._configuration.outbox.watcher == "poll"
        say = self._log.debug if polling and not finished.tally.differences else self._log.info
        say(
            "scan.finished",
            files=finished.tally.files,
            directories=finished.tally.directories,
            differences=finished.tally.differences,
            unreadable=finished.tally.unreadable,
            duration_ms=round(finished.seconds * 1000, 3),
        )

    # Reload

    async def _reload(self) -> None:
        """Take up a new configuration, as far as that can be done in full flight; a broken one is refused."""
        self._notifier.reloading()
        try:
            fresh = await asyncio.to_thread(config.load, self._path, self._environment)
            loaded = await asyncio.to_thread(credentials.load, fresh, self._environment)
            filters = Filters(fresh.outbox.include, fresh.outbox.exclude)
        except DropsignError as error:
            self._log.error("daemon.reload_refused", error=str(error))
        else:
            old, self._configuration = self._configuration, fresh
            self._pipeline.intake.filters = filters
            await self._use(loaded)
            self._log.info("daemon.reloaded", needs_restart=needs_restart(old, fresh))
            self._pipeline.rescan.request()
        self._notifier.ready("watching")

    # Answers

    @property
    def _waiting(self) -> int:
        return len(self._pipeline.queue)

    def _watch_metrics(self) -> None:
        metrics = self._metrics
        metrics.watch(metrics.in_flight, lambda: self._pipeline.pool.in_flight)
        metrics.watch(metrics.watcher_alive, lambda: float(self._healthy()))

    def _sources(self) -> Sources:
        return Sources(
            status=self._status,
            healthy=self._healthy,
            exposition=self._exposition,
            entries=self._journal.entries,
            lookup=self._lookup,
            retry=self._retry,
            rescan=self._pipeline.rescan.request,
        )

    async def _exposition(self) -> bytes:
        status = await self._status()
        self._metrics.backlog.set(status.backlog)
        self._metrics.failed.set(status.failed)
        self._metrics.oldest.set(status.oldest_waiting_seconds or 0)
        return self._metrics.exposition()

    async def _lookup(self, paths: Sequence[bytes]) -> list[dict[str, Any]]:
        known = await self._journal.lookup(paths)
        settling = self._pipeline.intake.settling
        return [
            {**(describe(known[path]) if path in known else {"path": os.fsdecode(path), "state": None}),
             "settling": path in settling}
            for path in paths
        ]  # fmt: skip

    async def _retry(self, paths: Sequence[bytes] | None, force: bool) -> int:  # noqa: FBT001 - called by position
        if paths is None:
            paths = [entry.path for entry in await self._journal.entries(State.FAILED, 1_000_000)]
        intake = self._pipeline.intake
        paths = [path for path in paths if intake.filters.accepts(path)]
        await intake.take_in(paths, force=force)
        return len(paths)

    def _reasons(self) -> list[str]:
        reasons = []
        if self._lost is not None:
            reasons.append(f"the outbox is lost: {self._lost}")
        if self._pipeline.rescan.last is None:
            reasons.append("the first scan is not finished")
        if (closed := self._pipeline.gate.closed) is not None:
            reasons.append(f"the gate is closed: {closed.reason}")
        if any(ends <= datetime.now(UTC) for ends in self._credentials.certificates.values()):
            reasons.append("a certificate has expired")
        return reasons

    async def _status(self) -> Status:
        pipeline, closed = self._pipeline, self._pipeline.gate.closed
        counts = await self._journal.counts()
        oldest = await self._journal.oldest_waiting()
        last = pipeline.rescan.last
        reasons = self._reasons()
        return Status(
            running=True,
            version=__version__,
            outbox=str(self._outbox.root),
            ready=not reasons,
            not_ready_reasons=reasons,
            backlog=counts[State.QUEUED] + counts[State.DEFERRED] + len(pipeline.intake.settling),
            settling=len(pipeline.intake.settling),
            in_flight=pipeline.pool.in_flight,
            concurrency=self._configuration.service.concurrency,
            signed=counts[State.SIGNED],
            failed=counts[State.FAILED],
            refused=counts[State.REFUSED],
            deferred=counts[State.DEFERRED],
            oldest_waiting_seconds=None if oldest is None else max(0.0, time.time() - oldest),
            signed_per_second=round(self._report.rate.per_second(time.monotonic()), 3),
            uptime_seconds=round(time.monotonic() - self._started, 3),
            gate=_gate_status(closed, pipeline.gate.next_probe_seconds),
            certificates={which: ends.isoformat() for which, ends in self._credentials.certificates.items()},
            last_scan=None
            if last is None
            else {"at": last.at, "seconds": last.seconds, "files": last.tally.files, "found": last.tally.differences},
        )

    # Stop

    def _on_stop(self) -> None:
        if self._stop.is_set():
            self._cut_short.set()
        self._stop.set()

    async def _shut_down(self) -> None:
        grace = self._configuration.daemon.grace_seconds
        self._notifier.stopping("stopping", grace)
        self._log.info("daemon.stopping", in_flight=self._pipeline.pool.in_flight)
        if self._watcher is not None:
            await asyncio.to_thread(self._watcher.close)
        for task in self._tasks:
            task.remove_done_callback(self._on_task_done)
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        stopping = asyncio.create_task(self._pipeline.stop(grace))
        cut = asyncio.create_task(self._cut_short.wait())
        await asyncio.wait({stopping, cut}, return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            await self._pipeline.pool.stop(0)
            await stopping
        cut.cancel()
        await self._signer.close()
        if hasattr(self, "_api"):
            await self._api.close()
        await asyncio.to_thread(self._journal.close)
        self._outbox.close()
        self._log.info("daemon.stopped")


def needs_restart(old: Configuration, new: Configuration) -> list[str]:
    """Name the keys that differ and are not taken up by a reload."""
    live = {"outbox.include", "outbox.exclude"}
    names = []
    for section in Configuration.model_fields:
        if section == "tls":
            continue
        before, after = getattr(old, section), getattr(new, section)
        for key in type(before).model_fields:
            name = f"{section}.{key}"
            if name not in live and not key.startswith("app_") and getattr(before, key) != getattr(after, key):
                names.append(name)
    return names


def _calm_collector() -> None:
    """Keep Python's cycle collector from walking all that lives for ever, again and again, in a burst.

    Measured: a quarter of the loop's time in a burst of small files, with the defaults.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _gate_status(closed: Closed | None, next_probe: float | None) -> GateStatus:
    if closed is None:
        return GateStatus()
    return GateStatus(True, closed.reason, closed.detail, time.time() - closed.since, next_probe)  # noqa: FBT003
