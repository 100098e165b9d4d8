"""A throw-away installation: authority, certificates, signing service, outbox and daemon, all as real processes."""

import base64
import hashlib
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dropsign.embedded.authority import Authority

SLOWNESS = float(os.environ.get("DROPSIGN_TEST_SLOWNESS", "1"))
"""All waiting times are multiplied with this, for slow machines."""

APP_KEY = "test-key"
APP_SECRET = "test secret/+=ü"


_UNMEASURED = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
"""The service's part is measured by its own tests; for all others it need not be slow."""


def wait_until(condition: Callable[[], Any], seconds: float = 20, what: str = "the condition") -> Any:
    """Return what a condition gives once it is true; fail the test if that takes too long."""
    end = time.monotonic() + seconds * SLOWNESS
    pause = 0.005
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come about within {seconds} s")
        time.sleep(pause)
        pause = min(pause * 1.3, 0.1)
    return value


def free_port() -> int:
    """Return a port nobody listens on just now, and that the kernel gives nobody; each of parallel runs has its own."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        port = 10_000 + 2_000 * (worker % 10) + secrets.randbelow(2_000)  # below net.ipv4.ip_local_port_range
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def sha256(content: bytes) -> str:
    """Return a content's SHA-256 as the logs of the service and of the daemon show it."""
    return hashlib.sha256(content).hexdigest()


def powerless() -> list[str]:
    """Return what to put before a command so that file permissions hold for it, even if root runs the tests."""
    return ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []


