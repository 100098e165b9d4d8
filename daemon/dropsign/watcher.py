"""The watcher: a thread that turns the kernel's notices into batches for the event loop, and says when it lost some.

Built on watchdog's low-level InotifyFD (its Observer loses files under load without telling), which is not
documented API: the version is pinned and a contract test guards what is used of it.

Every method but `start`, `mend`, `follow_mounts`, `healthy`, `ping` and `close` runs in the reader's thread.
"""

import asyncio
import errno
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Final

from watchdog.observers.inotify_c import CallbackId, InotifyConstants, InotifyEvent, InotifyFD, Mask, WatchDescriptor

from dropsign.directory import mounts_below
from dropsign.errors import is_shortage
from dropsign.filters import is_ours
from dropsign.model import SIGN_SUFFIX, Notice
from dropsign.threads import name_thread

Batch = list[tuple[bytes, Notice]]

_C: Final = InotifyConstants
_NOTICES: Final[dict[int, Notice]] = {
    _C.IN_CLOSE_WRITE: Notice.CLOSED,
    _C.IN_MOVED_TO: Notice.MOVED,
    _C.IN_MODIFY: Notice.MODIFIED,
    _C.IN_CREATE: Notice.CREATED,
}
_TOLD: Final = _C.IN_CLOSE_WRITE | _C.IN_MOVED_TO | _C.IN_MODIFY | _C.IN_CREATE
_FILES: Final = _TOLD | _C.IN_MOVED_FROM
_ITSELF: Final = _C.IN_DELETE_SELF | _C.IN_MOVE_SELF | _C.IN_ONLYDIR | _C.IN_EXCL_UNLINK | _C.IN_DONT_FOLLOW
_ID: Final = CallbackId(0)

# What watchdog has to say is told as a loss; by itself it would write lines of its own to standard error.
logging.getLogger("watchdog").addHandler(logging.NullHandler())


class Loss(StrEnum):
    """Why notices were lost; each asks for a scan."""

    OVERFLOW = "overflow"
    """The kernel's queue ran over."""
    ROOT = "outbox_gone"
    """The outbox was removed, moved or unmounted."""
    LIMIT = "watch_limit"
    """The kernel gives no more watches, so that a directory is not watched."""
    ACCESS = "unreadable"
    """A directory may not be read, and so not be watched either."""
    WATCH = "watch_failed"
    """A directory cannot be watched for another reason."""
    READER = "reader_died"
    """The thread ended."""


_CAUSES: Final[dict[int | None, Loss]] = {errno.ENOSPC: Loss.LIMIT, errno.EACCES: Loss.ACCESS}


class _Reader(InotifyFD):
    """watchdog's reader, with our own file names passed over early and its death signalled, with the cause."""

    def __init__(self, on_death: Callable[[str], None]) -> None:
        super().__init__()
        self.daemon = True
        self.name = "watcher"
        self._on_death = on_death
        self._is_pinged = False
        self.has_answered = True
        """Whether the thread gave a sign of life since the last ping."""
        self._moved = -1
        """The kernel's number of the last rename of a file of ours."""
        os.set_inheritable(self._inotify_fd, False)  # watchdog opens it without CLOEXEC  # noqa: FBT003

    def run(self) -> None:
        cause = "it ended"
        name_thread(self.name)
        try:
            while (buffer := self._read_event_buffer(_BUFFER)) or (self._is_pinged and not self._closed):
                self.answer()
                for wd, mask, cookie, name in self._parse_event_buffer(buffer):
                    if name and is_ours(name) and not mask & _C.IN_ISDIR and not self._is_foreign(mask, cookie, name):
                        continue
                    if wd != -1 or mask & _C.IN_Q_OVERFLOW:
                        self.handle_event(InotifyEvent(wd, mask, cookie, name))
        except Exception as error:  # noqa: BLE001 - whatever it was, the watcher is to be made anew
            cause = f"{type(error).__name__}: {error}"
        if not self._closed:
            self._is_reading = False  # else closing would leave the descriptors to a thread that is no more
            self._on_death(cause)

    def ping(self) -> None:
        """Wake the thread by the pipe that also ends it, so that it gives a sign of life; never blocks for long."""
        self.has_answered = False
        if self._lock.acquire(timeout=_PING_SECONDS):
            try:
                if not self._closed and not self._is_pinged:
                    self._is_pinged = True
                    os.write(self._kill_w, b"?")
            finally:
                self._lock.release()

    def answer(self) -> None:
        """Give a sign of life, if it is this thread that runs."""
        if threading.current_thread() is not self:
            return
        with self._lock:
            if self._is_pinged and not self._closed:
                os.read(self._kill_r, 1)
                self._is_pinged = False
        self.has_answered = True

    def _is_foreign(self, mask: int, cookie: int, name: bytes) -> bool:
        """Tell whether somebody else put something in the place of a FILE.sign; we only rename temporaries to it."""
        if name.endswith(SIGN_SUFFIX):
            return not mask & _C.IN_MOVED_FROM and cookie != self._moved
        if mask & _C.IN_MOVED_FROM:
            self._moved = cookie
        return False

    def watch(self, path: bytes, mask: Mask, callback: "Watcher") -> WatchDescriptor:
        """Watch a directory; one that is watched already is only looked up.

        Raises:
            OSError: it cannot be watched.
        """
        with self._lock:
            watch = self._get_or_create_watch(path, mask)
            if watch.wd == -1:  # watchdog passes over EACCES
                self._watch_for_wd.pop(watch.wd, None)
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            watch.callbacks[_ID] = callback
            return watch.wd


