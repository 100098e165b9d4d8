"""watcher.py on real directories: every way in which a file may come is noticed, and every loss told."""

# ruff: noqa: ASYNC110, ASYNC220, ASYNC230, ASYNC240
# Files are made in the loop's own thread: what comes of that in the other one is what is tested.

import asyncio
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from itertools import count
from pathlib import Path

import pytest
from watchdog.observers.inotify_c import InotifyConstants, InotifyEvent, InotifyFD, Mask

from dropsign.model import Notice
from dropsign.watcher import Batch, Loss, Watcher

NOBODY = 65534


class Site:
    """A watched directory, and what was told of it."""

    def __init__(self, root: Path, watcher: type[Watcher] = Watcher, *, recursive: bool = True) -> None:
        self.root = root
        self.notices: list[tuple[bytes, Notice]] = []
        self.batches = 0
        self.losses: list[tuple[Loss, str]] = []
        self.watcher = watcher(
            root, recursive=recursive, on_batch=self._take, on_loss=lambda loss, text: self.losses.append((loss, text))
        )
        self._numbers = count()

    def _take(self, batch: Batch) -> None:
        self.batches += 1
        self.notices += batch

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.002)

    async def caught_up(self) -> None:
        """Wait until everything before this call has been noticed: notices come in order."""
        name = b"caught up %d" % next(self._numbers)
        os.mkfifo(os.path.join(os.fsencode(self.root), name))
        await self.until(lambda: (name, Notice.CREATED) in self.notices)
        os.unlink(os.path.join(os.fsencode(self.root), name))

    def has_noticed(self, path: bytes) -> bool:
        return path in {noticed for noticed, _ in self.notices}

    async def take(self) -> dict[bytes, list[Notice]]:
        """Return what was noticed since the last call, by path."""
        await self.caught_up()
        taken: dict[bytes, list[Notice]] = {}
        for path, notice in self.notices:
            if not path.startswith(b"caught up "):
                taken.setdefault(path, []).append(notice)
        self.notices.clear()
        return taken


@asynccontextmanager
async def watching(root: Path, watcher: type[Watcher] = Watcher, *, recursive: bool = True) -> AsyncIterator[Site]:
    site = Site(root, watcher, recursive=recursive)
    try:
        await asyncio.to_thread(site.watcher.start)
        yield site
    finally:
        await asyncio.to_thread(site.watcher.close)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "outbox"
    directory.mkdir()
    return directory


def run(root: Path, scenario: Callable[[Site], Awaitable[None]], *, recursive: bool = True) -> None:
    async def watched() -> None:
        async with watching(root, recursive=recursive) as site:
            await scenario(site)

    asyncio.run(watched())


# Files


def test_every_way_of_a_file_into_the_outbox(root: Path, tmp_path: Path) -> None:
    """Each way gives the notice by which settling knows how long to wait: closed, moved, created or modified."""

    async def scenario(site: Site) -> None:
        (root / "written").write_bytes(b"x")
        (tmp_path / "outside").write_bytes(b"x")
        os.rename(tmp_path / "outside", root / "renamed in")
        (tmp_path / "other").write_bytes(b"x")
        os.link(tmp_path / "other", root / "linked")
        (root / "symbolic").symlink_to("nowhere")
        (root / "x.part").write_bytes(b"x")
        os.rename(root / "x.part", root / "x")
        fd = os.open(root, os.O_TMPFILE | os.O_WRONLY, 0o600)
        os.write(fd, b"x")
        os.link(f"/proc/self/fd/{fd}", root / "nameless", src_dir_fd=fd, follow_symlinks=True)
        os.close(fd)
        (root / "empty").touch()
        notices = await site.take()
        assert notices[b"written"][0] is Notice.CREATED
        assert notices[b"written"][-1] is Notice.CLOSED
        assert notices[b"renamed in"] == [Notice.MOVED]
        assert notices[b"linked"] == [Notice.CREATED]
        assert notices[b"symbolic"] == [Notice.CREATED]
        assert notices[b"x.part"][-1] is Notice.CLOSED
        assert notices[b"x"] == [Notice.MOVED]
        assert notices[b"nameless"] == [Notice.CREATED]  # its close comes under a name that it does not have
        assert notices[b"empty"][-1] is Notice.CLOSED

    run(root, scenario)


