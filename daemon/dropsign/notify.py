"""What systemd is told, by the protocol of sd_notify(3)."""

import os
import socket
from collections.abc import Mapping


class Notifier:
    """Sends datagrams to systemd; does nothing where there is none."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        self._watchdog = self._seconds(environment)

    @staticmethod
    def _seconds(environment: Mapping[str, str]) -> float | None:
        microseconds, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
        if not microseconds.isdigit() or (pid and pid != str(os.getpid())):
            return None
        return int(microseconds) / 1e6

    @property
    def watchdog_seconds(self) -> float | None:
        """How often systemd wants a sign of life at least; None where it wants none."""
        return self._watchdog

    def ready(self, status: str) -> None:
        """Say that the service is up."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Say that the configuration is being read again; `ready` says that this is over."""
        self._send("RELOADING=1")

    def stopping(self, status: str, seconds: float) -> None:
        """Say that the service ends, and how long that may take."""
        self._send("STOPPING=1", f"STATUS={status}", f"EXTEND_TIMEOUT_USEC={int((seconds + 5) * 1e6)}")

    def waiting(self, status: str, seconds: float) -> None:
        """Say that the start waits for something, for so long at least."""
        self._send(f"STATUS={status}", f"EXTEND_TIMEOUT_USEC={int((seconds + 5) * 1e6)}")

    def alive(self) -> None:
        """Give a sign of life."""
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """Say in a line how things are."""
        self._send(f"STATUS={text}")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            return
