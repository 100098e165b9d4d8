"""The throw-away installation of the demo: a directory, the signing service and the daemon as processes in it."""

import http
import json
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

from dropsign.control import Control
from dropsign.embedded import demo_child
from dropsign.embedded.demo_child import Child
from dropsign.embedded.workshop import Workshop
from dropsign.errors import UnreachableError

HOST: Final = "127.0.0.1"

STATUS_PAGE: Final = "/"
"""Where on `listen` a browser shows how things are."""

_MORE_CONFIGURATION: Final = """\
listen = "{listen}"

[log]
format = "json"
"""
"""Goes on after [http], the last section of a workshop's configuration."""


class Site:
    """All that the demo needs, below one directory.

    Attributes:
        directory: itself.
        outbox: is served.
        outside: a directory beside it, on the same file system.
        config: the daemon's configuration.
        address: of the service, as HOST:PORT.
        listen: where the daemon answers over HTTP, as HOST:PORT.
        children: the processes; the service first.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.outbox = directory / "outbox"
        self.outside = directory / "outside"
        self.config = directory / "config.toml"
        self._port, listen_port = _free_ports(2)
        self.address = f"{HOST}:{self._port}"
        self.listen = f"{HOST}:{listen_port}"
        self.children: list[Child] = []
        self._requests = directory / "requests.jsonl"
        self._control = Control(directory / "control.sock")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes."""
        demo_child.end(self.children)

    def prepare(self) -> None:
        """Make the authority, certificates and keys, the directories and the configuration."""
        self._workshop = Workshop.at(self.directory)
        self.outbox.mkdir()
        self.outside.mkdir()
        text = self._workshop.configuration(f"https://localhost:{self._port}")
        self.config.write_text(text + _MORE_CONFIGURATION.format(listen=self.listen), "utf-8")

    @property
    def public_key(self) -> Path:
        """What signatures are verified with."""
        return self._workshop.public_key

    # Processes

    def start_service(self) -> None:
        """Start the signing service."""
        arguments = ["service", "--dir", str(self.directory), "--listen", self.address, "--log", str(self._requests)]
        self._start("signing service", arguments, "service.log")

    def start_daemon(self) -> None:
        """Start the daemon."""
        self._start("daemon", ["--config", str(self.config), "run"], "daemon.log")

    def check(self) -> None:
        """Check that all processes run.

        Raises:
            ChildDiedError: one does not.
        """
        for child in self.children:
            child.check()

    def _start(self, name: str, arguments: list[str], log: str) -> None:
        self.children.append(Child(name, arguments, self.directory / log))

    # Answers

    def is_listening(self) -> bool:
        """Tell whether the service takes connections."""
        with suppress(OSError), socket.create_connection((HOST, self._port), 1):
            return True
        return False

    def status(self) -> dict[str, Any]:
        """Return the daemon's status; one that does not answer is not ready, and nothing else is known of it."""
        try:
            return self._control.status()
        except UnreachableError:
            return {"ready": False, "not_ready_reasons": ["it does not answer"]}

    def rescan(self) -> None:
        """Have the daemon scan its outbox, as an operator would."""
        self.children[-1].signal(signal.SIGUSR1)

    def signed_digests(self) -> list[str]:
        """Return the SHA-256 of each content that the service signed, in order, as often as it did."""
        return [request["sha256"] for request in _json_lines(self._requests) if request["status"] == http.HTTPStatus.OK]

    def withdrawn(self) -> set[bytes]:
        """Return the files whose signature the daemon says it has withdrawn."""
        lines = _json_lines(self.directory / "daemon.log")
        return {os.fsencode(line["path"]) for line in lines if line["event"] == "file.withdrawn"}


def _json_lines(path: Path) -> list[dict[str, Any]]:
    """Read a log; a last line that is not whole yet is left out."""
    text = path.read_text("utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines() if line.startswith("{")]


def _free_ports(number: int) -> list[int]:
    """Return ports, all different, that nobody listens on just now."""
    probes = [socket.socket() for _ in range(number)]
    try:
        for probe in probes:
            probe.bind((HOST, 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
