"""The full scan: one walk of the outbox, merged with what the journal knows, that tells only of differences.

Directory by directory, the sorted names on disk are merged with the journal's entries in the same order: memory
grows with the largest directory, not with the tree, and a million unchanged files cost no query each.
"""

import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from dropsign.admission import is_in_place
from dropsign.directory import ABSENT, sign_status
from dropsign.errors import OutboxError, is_shortage
from dropsign.failpoints import reach
from dropsign.filters import TEMPORARY, Filters
from dropsign.model import SIGN_SUFFIX, Fingerprint, Known, Stamp, State
from dropsign.outbox import Outbox

CHUNK = 512
"""Findings handed over at a time."""


class Finding(NamedTuple):
    """A path where disk and journal differ, or a file the journal does not know; no fingerprint: it is gone."""

    path: bytes
    fingerprint: Fingerprint | None


@dataclass
class Tally:
    """What a scan saw.

    Attributes:
        files: how many that may be drops.
        directories: how many were read.
        differences: findings told of.
        unreadable: directories that could not be looked through, with the reason.
        complete: false if it was stopped.
    """

    files: int = 0
    directories: int = 0
    differences: int = 0
    unreadable: dict[bytes, str] = field(default_factory=dict)
    complete: bool = True


class Scan:
    """One walk; blocks, and is for a thread of its own."""

    def __init__(  # noqa: PLR0913 - all by name, and each one plain
        self,
        outbox: Outbox,
        filters: Filters,
        *,
        recursive: bool,
        republish_missing: bool,
        known: Callable[[bytes], Iterable[Known]],
        emit: Callable[[list[Finding]], None],
        stopped: Callable[[], bool],
        tidy: bool = True,
    ) -> None:
        """Prepare a walk.

        Args:
            outbox: where.
            filters: which names count.
            recursive: sub-directories too.
            republish_missing: a signed file without its FILE.sign is a difference.
            known: gives the journal's entries of a directory, sorted by name.
            emit: takes findings, and may block to slow the walk down.
            stopped: asked now and then; true ends the walk.
            tidy: remove temporaries that other processes left; only for who holds the outbox's lock, as they are
                in use otherwise.
        """
        self._outbox = outbox
        self._filters = filters
        self._recursive = recursive
        self._republish_missing = republish_missing
        self._known = known
        self._emit = emit
        self._stopped = stopped
        self._tidy = tidy
        self._found: list[Finding] = []
        self.tally = Tally()

    def run(self, known_directories: Iterable[bytes], tops: Collection[bytes] = (b"",)) -> Tally:
        """Walk all of the outbox or some parts of it, then tell of entries whose directories are gone.

        Args:
            known_directories: all that the journal has entries in.
            tops: the directories to walk, with all below them.

        Raises:
            OutboxError: the outbox vanished under the walk; nothing is to be concluded from it.
            OSError: this process has no more descriptors to walk with.
        """
        visited = set()
        waiting = list(tops)
        while waiting and not self._stopped():
            directory = waiting.pop()
            visited.add(directory)
            waiting.extend(self._visit(directory))
        if self._stopped():
            self.tally.complete = False
        if not self._outbox.is_there():
            msg = f"{self._outbox.root} vanished during the scan"
            raise OutboxError(msg)
        if self.tally.complete:
            prefixes = tuple(top + b"/" if top else b"" for top in tops)
            for directory in set(known_directories) - visited:
                if directory.startswith(prefixes) and (not self._is_entered(directory) or self._is_gone(directory)):
                    self._gone(directory, self._known(directory))
        self._flush()
        return self.tally

    def _visit(self, directory: bytes) -> list[bytes]:
        """Compare one directory; return its sub-directories."""
        prefix = directory + b"/" if directory else b""
        try:
            with self._outbox.directories() as opened:
                fd, _ = opened.of(prefix + b".")
                names, below = self._read(fd, prefix)
                self.tally.directories += 1
                self._compare(fd, prefix, names, self._known(directory))
        except FileNotFoundError:
            self._gone(directory, self._known(directory))
            return []
        except OSError as error:
            if is_shortage(error):
                raise
            self._unreadable(directory, error)
            return []
        return below if self._recursive else []

    def _read(self, fd: int, prefix: bytes) -> tuple[list[bytes], list[bytes]]:
        """Return the names in a directory that may be drops, sorted, and the paths of its sub-directories."""
        names, below = [], []
        with os.scandir(fd) as entries:
            for entry in entries:
                name = os.fsencode(entry.name)  # a scan by descriptor gives text, with surrogates for odd bytes
                if entry.is_dir(follow_symlinks=False):
                    if self._filters.enters(prefix + name):
                        below.append(prefix + name)
                elif name.endswith(SIGN_SUFFIX):
                    continue  # each is looked at together with its drop
                elif (temporary := TEMPORARY.match(name)) is not None:
                    self._remove_leftover(fd, name, temporary["instance"])
                elif self._filters.accepts(prefix + name):
                    names.append(name)
        names.sort()
        return names, below

    def _compare(self, fd: int, prefix: bytes, names: list[bytes], known: Iterable[Known]) -> None:
        """Merge a directory's sorted names with the journal's entries."""
        entries = iter(known)
        entry = next(entries, None)
        for name in names:
            while entry is not None and entry.name < name:
                self._tell(prefix + entry.name, None)
                entry = next(entries, None)
            matched = entry if entry is not None and entry.name == name else None
            if matched is not None:
                entry = next(entries, None)
            try:
                fingerprint = Fingerprint.of(os.stat(name, dir_fd=fd, follow_symlinks=False))
            except OSError as error:
                if error.errno not in ABSENT:  # a directory that may be read, but not searched
                    self._unreadable(prefix[:-1], error)
                continue
            self.tally.files += 1
            if matched is None or not self._is_settled(matched, fingerprint, fd):
                self._tell(prefix + name, fingerprint)
        self._gone(prefix[:-1], ([] if entry is None else [entry, *entries]))

    def _is_settled(self, known: Known, fingerprint: Fingerprint, fd: int) -> bool:
        """Tell whether nothing is to be done about a file in an open directory."""
        if known.fingerprint != fingerprint or known.state is State.REFUSED:  # what refused it may have changed
            return False
        if known.state is not State.SIGNED:
            return True
        sign = sign_status(fd, known.name + SIGN_SUFFIX)
        found = None if sign is None else Stamp.of(sign)
        return is_in_place(found, known.stamp, republish_missing=self._republish_missing)

    def _remove_leftover(self, fd: int, name: bytes, instance: bytes) -> None:
        """Remove a temporary that a process before this one left; our own are in use."""
        if instance == self._outbox.instance or not self._tidy:
            return
        with suppress(OSError):
            if stat.S_ISREG(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                reach("leftover_found")
                os.unlink(name, dir_fd=fd)
                reach("leftover_removed")

    def _is_entered(self, directory: bytes) -> bool:
        return not directory or self._filters.enters(directory)

    def _is_gone(self, directory: bytes) -> bool:
        try:
            with self._outbox.directories() as opened:
                opened.of(directory + b"/.")
        except (FileNotFoundError, NotADirectoryError):  # the latter: a file or a link has its name now
            return True
        except OSError:
            return False
        return False

    def _unreadable(self, directory: bytes, error: OSError) -> None:
        self.tally.unreadable[directory] = error.strerror or str(error)

    def _gone(self, directory: bytes, entries: Iterable[Known]) -> None:
        prefix = directory + b"/" if directory else b""
        for entry in entries:
            self._tell(prefix + entry.name, None)

    def _tell(self, path: bytes, fingerprint: Fingerprint | None) -> None:
        self.tally.differences += 1
        self._found.append(Finding(path, fingerprint))
        if len(self._found) >= CHUNK:
            self._flush()

    def _flush(self) -> None:
        if self._found:
            found, self._found = self._found, []
            self._emit(found)


def below(
    outbox: Outbox,
    filters: Filters,
    directory: bytes,
    *,
    recursive: bool,
    on_unreadable: Callable[[bytes], None] = lambda _: None,
) -> Iterator[Finding]:
    """Yield every file that may be a drop below a directory: a scan against a journal that knows nothing.

    It changes nothing, and may run beside a daemon.

    Args:
        outbox: where.
        filters: which names count.
        directory: relative to the outbox.
        recursive: sub-directories too.
        on_unreadable: told of each directory that cannot be looked through.
    """
    findings: list[Finding] = []
    scan = Scan(
        outbox,
        filters,
        recursive=recursive,
        republish_missing=False,
        known=lambda _: (),
        emit=findings.extend,
        stopped=lambda: False,
        tidy=False,
    )
    waiting = [directory]
    while waiting:
        waiting.extend(scan._visit(waiting.pop()))  # noqa: SLF001 - same module
        while scan.tally.unreadable:
            on_unreadable(scan.tally.unreadable.popitem()[0])
        scan._flush()  # noqa: SLF001
        yield from findings
        findings.clear()
