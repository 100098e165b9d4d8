"""Signs files and directories once, through the same chain as the daemon; or has the daemon do it, where one runs."""

import asyncio
import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final, Protocol

from dropsign import credentials
from dropsign.admission import is_adoptable
from dropsign.config import Configuration
from dropsign.control import Control
from dropsign.errors import OutboxError, OutboxLockedError, UnreachableError
from dropsign.filters import Filters
from dropsign.gate import Closed
from dropsign.journal import Journal
from dropsign.model import Drop, Look, Signature
from dropsign.outbox import Outbox
from dropsign.pipeline import Doors, Listeners, Pipeline
from dropsign.scan import below
from dropsign.signer import Signer
from dropsign.verifier import Verifier

PENDING_MOST: Final = 4096
"""Files taken in before the first of them are done."""

PATIENCE_SECONDS: Final = 60.0
"""How long an outage may last before a one-shot gives up."""

_CHUNK: Final = 256


class Listener(Protocol):
    """Who shows how it goes."""

    def found(self, number: int) -> None:
        """So many more files are to be looked at."""

    def finished(self, path: Path, outcome: str, detail: str | None) -> None:
        """A file is done with: signed, unchanged, adopted, republished, failed, refused or gone."""

    def waiting(self, reason: str | None) -> None:
        """The service does not answer, for a reason; None: it answers again."""


@dataclass
class Selection:
    """What of one directory is to be signed.

    Attributes:
        root: the directory that is the outbox for this run.
        directories: relative paths of directories to sign all of; b"" for the root.
        files: relative paths of single files.
        configured: whether the root is the configured outbox.
    """

    root: Path
    directories: list[bytes] = field(default_factory=list)
    files: list[bytes] = field(default_factory=list)
    configured: bool = False

    def paths(
        self, outbox: Outbox, filters: Filters, *, recursive: bool, on_unreadable: Callable[[Path], None]
    ) -> Iterator[bytes]:
        """Yield every file selected, each once; tell of directories that cannot be read."""

        def unreadable(directory: bytes) -> None:
            on_unreadable(self.root / os.fsdecode(directory))

        for directory in self.directories:
            for finding in below(outbox, filters, directory, recursive=recursive, on_unreadable=unreadable):
                yield finding.path
        covered = tuple(directory + b"/" if directory else b"" for directory in self.directories)
        for path in self.files:
            if not (covered and path.startswith(covered)):
                yield path


def select(paths: Sequence[Path], configuration: Configuration) -> list[Selection]:
    """Sort paths by the directory that is their outbox.

    Raises:
        OutboxError: one of them does not exist, or is neither a file nor a directory.
    """
    outbox = Path(os.path.realpath(configuration.outbox.path))
    selections: dict[Path, Selection] = {}
    for path in paths:
        absolute = Path(os.path.realpath(path.parent)) / path.name if path.name not in {"", ".."} else path.resolve()
        try:
            mode = absolute.stat().st_mode
        except OSError as error:
            msg = f"{path}: cannot be signed: {error.strerror}"
            raise OutboxError(msg) from None
        if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
            msg = f"{path}: is neither a file nor a directory"
            raise OutboxError(msg)
        whole = stat.S_ISDIR(mode) and not absolute.is_symlink()
        configured = absolute.is_relative_to(outbox)
        root = outbox if configured else absolute if whole else absolute.parent
        selection = selections.setdefault(root, Selection(root, configured=configured))
        relative = os.fsencode(absolute.relative_to(root))
        (selection.directories if whole else selection.files).append(b"" if relative == b"." else relative)
    return list(selections.values())


