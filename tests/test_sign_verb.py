"""`dropsign sign` and `dropsign status`: one shot without a daemon, or through it, with the promised exit codes."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.names import HOSTILE
from tests.support.sandbox import SLOWNESS, Sandbox, dropsign, powerless, sha256, wait_until


def _tree(directory: Path, files: int = 20) -> list[Path]:
    paths = [directory / f"d{number % 3}" / f"f{number}" for number in range(files)]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{path}".encode())
    return paths


def _signs(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.name.endswith(".sign")]


def sign(box: Sandbox, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    done = dropsign("--config", box.config, "sign", *arguments)
    assert "Traceback" not in done.stderr + done.stdout
    return done


def test_outside_of_the_outbox(box: Sandbox) -> None:
    """A directory anywhere is signed in place, each file once; a second run leaves it alone and sends nothing."""
    directory = box.directory / "elsewhere"
    paths = _tree(directory)
    done = sign(box, directory)
    assert (done.returncode, done.stderr) == (0, "")
    assert "20 signed" in done.stdout.splitlines()[-1]
    assert len(done.stdout.splitlines()) == 21, "a line for each file where no terminal is"
    assert all(map(box.is_signed, paths))
    assert len(_signs(directory)) == 20
    done = sign(box, directory)
    assert done.returncode == 0
    assert len(box.requests()) == 20
    assert not box.journal.exists(), "what is not in the outbox is none of the journal's business"
    paths[0].write_bytes(b"changed")
    os.utime(box.sign_of(paths[0]), (1, 1))
    assert sign(box, directory).returncode == 0
    assert box.is_signed(paths[0])
    assert len(box.requests()) == 21


def test_hostile_names_and_single_files(box: Sandbox) -> None:
    """Files given by name are signed, whatever the name, also where they are given twice or with their directory."""
    directory = box.directory / "elsewhere"
    directory.mkdir()
    paths = [directory / os.fsdecode(name) for name in HOSTILE]
    for number, path in enumerate(paths):
        path.write_bytes(b"%d" % number)
    some = [os.fsencode(path) for path in paths[:6]]
    command = [sys.executable, "-m", "dropsign", "--config", str(box.config), "sign", "--"]
    relative = [os.path.basename(path) for path in some]
    done = subprocess.run([*command, *relative, *relative], capture_output=True, check=False, cwd=directory)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode("utf-8"), "what is printed is text, whatever the names are"
    assert all(map(box.is_signed, paths[:6]))
    assert len(box.requests()) == 6
    assert sign(box, directory, paths[0], directory).returncode == 0
    assert all(map(box.is_signed, paths))
    assert set(box.times_signed().values()) == {1}


def test_inside_the_outbox_without_a_daemon(box: Sandbox) -> None:
    """In the outbox the journal is used: a second run sends nothing, puts lost signatures back, and a daemon agrees."""
    paths = _tree(box.outbox)
    paths.append(box.drop(".hidden"))
    done = sign(box, box.outbox)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(box.requests()) == 20
    text = box.sign_of(paths[3]).read_bytes()
    box.sign_of(paths[3]).unlink()
    done = sign(box, box.outbox / "d0", paths[3])
    assert done.returncode == 0
    assert "republished" in done.stdout
    assert box.sign_of(paths[3]).read_bytes() == text
    box.start_daemon()
    box.wait_idle()
    assert box.status()["signed"] == 20
    assert len(box.requests()) == 20


def test_with_a_daemon_running(box: Sandbox) -> None:
    """Where a daemon runs on the outbox it is asked, and waited for; nothing is sent twice."""
    box.start_daemon()
    box.misbehave("delay 20ms")
    paths = _tree(box.outbox, 300)
    done = sign(box, box.outbox)
    assert (done.returncode, done.stderr) == (0, "")
    box.assert_exactly_signed(*paths)
    assert set(box.times_signed().values()) == {1}
    done = sign(box, paths[0], box.outbox / "d1")
    assert done.returncode == 0
    assert len(box.requests()) == 300


def test_temporaries_of_a_daemon_are_left_alone(box: Sandbox) -> None:
    """A one-shot beside a daemon does not take the daemon's temporaries, which are in use, for left-overs."""
    box.start_daemon()
    box.wait_signed(box.drop("file"))
    box.wait_idle()
    temporary = box.drop(".dropsign-0123456789ab-0.tmp")
    for options in ((), ("--force",), ("--dry-run",)):
        assert sign(box, *options, box.outbox).returncode == 0
    assert temporary.exists()
    box.rescan()
    assert not temporary.exists(), "the daemon itself, which holds the lock, knows whose it is"


