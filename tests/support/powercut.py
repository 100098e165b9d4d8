"""What may lie on a disk after a power cut: a trace of system calls, and a file system that may lose all not fsynced.

Pure. A call counts from the trace line at which it began: from there on it may have reached the disk. It is over only
at the line at which it ended, which is another one where strace was interrupted by another thread ('<unfinished
...>', '<... resumed>'). An fsync covers what was over when it began, and counts once it is over. What is not covered
may be there or not, each change for itself and in any order: a rename without its data, a later change without an
earlier one.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import inf
from random import Random
from typing import Final, NamedTuple

TRACED: Final = (
    "openat,creat,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fallocate,copy_file_range,sendfile,splice,"
    "sync_file_range,fsync,fdatasync,rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat"
)
"""For strace: all that the model knows, and all that it would have to know if the daemon used it."""

_LINE: Final = re.compile(r"(?P<thread>\d+) +(?P<text>.*)")
_RESUMED: Final = re.compile(r"<\.\.\. \w+ resumed>(?P<rest>.*)")
_UNFINISHED: Final = " <unfinished ...>"
_CALL: Final = re.compile(r"(?P<name>\w+)\((?P<arguments>.*)\)? += (?P<result>-?\d+).*|(?P<begun>\w+)\((?P<known>.*)")
_ARGUMENT: Final = re.compile(
    r'(?:AT_FDCWD|\d+)<(?P<path>(?:\\x..)*)>|"(?P<text>(?:\\x..)*)"|(?P<rest>[^,()\s"][^,()"]*)'
)


class Call(NamedTuple):
    """One system call that succeeded, or whose end is unknown.

    Attributes:
        start: number of the trace line at which it began.
        end: number of the line at which it ended; infinity if it never did.
        thread: who called.
        name: of the call.
        arguments: paths of descriptors, texts, and everything else, as bytes.
    """

    start: int
    end: float
    thread: int
    name: str
    arguments: tuple[bytes, ...]

    def __str__(self) -> str:
        shown = ", ".join(ascii(argument[:120])[1:] for argument in self.arguments)
        return f"lines {self.start + 1}-{self.end + 1}, thread {self.thread}: {self.name}({shown})"


def parse(lines: Iterable[str]) -> list[Call]:
    """Read what `strace -f -y -xx` wrote, in the order in which the calls began."""
    calls: list[Call] = []
    begun: dict[int, tuple[int, str]] = {}
    for number, line in enumerate(lines):
        if (matched := _LINE.fullmatch(line.rstrip("\n"))) is None:
            continue
        thread, text = int(matched["thread"]), matched["text"]
        if text.endswith(_UNFINISHED):
            begun[thread] = number, text.removesuffix(_UNFINISHED)
            continue
        start = number
        if (resumed := _RESUMED.fullmatch(text)) is not None:
            start, text = begun.pop(thread, (number, ""))
            text += resumed["rest"]
        calls += _call(start, number, thread, text)
    for thread, (start, text) in begun.items():
        calls += _call(start, inf, thread, text)
    return sorted(calls)


def _call(start: int, end: float, thread: int, text: str) -> Iterator[Call]:
    matched = _CALL.fullmatch(text)
    if matched is None or (matched["result"] or "0").startswith("-"):
        return
    arguments = [
        bytes.fromhex((found["path"] or found["text"] or "").replace("\\x", "")) or (found["rest"] or "").encode()
        for found in _ARGUMENT.finditer(matched["arguments"] or matched["known"])
    ]
    yield Call(start, end, thread, matched["name"] or matched["begun"], tuple(arguments))


@dataclass
class Change:
    """Something that an fsync makes last: a piece of a file, or an entry of a directory.

    Attributes:
        call: which made it.
        offset: where a piece begins.
        data: the piece, or None where the file is cut off at the offset.
        file: what an entry leads to from now on; None for nothing.
    """

    call: Call
    offset: int = 0
    data: bytes | None = None
    file: "File | None" = None


@dataclass
class Synced:
    """What one fsync covers: a file, or a directory.

    Attributes:
        changes: in the order in which they began.
        syncs: the calls.
    """

    changes: list[Change] = field(default_factory=list)
    syncs: list[Call] = field(default_factory=list)

    def lasts(self, change: Change, at: int) -> bool:
        """Tell whether a change is on the disk for good, whatever happens after a trace line."""
        return any(sync.start > change.call.end and sync.end <= at for sync in self.syncs)


class File(Synced):
    """A file's content."""

    def whole(self, changes: Iterable[Change]) -> bytes:
        """Return the content if these changes are on the disk; what is missing is zeros."""
        content = bytearray()
        for change in changes:
            if change.data is None:
                del content[change.offset :]
            content.extend(bytes(max(0, change.offset - len(content))))
            content[change.offset : change.offset + len(change.data or b"")] = change.data or b""
        return bytes(content)

    def possible(self, at: int) -> set[bytes]:
        """Return contents that it may have: whole, and unless it is fsynced, empty, half, and zeros."""
        changes = [change for change in self.changes if change.call.start <= at]
        whole = self.whole(changes)
        if all(self.lasts(change, at) for change in changes):
            return {whole}
        return {whole, b"", whole[: len(whole) // 2], bytes(len(whole))}

    def some(self, at: int, chance: Random) -> bytes:
        """Return a content that it may have: all that is fsynced, and some of the rest."""
        changes = [change for change in self.changes if change.call.start <= at]
        return self.whole(change for change in changes if self.lasts(change, at) or chance.random() < 0.5)


class Disk:
    """All that a trace did below some directories, which were empty or of no interest before."""

    def __init__(self, calls: Iterable[Call], *roots: bytes) -> None:
        self.entries: dict[bytes, list[Change]] = {}
        """What became of each path."""
        self._directories: dict[bytes, Synced] = {}
        self._now: dict[bytes, File] = {}
        for call in calls:
            paths = _paths(call)
            if any(path.startswith(roots) for path in paths):
                self._take(call, paths)

    def _take(self, call: Call, paths: list[bytes]) -> None:
        match call.name:
            case "openat":
                if b"O_CREAT" in b" ".join(call.arguments) and paths[0] not in self._now:
                    self._enter(call, paths[0], File())
            case "pwrite64":
                self._write(call, paths[0], int(call.arguments[3]), call.arguments[1])
            case "write":
                file = self._now.get(paths[0])
                self._write(call, paths[0], len(file.whole(file.changes)) if file else 0, call.arguments[1])
            case "ftruncate":
                self._write(call, paths[0], int(call.arguments[1]), None)
            case "fsync" | "fdatasync":
                file = self._now.get(paths[0])
                (self.directory(paths[0]) if file is None else file).syncs.append(call)
            case "rename" | "renameat" | "renameat2":
                self._enter(call, paths[1], self._now[paths[0]])
                self._enter(call, paths[0], None)
            case "unlink" | "unlinkat":
                self._enter(call, paths[0], None)
            case _:
                raise AssertionError(f"the model does not know what {call} does to a disk")

    def directory(self, path: bytes) -> Synced:
        """Return a directory's own part: its fsyncs."""
        return self._directories.setdefault(path, Synced())

    def _write(self, call: Call, path: bytes, offset: int, data: bytes | None) -> None:
        if (file := self._now.get(path)) is not None:
            file.changes.append(Change(call, offset, data))

    def _enter(self, call: Call, path: bytes, file: File | None) -> None:
        self.entries.setdefault(path, []).append(Change(call, file=file))
        if file is None:
            self._now.pop(path, None)
        else:
            self._now[path] = file

    def files(self, path: bytes, at: int) -> list[File | None]:
        """Return to what a path may lead if the power goes after a trace line, the latest last; None for nothing."""
        directory = self.directory(os.path.dirname(path))
        possible: list[File | None] = [None]
        for change in self.entries.get(path, ()):
            if change.call.start <= at:
                possible = [change.file] if directory.lasts(change, at) else [*possible, change.file]
        return possible

    def contents(self, path: bytes, at: int) -> set[bytes | None]:
        """Return what may lie at a path if the power goes after a trace line; None for nothing."""
        found: set[bytes | None] = set()
        for file in self.files(path, at):
            found |= {None} if file is None else file.possible(at)
        return found


def _paths(call: Call) -> list[bytes]:
    """Return the paths that a call is about; names are joined to the directory before them."""
    arguments = call.arguments
    match call.name:
        case "openat" | "unlinkat":
            return [os.path.join(*arguments[:2])]
        case "renameat" | "renameat2":
            return [os.path.join(*arguments[:2]), os.path.join(*arguments[2:4])]
        case "rename":
            return list(arguments[:2])
    return [arguments[0]]