class OneShot:
    """Signs selections, one after the other, over one session."""

    def __init__(
        self, configuration: Configuration, environment: Mapping[str, str], listener: Listener, *, force: bool
    ) -> None:
        self._configuration = configuration
        self._environment = environment
        self._listener = listener
        self._force = force

    async def run(self, selections: Sequence[Selection]) -> None:
        """Sign everything selected.

        Raises:
            DropsignError: it cannot be begun, or the service does not answer.
        """
        for selection in selections:
            try:
                outbox = Outbox(
                    selection.root,
                    sign_mode=int(self._configuration.outbox.sign_mode, 8),
                    max_bytes=int(self._configuration.outbox.max_file_mib * 1024 * 1024),
                )
            except OutboxError as error:
                text = str(error).replace("outbox.path: ", "", 1)
                raise OutboxError(text) from None
            try:
                outbox.lock()
            except OutboxLockedError:
                if not selection.configured or self._configuration.http.socket is None:
                    raise
                await self._ask_daemon(selection, outbox, Control(self._configuration.http.socket))
            else:
                await self._sign(selection, outbox)
            finally:
                outbox.close()

    def _unreadable(self, directory: Path) -> None:
        self._listener.found(1)
        self._listener.finished(directory, "failed", "this directory cannot be read")

    async def _sign(self, selection: Selection, outbox: Outbox) -> None:
        configuration = self._configuration
        loaded = credentials.load(configuration, self._environment)
        verify = configuration.verify
        verifier = Verifier.load(verify.key, verify.scheme) if verify.key is not None else None
        loop = asyncio.get_running_loop()
        journal = Journal(
            configuration.journal.path if selection.configured else None,
            on_trouble=lambda trouble: loop.call_soon_threadsafe(pipeline.on_journal_trouble, trouble),
            purpose="sign",
        )
        signer = Signer(configuration.service, loaded)
        progress = _Progress(selection.root, self._listener)
        pipeline = Pipeline(
            configuration, Doors(outbox, journal, signer, verifier),
            Listeners(progress, progress.gate_closed, progress.gate_opened, _nothing, lambda _: None),
        )  # fmt: skip
        helpers: list[asyncio.Task[None]] = []
        try:
            await signer.handshake()
            pipeline.pool.start()
            helpers = [asyncio.create_task(pipeline.intake.run()), asyncio.create_task(_requeue(pipeline))]
            filters, recursive = pipeline.intake.filters, configuration.outbox.recursive
            paths = selection.paths(outbox, filters, recursive=recursive, on_unreadable=self._unreadable)
            for chunk in _chunks(paths):
                progress.expect(chunk, filters)
                await pipeline.intake.take_in([path for path in chunk if path in progress.pending], force=self._force)
                await progress.room(PENDING_MOST)
            await progress.room(1)
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            await pipeline.stop(0 if progress.cut else configuration.daemon.grace_seconds)
            await signer.close()
            await asyncio.to_thread(journal.close)

    async def _ask_daemon(self, selection: Selection, outbox: Outbox, control: Control) -> None:
        """Have the daemon sign, and wait for it instead of racing it."""
        settings = self._configuration.outbox
        filters = Filters(settings.include, settings.exclude, recursive=settings.recursive)
        paths = selection.paths(outbox, filters, recursive=settings.recursive, on_unreadable=self._unreadable)
        for chunk in _chunks(paths):
            progress = _Progress(selection.root, self._listener)
            progress.expect(chunk, filters)
            since = time.time()
            await asyncio.to_thread(control.retry, list(progress.pending), force=self._force)
            while progress.pending:
                files = await asyncio.to_thread(control.lookup, list(progress.pending))
                for file in files:
                    self._note(progress, file, outbox, since if self._force else 0.0)
                gate = (await asyncio.to_thread(control.status))["gate"]
                if gate["closed"] and gate["closed_seconds"] > PATIENCE_SECONDS:
                    msg = f"the daemon waits for the service: {gate['reason']}: {gate['detail']}"
                    raise UnreachableError(msg)
                if progress.pending:
                    await asyncio.sleep(0.1)

    @staticmethod
    def _note(progress: "_Progress", file: dict[str, object], outbox: Outbox, since: float) -> None:
        path = os.fsencode(str(file["path"]))
        look = outbox.look([path], closely=False)[0]
        if isinstance(look, Exception):
            progress.end(path, "failed", f"cannot be looked at: {look}")
            return
        if look.fingerprint is None:
            progress.end(path, "gone")
            return
        if file.get("fingerprint") != list(look.fingerprint) or file["settling"]:
            return
        if file["state"] == "signed" and look.sign_mtime_ns is not None and float(str(file["since"])) >= since:
            progress.end(path, "signed")
        elif file["state"] in {"failed", "refused"} or (file["state"] == "deferred" and not file["attempts"]):
            outcome = "refused" if file["state"] == "refused" else "failed"
            progress.end(path, outcome, f"{file['reason']}: {file['error'] or ''}")


