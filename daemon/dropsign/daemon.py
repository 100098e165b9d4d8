"""The daemon: builds everything, in order; signals and reload; stops everything, in order."""

import asyncio
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from dropsign import __version__, config, memory
from dropsign.answers import Answers
from dropsign.api import Api
from dropsign.auditing import Auditing
from dropsign.config import Configuration
from dropsign.descriptors import SHORTAGE, are_exhausted
from dropsign.discretion import named_paths
from dropsign.errors import DropsignError, ExitCode, SigningError, is_shortage
from dropsign.filters import Filters
from dropsign.journal import Journal
from dropsign.liveness import Liveness
from dropsign.log import Log
from dropsign.metrics import Metrics
from dropsign.notify import Notifier
from dropsign.outbox import Outbox
from dropsign.pipeline import Doors, Listeners, Pipeline
from dropsign.report import Report
from dropsign.rescan import Finished
from dropsign.rotation import Rotation
from dropsign.signer import Signer
from dropsign.trouble import Trouble
from dropsign.verifier import Verifier
from dropsign.watchkeeper import WatchKeeper

T = TypeVar("T")

SUPERVISION_SECONDS: Final = 2.0
"""How often threads, outbox and certificate files are looked at."""

_STATUS_SECONDS: Final = 1.0

_HANDSHAKE_REASONS: Final = frozenset({"unreachable", "tls", "credentials", "resources"})
"""Why the gate may be closed that a handshake alone can disprove."""

_SWITCH_SECONDS: Final = 0.001
"""How long one thread may keep the others from Python's interpreter: the loop hands work to threads all the time,
and the default of 5 ms would be felt in every hand-over."""