def test_every_way_of_changing_a_file(root: Path) -> None:
    """Writes are noticed as they happen, truncate(2) without any close, mapped memory only at the close."""
    for name in ("written", "truncated", "mapped", "removed", "read", "touched", "chmodded"):
        (root / name).write_bytes(b"x" * 5000)

    async def scenario(site: Site) -> None:
        with (root / "written").open("r+b", buffering=0) as file:
            file.write(b"y")
            assert (await site.take())[b"written"] == [Notice.MODIFIED]
        assert (await site.take())[b"written"] == [Notice.CLOSED]
        os.truncate(root / "truncated", 10)
        assert (await site.take())[b"truncated"] == [Notice.MODIFIED]
        fd = os.open(root / "mapped", os.O_RDWR)
        mapped = mmap.mmap(fd, 0)
        os.close(fd)
        mapped[0:3] = b"abc"
        mapped.flush()
        assert b"mapped" not in await site.take()
        mapped.close()
        assert (await site.take())[b"mapped"] == [Notice.CLOSED]
        (root / "read").read_bytes()
        (root / "removed").unlink()
        assert await site.take() == {}  # reading, as we do ourselves, is no news: it would never end

    run(root, scenario)


def test_two_writers_and_a_killed_one(root: Path) -> None:
    """A close is noticed for each writer, also of one that was killed: it is a hint, and no proof of completeness."""

    async def scenario(site: Site) -> None:
        with (root / "a").open("wb", buffering=0) as first:
            with (root / "a").open("ab", buffering=0) as second:
                second.write(b"x")
            assert (await site.take())[b"a"][-1] is Notice.CLOSED
            first.write(b"y")
        assert (await site.take())[b"a"] == [Notice.MODIFIED, Notice.CLOSED]
        script = "import sys, time; f = open(sys.argv[1], 'wb', 0); f.write(b'half'); print(flush=True); time.sleep(60)"
        writer = subprocess.Popen([sys.executable, "-c", script, root / "half"], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        await asyncio.to_thread(writer.stdout.readline)
        writer.kill()
        writer.communicate()
        assert (await site.take())[b"half"][-1] is Notice.CLOSED

    run(root, scenario)


def test_names_are_bytes(root: Path) -> None:
    """Names of any bytes come as they are, in files and directories, old and new."""
    names = [b"\xff\xfe", b"new\nline", b" blank ", "😀".encode(), b"-rf"]
    for name in names[:2]:
        os.mkdir(os.path.join(os.fsencode(root), name))

    async def scenario(site: Site) -> None:
        for directory in names:
            full = os.path.join(os.fsencode(root), directory)
            os.makedirs(full, exist_ok=True)
            for name in names:
                with open(os.path.join(full, name), "wb"):
                    pass
        notices = await site.take()
        assert {directory + b"/" + name for directory in names for name in names} <= notices.keys()

    run(root, scenario)


def test_what_only_we_write_is_never_noticed(root: Path) -> None:
    """Signatures, error notes and our temporaries wake nobody; a directory of such a name is one like any other."""

    async def scenario(site: Site) -> None:
        temporary = root / ".dropsign-0123456789ab-1.tmp"
        temporary.write_bytes(b"s")
        os.rename(temporary, root / "a.sign")
        (root / "a.sign-error").write_bytes(b"e")
        (root / "d.sign").mkdir()
        (root / "d.sign" / "a").write_bytes(b"x")
        assert (await site.take()).keys() == {b"d.sign/a", b"d"}  # whose signature has the directory's name

    run(root, scenario)


# Directories


def test_files_written_in_the_instant_their_directory_appears(root: Path) -> None:
    """However fast directories are made and filled, each of their files is noticed at least once."""

    async def scenario(site: Site) -> None:
        def fill() -> None:
            for number in range(200):
                directory = root / f"{number}" / "deep" / "er"
                directory.mkdir(parents=True)
                (directory / "a").write_bytes(b"x")
                (root / f"{number}" / "b").write_bytes(b"x")

        await asyncio.to_thread(fill)
        wanted = {b"%d/%s" % (number, name) for number in range(200) for name in (b"deep/er/a", b"b")}
        await site.until(lambda: wanted <= {path for path, _ in site.notices})
        assert site.losses == []

    run(root, scenario)


def test_directory_tree_moved_in(root: Path, tmp_path: Path) -> None:
    """All files of a tree that is moved in are noticed, and so is all that happens in there afterwards."""
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "sub" / "a").write_bytes(b"x")
    (tmp_path / "tree" / "sub" / "a.sign").write_bytes(b"x")

    async def scenario(site: Site) -> None:
        os.rename(tmp_path / "tree", root / "tree")
        await site.until(lambda: (b"tree/sub/a", Notice.CREATED) in site.notices)
        await site.take()
        (root / "tree" / "sub" / "b").write_bytes(b"x")
        assert (await site.take()).keys() == {b"tree/sub/b"}

    run(root, scenario)