class _SocketConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=20 * SLOWNESS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def dropsign(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run one verb to its end."""
    return subprocess.run(
        [sys.executable, "-m", "dropsign", *map(str, arguments)],
        capture_output=True, text=True, timeout=120 * SLOWNESS, check=False, **options,
    )  # fmt: skip


class Site:
    """The other side: an authority and a signing service, which several sandboxes may use one after the other."""

    def __init__(self, directory: Path, *options: str) -> None:
        """Prepare the service.

        Args:
            directory: which holds its files.
            options: with which it runs unless a test asks for others.
        """
        self.directory = directory
        self._options = options
        self.authority = Authority(directory / "authority")
        self.server = self.authority.issue("localhost", server=True)
        self.signing = self.authority.signing_key()
        self.secret_file = directory / "service_secret"
        self.secret_file.write_text(APP_SECRET, "utf-8")
        self.port = free_port()
        self.request_log = directory / "requests.jsonl"
        self.faults_file = directory / "faults"
        self._process: subprocess.Popen[bytes] | None = None
        self._is_plain = True

    def start(self, *options: str) -> None:
        """Start the embedded signing service; one that runs with its usual options is good enough for no others."""
        if self._process is not None and self._process.poll() is None and self._is_plain and not options:
            return
        self.stop()
        self._is_plain = not options
        arguments = [
            "service", "--listen", f"127.0.0.1:{self.port}",
            "--certificate", self.server.certificate, "--private-key", self.server.private_key,
            "--authority", self.authority.certificate, "--signing-key", self.signing.private_key,
            "--app-key", APP_KEY, "--app-secret-file", self.secret_file,
            "--log", self.request_log, "--faults-file", self.faults_file, *(options or self._options),
        ]  # fmt: skip
        with (self.directory / "service.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dropsign", *map(str, arguments)], stdout=log, stderr=log, env=_UNMEASURED
            )
        wait_until(self._answers, what="the signing service's start")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.directory / "service.log").read_text()
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def stop(self) -> None:
        """Stop the signing service at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def rest(self) -> None:
        """End what one sandbox asked for, so that the next one finds a service that has nothing to do."""
        self.faults_file.unlink(missing_ok=True)
        self.wait_unused()
        if not self._is_plain:
            self.stop()

    def wait_unused(self) -> None:
        """Wait until the service has nothing to do any more, and has logged all that it did."""
        wait_until(lambda: not self._is_busy(), what="the end of all connections to the service")
        time.sleep(0.02)

    def _is_busy(self) -> bool:
        """Tell whether anybody is connected to the service, or was and it has not noticed yet (proc(5), tcp)."""
        port, connected = f":{self.port:04X}", {"01", "08"}
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return any(line[1].endswith(port) and line[3] in connected for line in lines)


class Sandbox:
    """Everything below one directory."""

    def __init__(self, directory: Path, site: Site | None = None) -> None:
        """Make its files.

        Args:
            directory: which holds them.
            site: a service that others use as well; one of its own by default.
        """
        self.directory = directory
        self.outbox = directory / "outbox"
        self.outbox.mkdir()
        self._is_site_ours = site is None
        self.site = site or Site(directory)
        self.authority = self.site.authority
        self.server = self.site.server
        self.client = self.authority.issue("client")
        self.signing = self.site.signing
        self.secret_file = directory / "app_secret"
        self.secret_file.write_text(APP_SECRET, "utf-8")
        self.secret_file.chmod(0o600)
        self.port = self.site.port
        self.config = directory / "config.toml"
        self.socket = directory / "control.sock"
        self.journal = directory / "state" / "journal.sqlite3"
        self.request_log = self.site.request_log
        self._first_request = self.request_log.stat().st_size if self.request_log.exists() else 0
        self.daemon_log = directory / "daemon.log"
        self.settings: dict[str, dict[str, Any]] = {
            "outbox": {"path": str(self.outbox), "settle_seconds": 0.2, "settle_after_close_seconds": 0.05},
            "service": {
                "url": f"https://localhost:{self.port}",
                "app_key": APP_KEY,
                "app_secret_file": str(self.secret_file),
            },
            "tls": {
                "certificate": str(self.client.certificate),
                "private_key": str(self.client.private_key),
                "authority": str(self.authority.certificate),
            },
            "journal": {"path": str(self.journal)},
            "http": {"socket": str(self.socket)},
            "daemon": {"grace_seconds": 10},
        }
        self.configure()
        self._log: list[dict[str, Any]] = []
        self._log_read = 0
        key = serialization.load_pem_public_key(self.signing.public_key.read_bytes())
        assert isinstance(key, ec.EllipticCurvePublicKey)
        self._key = key
        private_key = serialization.load_pem_private_key(self.signing.private_key.read_bytes(), None)
        assert isinstance(private_key, ec.EllipticCurvePrivateKey)
        self._private_key = private_key
        self.is_measured = True
        """Whether the daemon's part counts for coverage; where it is killed all the time it only costs time."""
        self.daemon: subprocess.Popen[bytes] | None = None

    # Configuration

    def configure(self, section: str | None = None, **values: Any) -> Path:
        """Write the configuration, with some keys of a section changed; None removes a key."""
        if section is not None:
            table = self.settings.setdefault(section, {})
            table.update(values)
            for key in [key for key, value in table.items() if value is None]:
                del table[key]
        lines = []
        for name, table in self.settings.items():
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
        self.config.write_text("\n".join(lines) + "\n", "utf-8")
        return self.config

    # The signing service

    def start_service(self, *options: str) -> None:
        """Start the embedded signing service."""
        self.site.start(*options)

    def stop_service(self) -> None:
        """Stop the signing service at once."""
        self.site.stop()

    def sign(self, content: bytes) -> bytes:
        """Return a signature as the service would make it, which no log tells of."""
        return base64.b64encode(self._private_key.sign(content, ec.ECDSA(hashes.SHA256())))

    def misbehave(self, text: str) -> None:
        """Change how the running service misbehaves.

        Args:
            text: what `--fail` takes, or lines `fail ...` and `delay 20ms`; nothing for not at all.
        """
        temporary = self.site.faults_file.with_suffix(".new")
        plain = text and not text.startswith(("fail ", "delay "))
        temporary.write_text(f"fail {text}\n" if plain else text)
        temporary.replace(self.site.faults_file)
        time.sleep(0.1)

    def requests(self) -> list[dict[str, Any]]:
        """Return what the service noted of each request."""
        if not self.request_log.exists():
            return []
        text = self.request_log.read_bytes()[self._first_request :]
        return [json.loads(line) for line in text.splitlines()]

    def times_signed(self) -> Counter[str]:
        """Return how often each content, by its SHA-256, was signed."""
        return Counter(request["sha256"] for request in self.requests() if request["status"] == 200)

    # The daemon

    def start_daemon(
        self,
        *,
        wait: bool = True,
        environment: dict[str, str] | None = None,
        prefix: Sequence[str] = (),
        options: Sequence[str] = (),
    ) -> subprocess.Popen[bytes]:
        """Start the daemon, and wait until it says that it is ready.

        Args:
            wait: wait for that.
            environment: beside this process's own.
            prefix: a command that runs the daemon.
            options: of `run`.
        """
        before = len(self.events("daemon.ready"))
        inherited = os.environ if self.is_measured else _UNMEASURED
        with self.daemon_log.open("ab") as log:
            self.daemon = subprocess.Popen(
                [*prefix, sys.executable, "-m", "dropsign", "--config", str(self.config), "run", *options],
                stdout=log, stderr=log, env={**inherited, **(environment or {})},
            )  # fmt: skip
        daemon = self.daemon

        def ready() -> bool:
            assert daemon.poll() is None, self.daemon_log.read_text()
            return len(self.events("daemon.ready")) > before

        if wait:
            wait_until(ready, what="the daemon's readiness")
        return daemon

    def stop_daemon(self, number: int = signal.SIGTERM, seconds: float = 30) -> int:
        """Send the daemon a signal and return its exit code."""
        assert self.daemon is not None
        self.daemon.send_signal(number)
        code = self.daemon.wait(seconds * SLOWNESS)
        self.daemon = None
        return code

    def kill_daemon(self) -> None:
        """Kill the daemon as a crash would."""
        self.stop_daemon(signal.SIGKILL)

    def close(self) -> None:
        """End all processes."""
        if self.daemon is not None:
            self.daemon.kill()
            self.daemon.wait()
        if self._is_site_ours:
            self.site.stop()
        else:
            self.site.rest()

    def log(self) -> list[dict[str, Any]]:
        """Return the daemon's log lines; what is no JSON fails the test."""
        if self.daemon_log.exists():
            with self.daemon_log.open("rb") as file:
                file.seek(self._log_read)
                text = file.read()
            text = text[: text.rfind(b"\n") + 1]
            self._log += [json.loads(line) for line in text.decode().splitlines()]
            self._log_read += len(text)
        return self._log

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the daemon's log lines of one event."""
        return [line for line in self.log() if line["event"] == name]

    # Its control socket

    def ask(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        """Ask the daemon over its control socket, by POST if there is a body; return status and answer."""
        connection = _SocketConnection(self.socket)
        try:
            if body is None:
                connection.request("GET", path)
            else:
                connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def metric(self, name: str) -> float:
        """Return the running daemon's value of a metric that has no labels."""
        connection = _SocketConnection(self.socket)
        try:
            connection.request("GET", "/metrics")
            lines = connection.getresponse().read().decode().splitlines()
        finally:
            connection.close()
        return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])

    def status(self) -> dict[str, Any]:
        """Return the running daemon's status."""
        status, answer = self.ask("/api/status")
        assert status == 200, answer
        found: dict[str, Any] = answer
        return found

    def known(self, state: str) -> dict[bytes, dict[str, Any]]:
        """Return what the running daemon lists in a state, by path relative to the outbox."""
        status, answer = self.ask(f"/api/files?state={state}&limit=1000")
        assert status == 200, answer
        return {os.fsencode(file["path"]): file for file in answer["files"]}

    def lookup(self, path: Path) -> dict[str, Any]:
        """Return what the running daemon knows of one file."""
        status, answer = self.ask("/api/lookup", {"paths": [str(path.relative_to(self.outbox))]})
        assert status == 200, answer
        found: dict[str, Any] = answer["files"][0]
        return found

    def knows_version(self, path: Path, state: str = "signed") -> bool:
        """Tell whether what the daemon knows of a file is about the file's present version."""
        now, known = path.lstat(), self.lookup(path)
        fingerprint = [now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns]
        return known["state"] == state and known.get("fingerprint") == fingerprint and not known["settling"]

    def rescan(self) -> None:
        """Ask for a full scan by signal, and wait until one has ended that began after this."""
        assert self.daemon is not None
        for _ in range(2):  # one that already runs may have passed by
            before = self.status()["last_scan"]
            self.daemon.send_signal(signal.SIGUSR1)
            wait_until(partial(self._scanned_after, before), what="a scan's end")

    def _scanned_after(self, before: dict[str, Any] | None) -> bool:
        return bool(self.status()["last_scan"] != before)

    def wait_idle(self, seconds: float = 20) -> None:
        """Wait until nothing settles, waits or is in flight."""

        def idle() -> bool:
            status = self.status()
            return bool(status["backlog"] == 0 and status["in_flight"] == 0)

        wait_until(idle, seconds, "rest")

    # Files

    def drop(self, name: str | bytes, content: bytes = b"content\n") -> Path:
        """Create a file in the outbox by create, write, close."""
        path = Path(os.fsdecode(os.path.join(os.fsencode(self.outbox), os.fsencode(name))))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def sign_of(self, path: Path) -> Path:
        """Return where a drop's signature belongs."""
        return path.with_name(path.name + ".sign")

    def is_signed(self, path: Path) -> bool:
        """Tell whether a file's signature lies beside it and verifies against its present content."""
        try:
            text = self.sign_of(path).read_bytes()
        except FileNotFoundError:
            return False
        return self.verifies(text, path.read_bytes())

    def verifies(self, text: bytes, content: bytes) -> bool:
        """Verify a signature with the service's public key, independently of the program."""
        try:
            self._key.verify(base64.b64decode(text, validate=True), content, ec.ECDSA(hashes.SHA256()))
        except (InvalidSignature, ValueError):
            return False
        return True

    def wait_signed(self, *paths: Path, seconds: float = 20) -> None:
        """Wait until files are signed."""
        for path in paths:
            wait_until(partial(self.is_signed, path), seconds, f"the signature of {path.name!r}")

    def files(self) -> list[bytes]:
        """Return all regular files below the outbox, as relative paths."""
        root = os.fsencode(self.outbox)
        return sorted(
            os.path.relpath(os.path.join(directory, name), root)
            for directory, _, names in os.walk(root)
            for name in names
        )

    def assert_exactly_signed(self, *paths: Path) -> None:
        """Check that the outbox holds these files, one matching signature each, and nothing else."""
        names = {os.fsencode(path.relative_to(self.outbox)) for path in paths}
        assert set(self.files()) == names | {name + b".sign" for name in names}
        wrong = [path.name for path in paths if not self.is_signed(path)]
        assert not wrong


@contextmanager
def sandbox(directory: Path, site: Site | None = None) -> Iterator[Sandbox]:
    """Give a sandbox, and end its processes afterwards."""
    directory.mkdir(parents=True, exist_ok=True)
    made = Sandbox(directory, site)
    try:
        yield made
    finally:
        made.close()