def test_with_a_daemon_a_failed_file_is_tried_again(box: Sandbox) -> None:
    """Through the daemon, too, a file that fails gives exit code 1 and its reason; and it is tried again when asked."""
    box.start_daemon()
    box.misbehave("422")
    path = box.drop("file")
    for requests in (1, 2):
        done = sign(box, path)
        assert done.returncode == 1
        assert "422" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert len(box.requests()) >= requests
    box.misbehave("")
    assert sign(box, path).returncode == 0
    assert box.is_signed(path)


@pytest.mark.parametrize("where", ["outside", "inside", "daemon"])
def test_force(box: Sandbox, where: str) -> None:
    """--force signs again what is signed already, each file once, be it outside, inside or through the daemon."""
    directory = box.directory / "elsewhere" if where == "outside" else box.outbox
    paths = _tree(directory, 12)
    if where == "daemon":
        box.start_daemon()
    assert sign(box, directory).returncode == 0
    before = [box.sign_of(path).read_bytes() for path in paths]
    done = sign(box, "--force", directory)
    assert (done.returncode, done.stderr) == (0, "")
    assert "12 signed" in done.stdout
    assert all(map(box.is_signed, paths))
    assert all(box.sign_of(path).read_bytes() != text for path, text in zip(paths, before, strict=True))
    assert set(box.times_signed().values()) == {2}


@pytest.mark.parametrize("running", [False, True])
def test_dry_run(box: Sandbox, running: bool) -> None:
    """--dry-run lists what would be signed, and does nothing at all."""
    directory = box.directory / "elsewhere"
    paths = _tree(directory, 6)
    assert sign(box, directory / "d0").returncode == 0
    if running:
        box.start_daemon()
    state = sorted(box.directory.rglob("*"))
    (directory / "d1" / "x.tmp").write_bytes(b"unfinished")
    done = sign(box, "--dry-run", directory)
    assert done.returncode == 0
    assert sorted(done.stdout.splitlines()) == sorted(str(path) for path in paths if path.parent.name != "d0")
    (directory / "d1" / "x.tmp").unlink()
    assert sorted(box.directory.rglob("*")) == state
    done = sign(box, "--dry-run", "--force", directory)
    assert sorted(done.stdout.splitlines()) == sorted(map(str, paths))
    assert len(box.requests()) == 2


def test_failed_and_refused_files(box: Sandbox) -> None:
    """A file that fails or is refused gives exit code 1 and a line with its reason; the others are signed."""
    box.stop_service()
    box.start_service("--max-mib", "0.01")
    directory = box.directory / "elsewhere"
    paths = _tree(directory, 4)
    (directory / "large").write_bytes(b"x" * 20_000)
    (directory / "link").symlink_to(paths[0])
    os.mkfifo(directory / "fifo")
    for _ in range(2):
        done = sign(box, directory)
        assert done.returncode == 1
        lines = sorted(done.stderr.splitlines())
        assert len(lines) == 3, done.stderr
        expected = ("fifo: refused: fifo", "large: failed: ", "link: refused: symbolic_link")
        for line, part in zip(lines, expected, strict=True):
            assert part in line
        assert "413" in lines[1]
        assert "1 failed" in done.stdout
        assert "2 refused" in done.stdout
    assert all(map(box.is_signed, paths))
    assert len(_signs(directory)) == 4


def test_refused_files_inside_the_outbox(box: Sandbox) -> None:
    """In the outbox, too, what is refused or failed gives exit code 1 at every run, not at the first one alone."""
    box.misbehave("422")
    path = box.drop("file")
    (box.outbox / "link").symlink_to(path)
    for _ in range(2):
        done = sign(box, box.outbox)
        assert done.returncode == 1, done.stdout
        assert "link: refused" in done.stderr
        assert "file: failed" in done.stderr
        assert len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize("where", ["outside", "inside"])