def test_directory_made_and_renamed(root: Path) -> None:
    """`mkdir tmp/sub; mv tmp final`: what is written to final/sub is noticed, at once and later, under that name."""

    async def scenario(site: Site) -> None:
        for number in range(50):
            (root / f"tmp{number}" / "sub").mkdir(parents=True)
            os.rename(root / f"tmp{number}", root / f"final{number}")
            (root / f"final{number}" / "sub" / "a").write_bytes(b"x")
        wanted = {b"final%d/sub/a" % number for number in range(50)}
        await site.until(lambda: wanted <= {path for path, _ in site.notices})
        await site.take()
        for number in range(50):
            (root / f"final{number}" / "sub" / "a").write_bytes(b"y")
        assert (await site.take()).keys() == wanted

    run(root, scenario)


def test_directory_moved_out_is_watched_no_more(root: Path, tmp_path: Path) -> None:
    """What happens in a tree after it was moved out comes under no path, least of all under its old one."""
    (root / "d" / "sub").mkdir(parents=True)

    async def scenario(site: Site) -> None:
        os.rename(root / "d", tmp_path / "d")
        await site.take()
        (tmp_path / "d" / "a").write_bytes(b"x")
        (tmp_path / "d" / "sub" / "b").write_bytes(b"x")
        (root / "d").mkdir()
        (root / "d" / "c").write_bytes(b"x")
        await site.until(lambda: b"d/c" in {path for path, _ in site.notices})
        assert (await site.take()).keys() == {b"d/c"}
        (tmp_path / "d" / "a").write_bytes(b"y")
        assert await site.take() == {}

    run(root, scenario)


def test_removed_directory_that_comes_back(root: Path) -> None:
    """A directory removed and made again, many times over, is watched each time, and no watch is left behind."""

    async def scenario(site: Site) -> None:
        for number in range(30):
            (root / "d").mkdir()
            (root / "d" / f"{number}").write_bytes(b"x")
            await site.until(partial(site.has_noticed, b"d/%d" % number))
            shutil.rmtree(root / "d")
        await site.take()
        assert list(site.watcher._directories.values()) == [b""]

    run(root, scenario)


def test_links_to_directories_are_not_watched(root: Path, tmp_path: Path) -> None:
    """What happens behind a symbolic link is not ours, whether it was there before or comes later."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "before").symlink_to(outside)

    async def scenario(site: Site) -> None:
        (root / "later").symlink_to(outside)
        await site.take()
        (outside / "a").write_bytes(b"x")
        assert await site.take() == {}

    run(root, scenario)


def test_without_recursion_only_the_root_is_watched(root: Path) -> None:
    """With recursive = false, notices come of the outbox's own files alone."""
    (root / "old").mkdir()

    async def scenario(site: Site) -> None:
        (root / "new").mkdir()
        (root / "old" / "a").write_bytes(b"x")
        (root / "new" / "a").write_bytes(b"x")
        (root / "b").write_bytes(b"x")
        assert (await site.take()).keys() == {b"b"}

    run(root, scenario, recursive=False)


