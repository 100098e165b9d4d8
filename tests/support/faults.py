"""Faults of this machine, for real: small disks, failing system calls, descriptors that run out."""

import os
import re
import resource
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.sandbox import APP_SECRET, Sandbox, wait_until


@contextmanager
def small_disk(directory: Path, size: str = "1m") -> Iterator[Path]:
    """Mount a small file system on a directory; without the right to mount, the test is skipped."""
    directory.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", directory], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount: {mounted.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


def remount(directory: Path, option: str) -> None:
    """Remount a file system with another option; tried again while somebody has a file open for writing there."""
    command: list[str | Path] = ["mount", "-o", f"remount,{option}", directory]
    wait_until(lambda: subprocess.run(command, capture_output=True, check=False).returncode == 0, what="the remount")


def fill(directory: Path) -> Path:
    """Use up all the room of a small disk; return the file that takes it."""
    filler = directory / ".filler"
    with filler.open("ab", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return filler


@contextmanager
def failing(box: Sandbox, call: str, error: str, path: Path | None = None) -> Iterator[Path]:
    """Have a system call of the running daemon fail; give the file with strace's record of it.

    Args:
        box: its daemon.
        call: such as `fsync`.
        error: such as `EIO`.
        path: only calls for this file; all by default.
    """
    assert box.daemon is not None
    record = box.directory / f"strace-{call}-{error}"
    only = [] if path is None else ["-P", str(path)]
    command = ["strace", "-f", "-y", "-p", str(box.daemon.pid), "-o", str(record), *only]
    with (box.directory / "strace.err").open("w+b") as told:
        tracer = subprocess.Popen(
            [*command, "-e", f"trace={call},renameat,renameat2", "-e", f"inject={call}:error={error}"],
            stdin=subprocess.DEVNULL, stderr=told,
        )  # fmt: skip
        try:
            wait_until(lambda: b"attached" in Path(told.name).read_bytes() or tracer.poll() is not None)
            assert tracer.poll() is None, Path(told.name).read_text()
            yield record
        finally:
            tracer.send_signal(signal.SIGTERM)  # it lets go of the daemon
            tracer.wait()


def failed_and_renamed(record: Path) -> tuple[set[str], set[str]]:
    """Return, from strace's record, the temporaries whose fsync failed, and those that were renamed."""
    text = record.read_text(errors="replace")
    failed = set(re.findall(r"fsync\(\d+<[^>]*/(\.dropsign-[^>]+)>\) += -1", text))
    renamed = set(re.findall(r'renameat2?\([^"]*"(\.dropsign-[^"]+)", .*\) = 0', text))
    return failed, renamed


@contextmanager
def no_more_descriptors(box: Sandbox) -> Iterator[None]:
    """Let the running daemon open nothing beside what it has open: a new descriptor gets the lowest free number."""
    assert box.daemon is not None
    pid = box.daemon.pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def gate_lines(box: Sandbox) -> list[tuple[str, str]]:
    """Return each line that tells of the gate's closing or opening, with the reason."""
    events = {"gate.closed": "closed", "gate.opened": "opened"}
    return [(events[line["event"]], line["reason"]) for line in box.log() if line["event"] in events]


def recorded(journal: Path) -> dict[bytes, tuple[str, tuple[int, ...], bytes | None]]:
    """Return state, fingerprint and signature of all that a journal holds, read with nothing of the program."""
    query = (
        "SELECT p.path, d.name, d.state, d.device, d.inode, d.size, d.mtime_ns, d.ctime_ns, s.text FROM drops d"
        " JOIN directories p ON p.id = d.directory LEFT JOIN signatures s ON s.id = d.signature"
    )
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True, timeout=20)) as connection:
        rows = connection.execute(query).fetchall()
    return {(row[0] + b"/" if row[0] else b"") + row[1]: (row[2], tuple(row[3:8]), row[8]) for row in rows}


def assert_agreement(box: Sandbox, *paths: Path) -> None:
    """Check that every file is signed as the journal says, and that nothing else is in the journal or in the log."""
    box.wait_idle(60)

    def agrees() -> bool:
        known = recorded(box.journal)
        states = {path: path.lstat() for path in paths}
        expected = {
            os.fsencode(path.relative_to(box.outbox)): (
                "signed",
                (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns),
                box.sign_of(path).read_bytes(),
            )
            for path, now in states.items()
        }
        return known == expected

    wait_until(agrees, 60, "agreement between journal and outbox")
    assert all(map(box.is_signed, paths))
    assert not [name for name in box.files() if name.rpartition(b"/")[2].startswith(b".dropsign-")], "no temporary"
    assert not box.events("daemon.defect")
    assert not box.events("file.failed")
    assert APP_SECRET not in box.daemon_log.read_text()