def test_service_down(idle_box: Sandbox, where: str) -> None:
    """With the service down, exit code 3, on one line; nothing was touched or charged."""
    box = idle_box
    directory = box.directory / "elsewhere" if where == "outside" else box.outbox
    paths = _tree(directory, 3)
    done = sign(box, directory)
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1
    assert "cannot be reached" in done.stderr or "Connect" in done.stderr
    assert not _signs(directory)
    box.start_service()
    assert sign(box, directory).returncode == 0
    assert all(map(box.is_signed, paths))


def test_nothing_to_sign_needs_no_service(idle_box: Sandbox) -> None:
    """An empty directory, or one whose files are all left out, is no error."""
    (idle_box.outbox / "x.tmp").write_bytes(b"unfinished")
    idle_box.start_service()
    done = sign(idle_box, idle_box.outbox)
    assert (done.returncode, done.stderr) == (0, "")
    assert not idle_box.requests()


def test_bad_paths(box: Sandbox) -> None:
    """A path that is not there, cannot be reached or is no file gives exit code 2 on one line that names it."""
    locked = box.directory / "locked"
    locked.mkdir()
    (locked / "file").write_bytes(b"x")
    locked.chmod(0)
    os.mkfifo(box.directory / "fifo")
    bad = [box.outbox / "none", box.outbox / ("n" * 300), box.directory / "fifo", locked / "file", Path("/dev/null")]
    for path in bad:
        done = subprocess.run(
            [*powerless(), sys.executable, "-m", "dropsign", "--config", str(box.config), "sign", str(path)],
            capture_output=True, text=True, check=False, timeout=60 * SLOWNESS,
        )  # fmt: skip
        assert done.returncode == 2, (path, done.stderr)
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert path.name in done.stderr
    assert not box.requests()


def test_a_directory_that_cannot_be_read(box: Sandbox) -> None:
    """Files below a directory that cannot be entered are not passed over in silence: exit code 1, and its name."""
    directory = box.directory / "elsewhere"
    paths = _tree(directory, 6)
    (directory / "d1").chmod(0)
    done = subprocess.run(
        [*powerless(), sys.executable, "-m", "dropsign", "--config", str(box.config), "sign", str(directory)],
        capture_output=True, text=True, check=False, timeout=60 * SLOWNESS,
    )  # fmt: skip
    (directory / "d1").chmod(0o755)
    assert "Traceback" not in done.stderr
    assert done.returncode == 1
    assert "d1" in done.stderr
    assert [box.is_signed(path) for path in paths] == [path.parent.name != "d1" for path in paths]


