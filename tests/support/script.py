"""What the simulator does, as a pure function of its seed: operations, and how the outbox must look after them.

Operations are chosen by what the earlier ones made of the tree, never by what the daemon does: the same seed gives
the same operations.
"""

import random
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from dropsign.failpoints import NAMES
from tests.support.tree import File, Tree

FILES_MOST: Final = 60
DIRECTORIES_MOST: Final = 12

FIRST: Final = b"first:"
"""What the first of two contents begins with that are written shortly after one another."""

_NAMES: Final = (
    "a",
    "b.txt",
    "-rf",
    "new\nline",
    "\udcff\udcfe",
    "\N{PILE OF POO}",
    "a.sign.txt",
    "quote'\"",
    "x" * 200,
)

FAULTS: Final = (
    "fail 503:50%",
    "fail reset:30%",
    "fail 500:30%,429:30%",
    "fail null:20%,text:20%,halfjson:20%",
    "fail badsig:30%",
    "fail redirect:40%",
    "fail 422:40%,bigbody:20%",
    "delay 100ms",
    "delay 30ms\nfail 503:20%,reset:10%",
    "",
)
"""What the service does for a while; see embedded/faults.py."""


class Operation(NamedTuple):
    """One thing that happens.

    Attributes:
        kind: the name of what.
        path: relative to the outbox, but for directories outside, which have names of their own.
        other: where it goes to, or what is said.
        content: what is written.
        pause: seconds until the next one.
    """

    kind: str
    path: str = ""
    other: str = ""
    content: bytes = b""
    pause: float = 0.0


