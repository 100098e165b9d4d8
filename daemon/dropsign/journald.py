"""systemd's journal by its native protocol, so that a log line's fields can be matched with journalctl."""

import os
import socket
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

ADDRESS: Final = Path("/run/systemd/journal/socket")

_TIMEOUT_SECONDS: Final = 1
"""How long a line waits for a journal that does not read; then it goes where lines go without one."""


class JournalSocket:
    """Sends entries (systemd.io/JOURNAL_NATIVE_PROTOCOL)."""

    def __init__(self, address: Path = ADDRESS) -> None:
        self._address = str(address)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        # Not Python's own time limit, which costs a second call each time that the journal is slower than we are.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _TIMEOUT_SECONDS, 0))

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def send(self, fields: Iterable[tuple[str, bytes]]) -> bool:
        """Send one entry; return whether the journal has it. One too large for a datagram it does not take."""
        try:
            self._socket.sendto(b"".join(_field(name, value) for name, value in fields), self._address)
        except OSError:
            return False
        return True


def is_journal(environment: Mapping[str, str], fd: int) -> bool:
    """Tell whether a descriptor leads to the journal, as systemd says in $JOURNAL_STREAM (systemd.exec(5))."""
    status = os.fstat(fd)
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _field(name: str, value: bytes) -> bytes:
    if b"\n" in value:
        return name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
    return name.encode() + b"=" + value + b"\n"