@pytest.mark.parametrize("where", ["outside", "inside"])
def test_interrupted(box: Sandbox, where: str) -> None:
    """Ctrl-C ends with 130, no traceback and nothing half done; the next run goes on from there."""
    box.configure("service", concurrency=2)
    box.configure("daemon", grace_seconds=1)
    box.misbehave("delay 300ms")
    directory = box.directory / "elsewhere" if where == "outside" else box.outbox
    paths = _tree(directory, 30)
    process = subprocess.Popen(
        [sys.executable, "-m", "dropsign", "--config", str(box.config), "sign", str(directory)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_until(lambda: len(_signs(directory)) >= 2, what="the first signatures")
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30 * SLOWNESS)
    assert process.returncode == 130
    assert "Traceback" not in error
    signed = [path for path in paths if box.sign_of(path).exists()]
    assert 2 <= len(signed) < 30
    assert all(map(box.is_signed, signed))
    assert not [path for path in directory.rglob("*") if path.name.startswith(".")]
    box.misbehave("")
    assert sign(box, directory).returncode == 0
    assert all(map(box.is_signed, paths))
    assert len(box.requests()) <= 30 + 4


def test_rewritten_while_it_is_signed(box: Sandbox) -> None:
    """A file that changes under the one-shot is signed for what it is in the end."""
    box.misbehave("delay 1s")
    path = box.directory / "elsewhere" / "file"
    path.parent.mkdir()
    path.write_bytes(b"old")
    process = subprocess.Popen([sys.executable, "-m", "dropsign", "--config", str(box.config), "sign", str(path)])
    wait_until(lambda: _connected(box.port), what="the request")
    path.write_bytes(b"new")
    assert process.wait(40 * SLOWNESS) == 0
    assert box.is_signed(path)
    assert box.times_signed()[sha256(b"new")] == 1


def _connected(port: int) -> bool:
    """Tell whether somebody has a connection to a port of this machine."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(line.split()[2].endswith(f":{port:04X}") and line.split()[3] == "01" for line in lines)


def test_status_from_the_daemon_and_from_the_journal(box: Sandbox) -> None:
    """`status` tells the same counts from the running daemon and, saying so, from the journal; --json parses."""

    def status(*options: str) -> subprocess.CompletedProcess[str]:
        return dropsign("--config", box.config, "status", *options)

    done = status()
    assert done.returncode == 3, "neither a daemon nor a journal"
    assert len(done.stderr.splitlines()) == 1
    box.start_daemon()
    box.misbehave("422")
    bad = box.drop("bad")
    wait_until(lambda: box.known("failed"), what="the failure")
    box.misbehave("")
    paths = [bad, *_tree(box.outbox, 8)]
    (box.outbox / "link").symlink_to(bad)
    box.wait_signed(*paths[1:])
    wait_until(lambda: box.status()["refused"] == 1, what="the refusal")
    box.wait_idle()
    counts = {"signed": 8, "failed": 1, "refused": 1, "backlog": 0}
    running = json.loads(status("--json").stdout)
    assert running["running"] is True
    assert running["ready"] is True
    assert {key: running[key] for key in counts} == counts
    plain = status()
    assert plain.returncode == 0
    assert "ready" in plain.stdout
    assert str(box.outbox) in plain.stdout.replace("\n", "")
    assert box.stop_daemon() == 0
    done = status("--json")
    assert done.returncode == 0
    stopped = json.loads(done.stdout)
    assert stopped["running"] is False
    assert {key: stopped[key] for key in counts} == counts
    assert stopped.keys() == running.keys()
    assert "not running" in status().stdout
    box.start_daemon()
    box.kill_daemon()
    assert json.loads(status("--json").stdout)["signed"] == 8, "a left-over socket does not hide the journal"


def test_status_in_an_outage(idle_box: Sandbox) -> None:
    """`status` tells that the gate is closed, and why."""
    box = idle_box
    box.start_daemon()
    wait_until(lambda: box.events("gate.closed"), what="the gate's closing")
    done = dropsign("--config", box.config, "status")
    assert done.returncode == 0
    assert "unreachable" in done.stdout
    found = json.loads(dropsign("--config", box.config, "status", "--json").stdout)
    assert found["gate"]["closed"] is True
    assert found["gate"]["reason"] == "unreachable"
    assert found["ready"] is False


def test_two_at_once_on_one_directory(box: Sandbox) -> None:
    """A second one-shot on the directory of a first does not race it; it says who is there."""
    box.misbehave("delay 4s")
    directory = box.directory / "elsewhere"
    paths = _tree(directory, 3)
    first = subprocess.Popen([sys.executable, "-m", "dropsign", "--config", str(box.config), "sign", str(directory)])
    wait_until(lambda: _connected(box.port), what="the request")
    first.send_signal(signal.SIGSTOP)  # it is still there, however long the second takes to begin
    done = sign(box, directory)
    first.send_signal(signal.SIGCONT)
    assert done.returncode in {2, 3}
    assert "another dropsign" in done.stderr
    assert first.wait(30 * SLOWNESS) == 0
    assert all(map(box.is_signed, paths))
    assert set(box.times_signed().values()) == {1}
    shutil.rmtree(directory)


def test_a_touched_file_does_not_keep_sign_waiting(box: Sandbox) -> None:
    """In the outbox, a file signed before and only touched since is unchanged, and said so; nothing is sent."""
    path = box.drop("touched")
    assert sign(box, box.outbox).returncode == 0
    os.utime(path, (1_700_000_000, 1_700_000_000))
    done = sign(box, box.outbox)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 unchanged" in done.stdout
    assert len(box.requests()) == 1