class Daemon:
    """One outbox, served until a signal says stop."""

    def __init__(self, path: Path, environment: Mapping[str, str], log: Log, configuration: Configuration) -> None:
        """Open all doors.

        Args:
            path: where the configuration came from, for reloads.
            environment: of the process.
            log: where to tell what happens.
            configuration: as it was loaded.

        Raises:
            DropsignError: one of them stays shut; the process is to end.
        """
        sys.setswitchinterval(_SWITCH_SECONDS)
        memory.economise()
        self._path = path
        self._environment = environment
        self._log = log
        self._configuration = self._started_with = configuration
        self._reloading = asyncio.Lock()
        self._backlog = 0
        self._started = time.monotonic()
        self._stop = asyncio.Event()
        self._cut_short = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._exit_code = ExitCode.DONE
        log.info("daemon.starting", version=__version__, outbox=str(configuration.outbox.path))
        self._notifier = Notifier(environment)
        self._report = Report(log, Metrics(__version__))
        self._rotation = Rotation(
            configuration, environment, log=log, metrics=self._report.metrics, on_defect=self._report.defect
        )
        self._signer = Signer(configuration.service, self._rotation.current)
        self._pipeline = self._build(configuration)
        if (most := self._pipeline.pool.concurrency) < configuration.service.concurrency:
            text = f"the limit of open files is enough for {most} requests at a time"
            log.warning("daemon.limited", error=text, remedy="raise it: LimitNOFILE= in the unit, or ulimit -n")
        self._keeper = WatchKeeper(
            configuration.outbox,
            self._pipeline.parts.outbox,
            intake=self._pipeline.intake,
            rescan=self._pipeline.rescan,
            gate=self._pipeline.gate,
            contention=self._pipeline.parts.contention,
            log=log,
            metrics=self._report.metrics,
        )
        self._auditing = Auditing(self._pipeline.parts.journal, log, configuration.journal.keep_days)
        self._liveness = Liveness(self._pipeline.parts.journal, self._keeper)
        self._answers = Answers(self._pipeline, self._keeper, self._liveness, self._rotation, self._report)
        self._api = Api(self._answers.sources(), {path, *named_paths(configuration)})

    def _build(self, configuration: Configuration) -> Pipeline:
        verify, loop = configuration.verify, asyncio.get_running_loop()
        verifier = Verifier.load(verify.key, verify.scheme) if verify.key is not None else None
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
        listeners = Listeners(
            observer=self._report,
            gate_closed=self._report.gate_closed,
            gate_opened=lambda closed, seconds: self._report.gate_opened(closed, seconds, self._waiting),
            before_probe=self._before_probe,
            scan_finished=self._on_scan,
        )
        return Pipeline(configuration, Doors(outbox, journal, self._signer, verifier), listeners)

    async def _before_probe(self) -> None:
        await self._rotation.check(self._signer, trial=lambda: False)

    @staticmethod
    def _in_loop(loop: asyncio.AbstractEventLoop, callback: Callable[[T], None], value: T) -> None:
        """Call back in the event loop, from another thread."""
        loop.call_soon_threadsafe(callback, value)

    async def run(self) -> int:
        """Serve; return the exit code.

        Raises:
            DropsignError: the daemon cannot start.
        """
        try:
            await self._start()
            await self._stop.wait()
        finally:
            await self._shut_down()
        return self._exit_code

    async def _start(self) -> None:
        self._listen_to_signals()
        asyncio.get_running_loop().set_exception_handler(self._on_loop_error)
        http = self._configuration.http
        await self._api.start(http.socket, http.listen)
        await self._keeper.arm()
        self._pipeline.pool.start(self._on_task_done)
        for service in (
            self._pipeline.intake.run(),
            self._pipeline.rescan.run(),
            self._keeper.poll(),
            self._live(),
            self._supervise(),
            self._pipeline.requeue_for_ever(),
            self._auditing.run(),
            self._probe_when_idle(),
        ):
            self._spawn(service)
        self._spawn(self._try_service())
        memory.calm_collector()
        self._notifier.ready("watching")
        milliseconds = round((time.monotonic() - self._started) * 1000)
        self._log.info("daemon.ready", outbox=str(self._configuration.outbox.path), duration_ms=milliseconds)

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        signal.signal(signal.SIGIO, signal.SIG_IGN)  # a broken lease of ours would end the process
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._spawn(self._reload()))
        loop.add_signal_handler(signal.SIGUSR1, self._pipeline.rescan.request)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # `run` has them wait until here

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._exit_code = ExitCode.SOME_FAILED
            self._stop.set()  # a supervisor restarts what cannot go on
            self._report.defect(error)

    # What runs beside the pipeline

    async def _live(self) -> None:
        """Give signs of life while the threads give theirs; waits for nothing that may take long in good health."""
        interval = SUPERVISION_SECONDS
        if (wanted := self._notifier.watchdog_seconds) is not None:
            interval = min(interval, wanted / 3)
        while True:
            self._liveness.check()
            if self._answers.healthy():
                self._notifier.alive()
            await asyncio.sleep(interval)

    async def _supervise(self) -> None:
        gate = self._pipeline.gate
        while True:
            self._watch_descriptors()
            await self._keeper.check()
            if await self._rotation.check(self._signer, trial=lambda: gate.closed is None):
                gate.hurry()
            self._rotation.warn_of_expiry()
            if await self._api.mend():
                self._log.warning("daemon.restored", error=f"{self._configuration.http.socket} was removed")
            self._pipeline.intake.tell_unsettled()
            if gate.closed is not None and gate.summary_due(time.monotonic()):
                self._report.gate_waiting(gate.closed, self._waiting)
            # A journal that cannot be written keeps all who ask it waiting; that must not look like death.
            with suppress(TimeoutError):
                async with asyncio.timeout(_STATUS_SECONDS):
                    status = await self._answers.status()
                    self._backlog = status.backlog
                    self._notifier.status(status.as_line())
            memory.collect()
            await asyncio.sleep(SUPERVISION_SECONDS)

    def _watch_descriptors(self) -> None:
        """Hold the gate shut while nothing more can be opened, even if nobody needs to just now."""
        if are_exhausted():
            self._pipeline.gate.hold("resources", SHORTAGE, by="descriptors")
        else:
            self._pipeline.gate.release("descriptors")

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
            if closed is None or closed.reason not in _HANDSHAKE_REASONS or self._pipeline.queue:
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

    # What is told

    def _on_loop_error(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Take in what nobody waits for; that nobody can connect to us for want of descriptors mends itself."""
        error = context.get("exception")
        if not is_shortage(error):
            self._report.defect(error if isinstance(error, Exception) else RuntimeError(context["message"]))

    @property
    def _waiting(self) -> int:
        """How many files wait: in memory now, or all of them a moment ago."""
        return max(len(self._pipeline.queue), self._backlog)

    def _on_journal_trouble(self, trouble: Trouble | None) -> None:
        self._pipeline.on_journal_trouble(trouble)  # which is made after the journal

    def _on_scan(self, finished: Finished) -> None:
        self._report.scan_finished(finished)

    async def _reload(self) -> None:
        """Take up a new configuration, as far as that can be done in full flight; a broken one is refused."""
        async with self._reloading:
            self._notifier.reloading()
            try:
                await self._take_up(await asyncio.to_thread(config.load, self._path, self._environment))
            except DropsignError as error:
                self._log.error("daemon.reload_refused", error=str(error))
            except Exception as error:  # noqa: BLE001 - whatever was written there, what is in use is good
                self._log.error("daemon.reload_refused", error=str(error))
                self._report.defect(error)
            self._notifier.ready("watching")

    async def _take_up(self, fresh: Configuration) -> None:
        gate = self._pipeline.gate
        recursive = self._pipeline.intake.filters.recursive  # what is watched changes with a restart only
        filters = Filters(fresh.outbox.include, fresh.outbox.exclude, recursive=recursive)
        await self._rotation.reload(fresh, self._signer, trial=gate.closed is None)
        self._configuration = fresh
        self._pipeline.intake.filters = filters
        self._log.info("daemon.reloaded", needs_restart=needs_restart(self._started_with, fresh))
        gate.hurry()
        self._pipeline.rescan.request()

    # Stop

    def _on_stop(self) -> None:
        if self._stop.is_set():
            self._cut_short.set()
        self._stop.set()

    async def _shut_down(self) -> None:
        grace = self._configuration.daemon.grace_seconds
        self._notifier.stopping("stopping", grace)
        self._log.info("daemon.stopping", in_flight=self._pipeline.pool.in_flight)
        await self._keeper.close()
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
        await self._api.close()
        with suppress(TimeoutError, DropsignError):  # a journal that cannot be written has no end to tell of
            async with asyncio.timeout(_STATUS_SECONDS):
                self._auditing.tell(await self._pipeline.parts.journal.head())
        await asyncio.to_thread(self._pipeline.parts.journal.close)
        self._pipeline.parts.outbox.close()
        self._log.info("daemon.stopped")


def needs_restart(old: Configuration, new: Configuration) -> list[str]:
    """Name the keys that differ and are not taken up by a reload."""
    live = {
        "outbox.include",
        "outbox.exclude",
        "service.app_key",
        "service.app_key_file",
        "service.app_secret_file",
        "daemon.grace_seconds",
    }
    names = []
    for section in sorted(set(Configuration.model_fields) - {"tls"}):
        before, after = getattr(old, section), getattr(new, section)
        differing = (key for key in type(before).model_fields if getattr(before, key) != getattr(after, key))
        names += [name for key in differing if (name := f"{section}.{key}") not in live]
    return names
