"""A child process of the demo: its output goes to a file, and it does not outlive its owner."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from dropsign.errors import UnreachableError

END_SECONDS: Final = 5.0
"""How long a child may take to end of itself before it is killed."""

_TAIL_LINES: Final = 10
_TAIL_BYTES: Final = 8192

_OURS: Final = ("DROPSIGN_", "NOTIFY_SOCKET", "WATCHDOG_", "CREDENTIALS_DIRECTORY")
"""Variables, by how they begin, that speak to another dropsign than the demo's."""


class ChildDiedError(UnreachableError):
    """A child process ended that should not have.

    Attributes:
        tail: the last lines of its output.
    """

    def __init__(self, message: str, tail: Sequence[str]) -> None:
        super().__init__(message)
        self.tail = tail


class Child:
    """One verb of dropsign as a process, started as a user would.

    Attributes:
        name: for people.
        arguments: verb and options.
        log: where its output goes.
        pid: its number.
    """

    def __init__(self, name: str, arguments: Sequence[str], log: Path) -> None:
        self.name = name
        self.arguments = arguments
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-m", "dropsign", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=_environment(os.environ),
                process_group=0,  # Ctrl-C is for the demo, which ends its children in order
            )
        self.pid = self._process.pid

    def check(self) -> None:
        """Check that it runs.

        Raises:
            ChildDiedError: it has ended.
        """
        code = self._process.poll()
        if code is not None:
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            msg = f"the {self.name} (process {self.pid}) {how}"
            raise ChildDiedError(msg, self.tail())

    def tail(self) -> list[str]:
        """Return the last lines of its output."""
        with self.log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return file.read().decode("utf-8", "replace").splitlines()[-_TAIL_LINES:]

    def signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        self._process.send_signal(number)

    def wait_or_kill(self, seconds: float) -> None:
        """Wait for its end, and bring it about if that takes too long."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def end(children: Sequence[Child]) -> None:
    """End children, all at once and within `END_SECONDS`; those that do not are killed."""
    for child in children:
        child.signal(signal.SIGTERM)
    ends = time.monotonic() + END_SECONDS
    for child in children:
        child.wait_or_kill(max(0.0, ends - time.monotonic()))


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith(_OURS)}
