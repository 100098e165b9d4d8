"""Signs of life: systemd gets them from a daemon that is well, whatever else of it takes its time."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.sandbox import SLOWNESS, Sandbox, wait_until

WATCHDOG_SECONDS = 3


class Supervisor:
    """Counts signs of life as systemd would."""

    def __init__(self, path: Path) -> None:
        self.environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": str(WATCHDOG_SECONDS * 1_000_000)}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self._alive = 0

    def alive(self) -> int:
        """Return how many came so far."""
        while True:
            try:
                self._alive += b"WATCHDOG=1" in self._socket.recv(4096).splitlines()
            except BlockingIOError:
                return self._alive

    def close(self) -> None:
        self._socket.close()


@contextmanager
def supervisor(path: Path) -> Iterator[Supervisor]:
    made = Supervisor(path)
    try:
        yield made
    finally:
        made.close()


def test_a_service_that_keeps_a_trial_handshake_waiting(idle_box: Sandbox) -> None:
    """While new certificates are tried with a service that takes connections and says nothing, signs of life come."""
    patience = int(100 * SLOWNESS)
    idle_box.configure("service", connect_timeout_seconds=patience)
    connections = []
    with (
        supervisor(idle_box.directory / "notify") as systemd,
        socket.create_server(("127.0.0.1", idle_box.port)) as silent,
    ):
        silent.settimeout(60 * SLOWNESS)
        idle_box.start_daemon(environment=systemd.environment)
        connections.append(silent.accept()[0])  # the daemon's own look at its start
        renewed = idle_box.authority.issue("renewed")
        os.replace(renewed.private_key, idle_box.client.private_key)
        os.replace(renewed.certificate, idle_box.client.certificate)
        connections.append(silent.accept()[0])  # the trial of what lies on disk now
        before = systemd.alive()
        wait_until(lambda: systemd.alive() >= before + 5, what="signs of life")
        assert idle_box.stop_daemon() == 0
        for connection in connections:
            connection.close()