_BUFFER: Final = 64 * 1024

_PING_SECONDS: Final = 0.05

_SHORTAGE_SECONDS: Final = 1.0
"""How long the reader waits for a descriptor; what comes meanwhile waits in the kernel, or is left to a scan."""


class Watcher:
    """Watches one directory, with its sub-directories if wanted."""

    def __init__(
        self,
        root: Path,
        *,
        recursive: bool,
        on_batch: Callable[[Batch], None],
        on_loss: Callable[[Loss, str], None],
    ) -> None:
        """Prepare to watch.

        Args:
            root: the directory.
            recursive: its sub-directories too.
            on_batch: gets relative paths with their notices, in the event loop.
            on_loss: told in the event loop that notices were lost, with a detail.
        """
        self.root = os.fsencode(os.path.realpath(root))
        self._recursive = recursive
        self._on_batch = on_batch
        self._on_loss = on_loss
        self._notices: deque[tuple[bytes, Notice]] = deque()
        self._armed = False
        self._stopped = False
        self._directories: dict[int, bytes] = {}
        self._unwatched: dict[bytes, Loss] = {}
        self._mounts: dict[bytes, bytes] = {}
        self._mask = Mask(_FILES | _ITSELF)
        self._loop = asyncio.get_running_loop()
        self._reader: _Reader | None = None
        self._root_wd = WatchDescriptor(-1)
        self._root_status = os.stat(self.root)
        self._lock = threading.Lock()
        """From the making of a watch to its record, so that no directory moved meanwhile is recorded as it was."""

    def start(self) -> None:
        """Begin to watch; blocks while the tree is walked.

        Raises:
            OSError: the root cannot be watched.
        """
        self._root_status = os.stat(self.root)
        self._reader = _Reader(partial(self._lost, Loss.READER))
        self._root_wd = self._reader.watch(self.root, self._mask, self)
        self._directories[self._root_wd] = b""
        self._reader.start()
        self._mounts = mounts_below(self.root)
        if self._recursive:
            self._adopt(b"", report=False)

    def close(self) -> None:
        """Stop watching."""
        self._stopped = True
        if self._reader is not None:
            self._reader.stop()
            if self._reader.ident is None:  # it could not be started, and so will not close anything itself
                self._reader._close_resources()  # noqa: SLF001 - watchdog has no other way
            else:
                self._reader.join(5)

    def healthy(self) -> bool:
        """Tell whether the thread lives and still watches what lies at the root's path; blocks."""
        try:
            same = os.path.samestat(os.stat(self.root), self._root_status)
        except OSError:
            return False
        return same and self.is_reading and self._root_wd in self._directories

    @property
    def is_reading(self) -> bool:
        """Whether the thread lives."""
        return self._reader is not None and self._reader.is_alive()

    def ping(self) -> None:
        """Ask the thread for a sign of life."""
        if self._reader is not None:
            self._reader.ping()

    @property
    def has_answered(self) -> bool:
        """Whether it gave one since."""
        return self._reader is None or self._reader.has_answered

    @property
    def unwatched(self) -> dict[bytes, Loss]:
        """The directories that could not be watched, and why; none below them is, either."""
        return self._unwatched.copy()

    def mend(self) -> None:
        """Try once more to watch what could not be watched; blocks."""
        for path in self.unwatched:
            if self._watch(path):
                self._adopt(path, report=True)

    def follow_mounts(self) -> bool:
        """Watch what shows where file systems were mounted or unmounted, of which no notice tells; blocks.

        Returns:
            Whether there were such: what lay there before is to be looked for.
        """
        before, self._mounts = self._mounts, mounts_below(self.root)
        changed = {path for path, _ in before.items() ^ self._mounts.items()} if self._recursive else set()
        for path in sorted(changed):
            self._forget(path)
            if self._watch(path):
                self._adopt(path, report=True)
        return bool(changed)

    # watchdog's WatchCallback

    def on_event(self, event: InotifyEvent) -> None:
        """Take one event in."""
        mask = event.mask
        directory = self._directories.get(event.wd)
        if directory is None:
            return
        if not event.name:
            gone = mask & (_C.IN_DELETE_SELF | _C.IN_MOVE_SELF | _C.IN_UNMOUNT)
            if event.wd == self._root_wd and gone:
                self._lost(Loss.ROOT, os.fsdecode(self.root))
            return
        path = directory + b"/" + event.name if directory else event.name
        if mask & _C.IN_ISDIR:
            self._on_directory(mask, path)
        notice = _NOTICES.get(mask & _TOLD)
        if notice is None:
            return
        if event.name.endswith(SIGN_SUFFIX):
            if event.name != SIGN_SUFFIX:
                self._put(path.removesuffix(SIGN_SUFFIX), Notice.BESIDE)
        elif not mask & _C.IN_ISDIR:
            self._put(path, notice)

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        """Forget a directory that is gone, and watch what shows in its place where a file system was unmounted."""
        with self._lock:
            path = self._directories.pop(wd, None)
        if wd == self._root_wd:
            self._lost(Loss.ROOT, os.fsdecode(self.root))
        elif path is not None and not self._stopped and self._watch(path):
            self._adopt(path, report=True)

    def on_queue_overflow(self) -> None:
        """Add the watches that were missed, then have everything looked at."""
        if self._recursive:
            self._adopt(b"", report=False)
        self._lost(Loss.OVERFLOW, "")

    # Directories

    def _on_directory(self, mask: int, path: bytes) -> None:
        if not self._recursive:
            return
        if mask & _C.IN_MOVED_FROM:
            self._forget(path)
        elif mask & (_C.IN_CREATE | _C.IN_MOVED_TO) and self._watch(path):
            self._adopt(path, report=True)

    def _watch(self, path: bytes) -> bool:
        """Watch one directory; return whether that worked."""
        assert self._reader is not None, "started"
        with self._lock:
            try:
                wd = self._reader.watch(self.root + b"/" + path, self._mask, self)
            except (FileNotFoundError, NotADirectoryError):
                self._unwatched.pop(path, None)
                return False  # vanished or replaced; its parent's watch tells
            except OSError as error:
                loss = _CAUSES.get(error.errno, Loss.WATCH)
                if self._unwatched.get(path) is not loss:
                    self._unwatched[path] = loss
                    self._lost(loss, f"{error.strerror}: {os.fsdecode(path)}")
                return False
            self._unwatched.pop(path, None)
            self._directories[wd] = path
            return True

    def _adopt(self, top: bytes, *, report: bool) -> None:
        """Watch all directories below one; watched before they are read, so that nothing falls in between."""
        assert self._reader is not None, "started"
        waiting = [top]
        while waiting and not self._stopped:
            directory = waiting.pop()
            self._reader.answer()  # a huge tree takes its time
            try:
                with os.scandir(self.root + b"/" + directory) as entries:
                    found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
            except OSError as error:  # gone, or unreadable: then its watch failed too
                if is_shortage(error):
                    time.sleep(_SHORTAGE_SECONDS)
                    waiting.append(directory)
                continue
            prefix = directory + b"/" if directory else b""
            for name, is_directory in found:
                if is_directory:
                    if self._watch(prefix + name):
                        waiting.append(prefix + name)
                elif report and not is_ours(name):
                    self._put(prefix + name, Notice.CREATED)

    def _forget(self, top: bytes) -> None:
        """Stop watching what was moved away: its events would come under a path that it has no more."""
        assert self._reader is not None, "started"
        prefix = top + b"/"

        def is_gone(path: bytes) -> bool:
            return path == top or path.startswith(prefix)

        with self._lock:
            self._unwatched = {path: loss for path, loss in self._unwatched.items() if not is_gone(path)}
            gone = [wd for wd, path in self._directories.items() if is_gone(path)]
            for wd in gone:
                del self._directories[wd]
            self._reader.remove_callbacks([(WatchDescriptor(wd), _ID) for wd in gone])

    # To the loop

    def _put(self, path: bytes, notice: Notice) -> None:
        self._notices.append((path, notice))
        if not self._armed:
            self._armed = True
            self._call(self._drain)

    def _drain(self) -> None:
        self._armed = False
        batch = []
        while self._notices:
            batch.append(self._notices.popleft())
        if batch:
            self._on_batch(batch)

    def _lost(self, loss: Loss, detail: str) -> None:
        if not self._stopped:
            self._call(lambda: self._on_loss(loss, detail))

    def _call(self, callback: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:  # the loop is closed
            self._stopped = True
