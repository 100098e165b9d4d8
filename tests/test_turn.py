"""What befalls a daemon's surroundings: `sign` on its outbox as it starts, its socket removed, FIFOs for its files."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.sandbox import SLOWNESS, Sandbox, dropsign, wait_until


def begun(box: Sandbox, *paths: Path) -> "subprocess.Popen[bytes]":
    """Start `sign` with a service that thinks for long, and stop it in the middle, however slow the daemon starts."""
    box.misbehave("delay 3s")
    one_shot = subprocess.Popen(
        [sys.executable, "-m", "dropsign", "--config", str(box.config), "sign", *map(str, paths)]
    )
    wait_until(lambda: box.journal.with_name(box.journal.name + ".lock").exists(), what="the journal's claim")
    wait_until(lambda: "sign" in box.journal.with_name(box.journal.name + ".lock").read_text(), what="who it is")
    one_shot.send_signal(signal.SIGSTOP)
    return one_shot


def test_it_waits_for_a_one_shot(box: Sandbox) -> None:
    """The daemon says who works on its outbox, starts once that is over, and nothing is signed twice."""
    path = box.drop("file")
    one_shot = begun(box, path)
    box.start_daemon(wait=False)
    (waiting,) = wait_until(lambda: box.events("daemon.waiting"), what="the wait")
    one_shot.send_signal(signal.SIGCONT)
    assert one_shot.wait(30 * SLOWNESS) == 0
    wait_until(lambda: box.events("daemon.ready"), what="the daemon's readiness")
    assert len(box.events("daemon.waiting")) == 1
    assert str(one_shot.pid) in waiting["error"]
    box.misbehave("")
    box.wait_signed(path, box.drop("another", b"another"))
    box.wait_idle()
    assert set(box.times_signed().values()) == {1}


def test_it_can_be_stopped_while_it_waits(box: Sandbox) -> None:
    """SIGTERM ends a daemon that waits, with 0."""
    one_shot = begun(box, box.drop("file"))
    daemon = box.start_daemon(wait=False)
    wait_until(lambda: box.events("daemon.waiting"), what="the wait")
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(20 * SLOWNESS) == 0
    one_shot.send_signal(signal.SIGCONT)
    assert one_shot.wait(30 * SLOWNESS) == 0


@pytest.mark.parametrize("replace", [Path.unlink, lambda path: (path.unlink(), path.write_text("x"))])
def test_the_socket_comes_back(box: Sandbox, replace: Callable[[Path], object]) -> None:
    """A control socket that somebody removed, or put something else in the place of, is there again soon."""
    box.start_daemon()
    replace(box.socket)
    wait_until(box.socket.is_socket, what="the socket")
    wait_until(lambda: box.events("daemon.restored"), what="the line")
    assert box.status()["running"]
    assert dropsign("--config", box.config, "status").stdout.startswith("daemon")
    assert box.stop_daemon() == 0
    assert not box.socket.exists()


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("spoil", [_fifo, _device])
def test_a_file_that_is_none(box: Sandbox, spoil: Callable[[Path], None]) -> None:
    """A FIFO or a device for the configuration is refused, also at a reload; the daemon goes on and can be stopped."""
    text = box.config.read_text()
    box.start_daemon()
    spoil(box.config)
    done = dropsign("--config", box.config, "status")
    assert (done.returncode, "no regular file" in done.stderr) == (2, True)
    assert box.daemon is not None
    box.daemon.send_signal(signal.SIGHUP)
    wait_until(lambda: box.events("daemon.reload_refused"), what="the refusal")
    box.config.unlink()
    box.config.write_text(text)
    box.wait_signed(box.drop("file"))
    assert box.stop_daemon() == 0


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("tls", "certificate"),
        ("tls", "private_key"),
        ("tls", "authority"),
        ("tls", "crl"),
        ("service", "app_secret_file"),
        ("verify", "key"),
    ],
)
def test_credentials_that_are_none(idle_box: Sandbox, section: str, key: str) -> None:
    """A FIFO for a key, a certificate or a secret ends the start with one line; nobody waits for a writer."""
    fifo = idle_box.directory / "fifo"
    os.mkfifo(fifo, 0o600)
    idle_box.configure(section, **{key: str(fifo)})
    done = dropsign("--config", idle_box.config, "run")
    assert done.returncode == 2
    assert f"{section}.{key}: {fifo} cannot be read: it is no regular file" in done.stderr
    done = dropsign("--config", idle_box.config, "check")
    assert done.returncode == 2 or "it is no regular file" in done.stdout, done