class Script:
    """Chooses operations."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._seed = seed
        self._number = self._written = 0
        self._running = self._serving = True
        self._doomed = False
        self.tree = Tree()
        self._choices: tuple[tuple[int, Callable[[], Operation | None]], ...] = (
            (22, self._create), (10, self._rewrite), (4, self._write_twice), (4, self._write_alike),
            (6, self._replace), (8, self._rename), (8, self._remove), (4, self._pick_up), (5, self._link),
            (6, self._touch), (5, self._remove_sign), (3, self._foreign), (4, self._open), (5, self._close),
            (2, self._special), (4, self._make_directory), (4, self._move_directory), (3, self._move_out),
            (4, self._move_in), (2, self._remove_directory), (6, self._misbehave), (3, self._toggle_service),
            (2, self._reload), (2, self._rescan), (4, self._daemon),
        )  # fmt: skip

    def operations(self, number: int) -> Iterator[Operation]:
        """Yield so many operations; the tree is as the last one that was yielded leaves it."""
        weights = [weight for weight, _ in self._choices]
        for _ in range(number):
            operation = None
            while operation is None:
                self._number += 1
                (_, choose), *_ = self._chance.choices(self._choices, weights)
                operation = choose()
            pause = self._chance.choices((0.0, self._chance.uniform(0, 0.03), self._chance.uniform(0, 0.4)), (6, 3, 1))
            yield operation._replace(pause=pause[0])

    def calm(self) -> Iterator[Operation]:
        """Yield what ends all disturbance: writers close, the service is well, the daemon runs."""
        while (operation := self._close()) is not None:
            yield operation
        yield Operation("misbehave")
        if not self._serving:
            yield self._toggle_service()
        if not self._running:
            yield self._start()
        self.tree.interruptions += self._doomed  # one that is still to die is replaced
        self._doomed = False

    # Choosing

    def _content(self) -> bytes:
        """Return what was never written before."""
        size = self._chance.choices((0, 3_000, 70_000, 400_000), (60, 30, 8, 2))[0]
        self._written += 1
        head = f"{self._seed}:{self._written}:".encode()
        return head + self._chance.randbytes(self._chance.randrange(size + 1))

    def _directory(self) -> str:
        return self._chance.choice(["", *sorted(self.tree.directories)])

    def _path(self) -> str:
        """Return a path, in use or not, in a directory that is there."""
        name = self._chance.choice(_NAMES) if self._chance.random() < 0.3 else f"f{self._chance.randrange(30)}"
        directory = self._directory()
        return f"{directory}/{name}" if directory else name

    def _free(self) -> str | None:
        path = self._path()
        taken = path in self.tree.files or path in self.tree.specials or path in self.tree.directories
        return None if taken else path

    def _some_file(self) -> str | None:
        return self._chance.choice(sorted(self.tree.files)) if self.tree.files else None

    def _some_directory(self) -> str | None:
        return self._chance.choice(sorted(self.tree.directories)) if self.tree.directories else None

    def _free_directory(self, within: str = "") -> str | None:
        name = f"d{self._chance.randrange(20)}"
        path = f"{within}/{name}" if within else name
        taken = path in self.tree.directories or path.count("/") > 3
        return None if taken or len(self.tree.directories) >= DIRECTORIES_MOST else path

    # Files

    def _create(self) -> Operation | None:
        path, content = self._free(), self._content()
        if path is None or len(self.tree.files) >= FILES_MOST:
            return None
        file = File()
        self.tree.files[path] = file
        self.tree.write(file, content)
        return Operation(
            self._chance.choice(("write", "write in pieces", "write hidden", "move in")), path, "", content
        )

    def _rewrite(self) -> Operation | None:
        if (path := self._some_file()) is None:
            return None
        content = self._content()
        self.tree.write(self.tree.files[path], content)
        return Operation(self._chance.choice(("write", "write in pieces")), path, "", content)

    def _write_twice(self) -> Operation | None:
        """A writer closes the file, and comes back at once."""
        if (path := self._some_file()) is None:
            return None
        content = self._content()
        self.tree.write(self.tree.files[path], FIRST + content)
        self.tree.write(self.tree.files[path], content)
        return Operation("write twice", path, "", content)

    def _write_alike(self) -> Operation | None:
        """Other content of the same size, under the old modification time."""
        if (path := self._some_file()) is None:
            return None
        file = self.tree.files[path]
        head = f"{self._seed}:{self._number}:alike:".encode()
        if file.version.size < len(head):
            return None
        content = head.ljust(file.version.size, b"=")
        self.tree.write(file, content)
        return Operation("write alike", path, "", content)

    def _replace(self) -> Operation | None:
        if (path := self._some_file()) is None:
            return None
        content = self._content()
        file = self.tree.files[path] = File()
        self.tree.write(file, content)
        return Operation(self._chance.choice(("write hidden", "move in")), path, "", content)

    def _rename(self) -> Operation | None:
        path, other = self._some_file(), self._path()
        if path is None or path == other or other in self.tree.specials or other in self.tree.directories:
            return None
        file = self.tree.files[path]
        if self.tree.files.get(other) is file:  # rename(2) does nothing where both are one file
            return None
        del self.tree.files[path]
        self.tree.place(other, file)
        return Operation("rename", path, other)

    def _remove(self) -> Operation | None:
        if (path := self._some_file()) is None:
            return None
        del self.tree.files[path]
        return Operation("remove", path)

    def _pick_up(self) -> Operation | None:
        if (path := self._some_file()) is None:
            return None
        del self.tree.files[path]
        return Operation("pick up", path, self._chance.choice(("file first", "sign first")))

    def _link(self) -> Operation | None:
        path, other = self._some_file(), self._free()
        if path is None or other is None:
            return None
        self.tree.place(other, self.tree.files[path])
        return Operation("link", path, other)

    def _touch(self) -> Operation | None:
        path = self._some_file()
        when = self._chance.choice(("now", "past", "future", "mode"))
        return None if path is None else Operation("touch", path, when)

    def _remove_sign(self) -> Operation | None:
        path = self._some_file()
        return None if path is None else Operation("remove sign", path)

    def _foreign(self) -> Operation | None:
        """A file comes with a signature that somebody else made, which may be wrong."""
        if (path := self._free()) is None:
            return None
        content = self._content()
        file = self.tree.files[path] = File()
        self.tree.write(file, content)
        return Operation("foreign", path, self._chance.choice(("right", "wrong")), content)

    def _open(self) -> Operation | None:
        """A writer begins, and holds the file open."""
        path = self._path()
        if path in self.tree.writing or path in self.tree.specials or path in self.tree.directories:
            return None
        file = self.tree.files.get(path)
        if file in self.tree.writing.values():
            return None
        if file is None:
            file = self.tree.files[path] = File()
        content = b"half:" + self._content()
        self.tree.write(file, content, half=True)
        self.tree.writing[path] = file
        return Operation("open", path, "", content)

    def _close(self) -> Operation | None:
        """A writer ends, wherever its file lies now."""
        if not self.tree.writing:
            return None
        path = self._chance.choice(sorted(self.tree.writing))
        content = self._content()
        self.tree.write(self.tree.writing.pop(path), content)
        return Operation("close", path, "", content)

    def _special(self) -> Operation | None:
        if (path := self._free()) is None:
            return None
        self.tree.specials.add(path)
        return Operation(self._chance.choice(("symbolic link", "fifo")), path)

    # Directories

    def _make_directory(self) -> Operation | None:
        path = self._free_directory(self._directory())
        if path is None or path in self.tree.files or path in self.tree.specials:
            return None
        self.tree.directories.add(path)
        return Operation("make directory", path)

    def _move_directory(self) -> Operation | None:
        path, other = self._some_directory(), self._free_directory()
        if path is None or other is None:
            return None
        self.tree.put(other, *self.tree.take(path))
        return Operation("move directory", path, other)

    def _move_out(self) -> Operation | None:
        if (path := self._some_directory()) is None:
            return None
        name = f"out{self._number}"
        self.tree.outside[name] = self.tree.take(path)
        return Operation("move out", path, name)

    def _move_in(self) -> Operation | None:
        path = self._free_directory(self._directory())
        if path is None or not self.tree.outside:
            return None
        name = self._chance.choice(sorted(self.tree.outside))
        self.tree.put(path, *self.tree.outside.pop(name))
        return Operation("move back", name, path)

    def _remove_directory(self) -> Operation | None:
        if (path := self._some_directory()) is None:
            return None
        self.tree.take(path)
        return Operation("remove directory", path)

    # Processes

    def _misbehave(self) -> Operation:
        return Operation("misbehave", "", self._chance.choice(FAULTS))

    def _toggle_service(self) -> Operation:
        self._serving = not self._serving
        self.tree.interruptions += not self._serving
        return Operation("serve" if self._serving else "outage")

    def _reload(self) -> Operation | None:
        return self._signal("SIGHUP")

    def _rescan(self) -> Operation | None:
        return self._signal("SIGUSR1")

    def _signal(self, name: str) -> Operation | None:
        if not self._running:
            return None
        self.tree.interruptions += self._doomed  # it may have died by now, and is replaced then
        return Operation("signal", "", name)

    def _daemon(self) -> Operation:
        if not self._running:
            return self._start() if self._chance.random() < 0.5 else self._start_to_die()
        self._running = self._doomed = False
        self.tree.interruptions += 1
        return Operation(self._chance.choice(("kill", "kill", "stop")))

    def _start(self) -> Operation:
        self._running = True
        return Operation("start", "", self._chance.choice(("wait", "go on")))

    def _start_to_die(self) -> Operation:
        """Start a daemon that dies at a certain step of a file's way."""
        self._running = self._doomed = True
        return Operation("start to die", "", f"{self._chance.choice(NAMES)}:{self._chance.randrange(1, 6)}")