def test_tree_of_a_thousand_levels() -> None:
    """A tree deeper than Python's recursion limit is watched to its end."""
    levels = 1400
    root = Path(tempfile.mkdtemp())
    try:
        fd = os.open(root, os.O_RDONLY)
        for _ in range(levels):
            os.mkdir("d", dir_fd=fd)
            below = os.open("d", os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below

        async def scenario(site: Site) -> None:
            os.close(os.open("a", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
            assert (await site.take()).keys() == {b"d/" * levels + b"a"}
            assert site.losses == []

        run(root, scenario)
        os.close(fd)
    finally:
        subprocess.run(["rm", "-rf", root], check=True)


# Loss


def test_overflow_is_told_and_missed_directories_are_watched_again(root: Path) -> None:
    """When the kernel's queue runs over, that is told, and directories made meanwhile are watched from then on."""
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if most > 70_000:
        pytest.skip(f"fs.inotify.max_queued_events is {most}: too many to run over in a test")

    async def scenario(site: Site) -> None:
        reader = site.watcher._reader
        assert reader is not None
        with reader._lock:  # where the reader waits before it reads: a busy machine, just longer
            (root / "wake").touch()
            await asyncio.sleep(0.05)
            for _ in range(most // 4 + 1000):  # four different ones each, as equal ones in a row are one
                for name in ("x", "y"):
                    fd = os.open(root / name, os.O_CREAT | os.O_WRONLY)
                    os.close(fd)
                    os.unlink(root / name)
            (root / "missed" / "sub").mkdir(parents=True)
            (root / "missed" / "sub" / "a").touch()
        await site.until(lambda: site.losses)
        assert site.losses == [(Loss.OVERFLOW, "")]
        await site.take()
        (root / "missed" / "sub" / "b").write_bytes(b"x")
        assert (await site.take()).keys() == {b"missed/sub/b"}
        assert site.watcher.healthy()

    run(root, scenario)


@pytest.mark.parametrize("what", ["renamed", "removed", "replaced"])
def test_lost_root_is_told(root: Path, what: str) -> None:
    """The outbox renamed away, removed or replaced is said to be lost, and the watcher knows that it is not healthy."""

    async def scenario(site: Site) -> None:
        assert site.watcher.healthy()
        if what == "removed":
            root.rmdir()
        else:
            root.rename(root.with_name("old"))
            if what == "replaced":
                root.mkdir()
        assert not site.watcher.healthy()
        await site.until(lambda: site.losses)
        assert site.losses[0] == (Loss.ROOT, str(root))

    run(root, scenario)


class Broken(Watcher):
    """One with a defect."""

    def on_event(self, event: InotifyEvent) -> None:
        raise ZeroDivisionError(event.name)


def test_death_of_the_reader_is_told(root: Path) -> None:
    """If the thread ends by a defect, that is a loss like any other, and the watcher is not healthy: never silence."""

    async def scenario() -> None:
        async with watching(root, Broken) as site:
            (root / "a").touch()
            await site.until(lambda: site.losses)
            assert site.losses == [(Loss.READER, "ZeroDivisionError: b'a'")]
            await site.until(lambda: not site.watcher.healthy())

    asyncio.run(scenario())


def test_closing_is_no_loss_and_leaves_nothing_behind(root: Path) -> None:
    """A watcher that is closed tells nothing more; its thread has ended and its descriptors are closed."""
    (root / "d").mkdir()
    before = len(os.listdir("/proc/self/fd"))

    async def scenario() -> None:
        inside = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            async with watching(root) as site:
                (root / "d" / "a").write_bytes(b"x")
                await site.take()
            await asyncio.sleep(0.01)
            assert site.losses == []
            assert len(os.listdir("/proc/self/fd")) == inside

    asyncio.run(scenario())
    assert len(os.listdir("/proc/self/fd")) == before
    assert "watcher" not in {thread.name for thread in threading.enumerate()}


LIMITED = """
import asyncio, os, sys
from pathlib import Path
from dropsign.watcher import Loss, Watcher

def allow(watches):
    Path("/proc/sys/user/max_inotify_watches").write_text(str(watches))

root = Path(sys.argv[1])
for number in range(20):
    (root / f"{number}").mkdir()

async def main():
    losses = []
    def make():
        return Watcher(root, recursive=True, on_batch=lambda _: None, on_loss=lambda *loss: losses.append(loss))

    allow(0)
    inside = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        watcher = make()
        try:
            await asyncio.to_thread(watcher.start)
        except OSError as error:
            assert error.errno == 28, error
        else:
            raise AssertionError("started without a single watch")
        watcher.close()
        assert not watcher.healthy()
    assert len(os.listdir("/proc/self/fd")) == inside, os.listdir("/proc/self/fd")
    assert losses == []

    allow(5)
    watcher = make()
    await asyncio.to_thread(watcher.start)
    await asyncio.sleep(0.1)
    assert len(watcher.unwatched) == 16, watcher.unwatched
    assert {loss for loss, _ in losses} == {Loss.LIMIT}, losses
    assert "watch limit reached" in losses[0][1], losses
    assert watcher.healthy()
    allow(100)
    watcher.on_queue_overflow()  # the next time that all is looked through
    assert watcher.unwatched == {}
    watcher.close()
    print("well limited")

asyncio.run(main())
"""


def test_watch_limit(root: Path) -> None:
    """Directories beyond the limit are told; without a single watch, starting fails and leaks nothing."""
    unshare = ["unshare", "--user", "--map-root-user"]
    probe = subprocess.run(
        [*unshare, "sh", "-c", "echo 5 > /proc/sys/user/max_inotify_watches"], capture_output=True, check=False
    )
    if probe.returncode:
        pytest.skip(f"needs a user namespace with an inotify limit of its own: {probe.stderr.decode()}")
    done = subprocess.run([*unshare, sys.executable, "-c", LIMITED, root], capture_output=True, text=True, check=False)
    assert done.stdout == "well limited\n", done.stderr


def test_directory_that_may_not_be_read_is_told() -> None:
    """A directory without permission is a loss that is told once; all others are watched."""
    root = Path(tempfile.mkdtemp())
    root.chmod(0o777)
    for name in ("locked", "fine"):
        (root / name).mkdir()
        (root / name).chmod(0o777)
    (root / "locked").chmod(0)

    async def scenario(site: Site) -> None:
        assert site.watcher.unwatched == {b"locked": Loss.ACCESS}
        (root / "fine" / "a").write_bytes(b"x")
        assert (await site.take()).keys() == {b"fine/a"}
        site.watcher.on_queue_overflow()
        await site.caught_up()
        assert [loss for loss in site.losses if loss[0] is Loss.ACCESS] == [(Loss.ACCESS, "Permission denied: locked")]

    privileged = os.geteuid() == 0
    try:
        if privileged:
            os.seteuid(NOBODY)
        run(root, scenario)
    finally:
        if privileged:
            os.seteuid(0)
        (root / "locked").chmod(0o700)
        shutil.rmtree(root)


# The hand-over, and what it is built on


def test_burst_costs_few_hand_overs(root: Path) -> None:
    """Notices come in batches: thousands of them wake the loop a few times only."""

    async def scenario(site: Site) -> None:
        for number in range(2000):
            os.close(os.open(root / f"{number}", os.O_CREAT | os.O_WRONLY))
        notices = await site.take()
        assert len(notices) == 2000
        assert site.batches < 200

    run(root, scenario)


def test_descriptors_are_not_inherited(root: Path) -> None:
    """A child process gets none of the watcher's descriptors, even one that is started carelessly."""

    async def scenario(site: Site) -> None:
        script = """
import os
for number in os.listdir("/proc/self/fd"):
    if os.path.lexists(f"/proc/self/fd/{number}"):
        print(os.readlink(f"/proc/self/fd/{number}"))
"""
        done = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", script], close_fds=False, capture_output=True, text=True, check=True
        )
        assert "inotify" not in done.stdout
        reader = site.watcher._reader
        assert reader is not None
        assert "inotify" in os.readlink(f"/proc/self/fd/{reader._inotify_fd}")
        assert not any(os.get_inheritable(fd) for fd in (reader._inotify_fd, reader._kill_r, reader._kill_w))

    run(root, scenario)


def test_watchdogs_inside_is_what_we_build_on(root: Path) -> None:
    """Of the pinned watchdog we use what is not documented: an upgrade that changes it must fail here, and loudly."""
    assert version("watchdog").startswith("7.1.")
    fd = InotifyFD()
    try:
        mask = Mask(InotifyConstants.IN_CREATE | InotifyConstants.IN_ONLYDIR)
        watch = fd._get_or_create_watch(os.fsencode(root), mask)
        assert fd._get_or_create_watch(os.fsencode(root), mask) is watch  # looked up, not made twice
        assert fd._watch_for_wd == {watch.wd: watch}
        assert watch.callbacks == {}
        os.mkdir(root / "d")
        os.mkfifo(os.path.join(os.fsencode(root), b"\xff"))
        events = list(fd._parse_event_buffer(fd._read_event_buffer(65536)))
        create = InotifyConstants.IN_CREATE
        assert events == [(watch.wd, create | InotifyConstants.IN_ISDIR, 0, b"d"), (watch.wd, create, 0, b"\xff")]
        with pytest.raises(NotADirectoryError):
            fd._get_or_create_watch(os.path.join(os.fsencode(root), b"\xff"), mask)
        with pytest.raises(FileNotFoundError):
            fd._get_or_create_watch(b"/no/such/directory", mask)
        assert fd.should_keep_running()
        assert not fd._closed
        with fd._lock:
            assert fd._lock.locked()
    finally:
        fd._is_reading = False
        fd.close()
    assert fd._closed
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd._inotify_fd)