class _Progress:
    """Implements parts.Observer: keeps count of what is not done yet."""

    def __init__(self, root: Path, listener: Listener) -> None:
        self._root = root
        self._listener = listener
        self.pending: set[bytes] = set()
        self._done = asyncio.Event()
        self._closed: Closed | None = None
        self.cut = False

    def expect(self, paths: Iterable[bytes], filters: Filters) -> None:
        """Count files as pending; those that the filters leave out are done with."""
        wanted = [path for path in paths if path not in self.pending]
        self._listener.found(len(wanted))
        self.pending.update(wanted)
        for path in wanted:
            if not filters.accepts(path):
                self.end(path, "refused", "left out by outbox.include, exclude or recursive")

    async def room(self, most: int) -> None:
        """Wait until fewer than `most` files are pending.

        Raises:
            UnreachableError: the service has not answered for too long.
        """
        while len(self.pending) >= most:
            self._done.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._done.wait()
            if self._closed is not None and time.time() - self._closed.since > PATIENCE_SECONDS:
                self.cut = True
                msg = f"gave up with {len(self.pending)} files unsigned: {self._closed.detail}"
                raise UnreachableError(msg)

    def end(self, path: bytes, outcome: str, detail: str | None = None) -> None:
        """Take a file as done with."""
        if path in self.pending:
            self.pending.remove(path)
            self._listener.finished(self._root / os.fsdecode(path), outcome, detail)
            self._done.set()

    def gate_closed(self, closed: Closed) -> None:
        """The service does not answer."""
        self._closed = closed
        self._listener.waiting(f"{closed.reason}: {closed.detail}")

    def gate_opened(self, _: Closed, __: float) -> None:
        """The service answers again."""
        self._closed = None
        self._listener.waiting(None)

    # parts.Observer

    def queued(self, drop: Drop, *, found: bool) -> None:
        """See parts.Observer."""

    def signed(self, drop: Drop, signature: Signature, request_seconds: float) -> None:  # noqa: ARG002
        """See parts.Observer."""
        self.end(drop.path, "signed")

    def adopted(self, path: bytes, signature: Signature) -> None:  # noqa: ARG002
        """See parts.Observer."""
        self.end(path, "unchanged")

    def republished(self, path: bytes, reason: str) -> None:  # noqa: ARG002
        """See parts.Observer."""
        self.end(path, "republished")

    def deferred(self, drop: Drop, reason: str, error: str, seconds: float) -> None:  # noqa: ARG002
        """See parts.Observer; what is no matter of another attempt is not waited for."""
        if not drop.attempts:
            self.end(drop.path, "failed", f"{reason}: {error}")

    def failed(self, drop: Drop, reason: str, error: str) -> None:
        """See parts.Observer."""
        self.end(drop.path, "failed", f"{reason}: {error}")

    def refused(self, path: bytes, reason: str) -> None:
        """See parts.Observer."""
        self.end(path, "refused", reason)

    def unseen(self, path: bytes) -> None:
        """See parts.Observer."""
        self.end(path, "failed", "cannot be looked at: its directory cannot be searched")

    def changed(self, path: bytes) -> None:
        """See parts.Observer."""

    def withdrawn(self, path: bytes) -> None:
        """See parts.Observer."""

    def gone(self, path: bytes) -> None:
        """See parts.Observer."""
        self.end(path, "gone")

    def unsettled(self, path: bytes, seconds: float) -> None:
        """See parts.Observer."""

    def unchanged(self, path: bytes, refusal: str | None = None) -> None:
        """See parts.Observer."""
        self.end(path, "unchanged" if refusal is None else "refused", refusal)

    def requested(self, result: str, seconds: float) -> None:
        """See parts.Observer."""

    def defect(self, error: Exception) -> None:
        """See parts.Observer."""
        self._listener.waiting(f"defect: {error}")


def plan(selections: Sequence[Selection], configuration: Configuration, *, force: bool) -> Iterator[Path]:
    """Yield what would be signed, as far as names tell: files without a FILE.sign, or younger than theirs; or all."""
    settings = configuration.outbox
    filters = Filters(settings.include, settings.exclude, recursive=settings.recursive)
    for selection in selections:
        outbox = Outbox(selection.root)
        try:
            paths = selection.paths(outbox, filters, recursive=settings.recursive, on_unreadable=lambda _: None)
            for path in paths:
                look = outbox.look([path], closely=False)[0]
                if filters.accepts(path) and not isinstance(look, Exception) and _is_to_sign(look, force=force):
                    yield selection.root / os.fsdecode(path)
        finally:
            outbox.close()


def _is_to_sign(look: Look, *, force: bool) -> bool:
    return look.fingerprint is not None and look.refusal is None and (force or not is_adoptable(look))


async def _nothing() -> None:
    """Do nothing before a probe: a one-shot does not outlive its credentials."""


async def _requeue(pipeline: Pipeline) -> None:
    while True:
        wait = await pipeline.requeue_rested()
        await asyncio.sleep(min(1.0, 1.0 if wait is None else max(wait, 0.05)))


def _chunks(paths: Iterator[bytes]) -> Iterator[list[bytes]]:
    while chunk := list(islice(paths, _CHUNK)):
        yield chunk
