"""The package, installed on a machine that systemd runs: tests/with-systemd boots it, and these tests run in there."""

import json
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.sandbox import APP_KEY, APP_SECRET, Sandbox, Site, wait_until

CREDENTIALS = Path("/etc/credstore")
DROP_INS = Path("/run/systemd/system")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of the boot that this is."""
    boot = int(os.environ["DROPSIGN_BOOT"])
    markers = {item: item.get_closest_marker("boot") for item in items}
    ours = [item for item, marker in markers.items() if (1 if marker is None else marker.args[0]) == boot]
    config.hook.pytest_deselected(items=[item for item in items if item not in ours])
    items[:] = ours


def systemctl(*arguments: str, check: bool = True) -> str:
    """Run systemctl and return what it prints, errors included."""
    done = subprocess.run(
        ["systemctl", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0 or not check, done.stdout
    return done.stdout.strip()


def package() -> Path:
    """Return where the package is that is to be tested."""
    return Path(os.environ["DROPSIGN_PACKAGE"])


def install(file: Path) -> None:
    """Install or upgrade as an administrator would, who keeps his configuration."""
    command = ["dpkg", "--force-confold", "--install", str(file)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout


class Installed(Sandbox):
    """The installed service, with the embedded signing service beside it; `unit` may be an instance."""

    def __init__(self, directory: Path, name: str = "", site: Site | None = None) -> None:
        """Prepare its configuration.

        Args:
            directory: for the signing service's files.
            name: of an instance.
            site: a signing service that there is already.
        """
        super().__init__(directory, site)
        self.name = name
        self.unit = f"dropsign@{name}" if name else "dropsign"
        self.outbox = Path("/srv/dropsign", name or "outbox")
        self.config = Path("/etc/dropsign", f"{name or 'config'}.toml")
        self.socket = Path("/run/dropsign", name, "control.sock")
        self.journal = Path("/var/lib/dropsign", name, "journal.sqlite3")
        self.settings = {
            "outbox": {"path": str(self.outbox), "settle_seconds": 0.2},
            "service": {"url": f"https://localhost:{self.port}"},
        }
        if name:
            self.settings |= {"journal": {"path": str(self.journal)}, "http": {"socket": str(self.socket)}}

    # Set up

    def set_up(self) -> None:
        """Do what an administrator does after the installation."""
        self.configure()
        CREDENTIALS.mkdir(mode=0o700, exist_ok=True)
        prefix = f"dropsign.{self.name}." if self.name else "dropsign."
        contents = {
            "app_key": APP_KEY.encode(),
            "app_secret": APP_SECRET.encode(),
            "client_key": self.client.private_key.read_bytes(),
            "client_certificate": self.client.certificate.read_bytes(),
            "authority": self.authority.certificate.read_bytes(),
        }
        for name, content in contents.items():
            file = CREDENTIALS / (prefix + name)
            file.write_bytes(content)
            file.chmod(0o600)

    def drop_in(self, *lines: str) -> None:
        """Change the unit as `systemctl edit` does, until the test is over."""
        directory = DROP_INS / f"{self.unit}.service.d"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "test.conf").write_text("\n".join(["[Service]", *lines, ""]))
        systemctl("daemon-reload")

    def clean(self) -> None:
        """End the service, and forget all it knew."""
        systemctl("stop", self.unit, check=False)
        systemctl("reset-failed", self.unit, check=False)
        shutil.rmtree(DROP_INS / f"{self.unit}.service.d", ignore_errors=True)
        systemctl("daemon-reload")
        for path in (*self.outbox.iterdir(), *self.journal.parent.glob("journal.sqlite3*")):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        self.site.stop()

    # What systemd tells

    def start(self) -> None:
        """Start the service; systemd waits until it says that it is ready."""
        systemctl("start", self.unit)

    def ask_systemd(self, name: str) -> str:
        """Return one property of the unit."""
        return systemctl("show", "--value", f"--property={name}", self.unit)

    @property
    def pid(self) -> int:
        """The daemon's process."""
        return int(self.ask_systemd("MainPID"))

    def is_restarted(self, pid: int) -> bool:
        """Tell whether another process than this one runs now."""
        return self.pid not in {0, pid}

    def log(self) -> list[dict[str, Any]]:
        """Return the messages of the unit in systemd's journal that are JSON lines of the daemon."""
        entries = map(json.loads, self.entries())
        return [json.loads(entry["MESSAGE"]) for entry in entries if str(entry.get("MESSAGE")).startswith("{")]

    def entries(self, *matches: str) -> list[str]:
        """Return the unit's entries in systemd's journal as JSON lines."""
        command = ["journalctl", "--output=json", "--all", f"--unit={self.unit}", *matches]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


class Person:
    """Somebody with an account on the machine."""

    def __init__(self, name: str, groups: Sequence[str] = ()) -> None:
        """Make the account, or change its groups."""
        self.name = name
        if name not in {account.pw_name for account in pwd.getpwall()}:
            subprocess.run(["useradd", "--create-home", "--shell", "/bin/sh", name], check=True)
        subprocess.run(["usermod", "--groups", ",".join(groups), name], check=True)

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a line of shell as this person."""
        return subprocess.run(
            ["runuser", "--user", self.name, "--", "sh", "-c", command],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip

    def does(self, command: str) -> str:
        """Run a line of shell that is to succeed; return what it prints."""
        done = self.run(command)
        assert done.returncode == 0, done.stdout
        return done.stdout


@pytest.fixture(scope="session")
def machine() -> None:
    """Install the package once."""
    Path("/usr/sbin/policy-rc.d").unlink(missing_ok=True)  # images of containers forbid packages to start anything
    install(package())
    wait_until(Path("/run/systemd/journal/socket").exists, what="journald")


@pytest.fixture
def service(machine: None, tmp_path: Path) -> Iterator[Installed]:  # noqa: ARG001 - it must be there
    """Give the service, set up but not started, with its signing service running."""
    made = Installed(tmp_path)
    made.set_up()
    made.start_service()
    yield made
    print(systemctl("status", "--no-pager", "--lines=30", made.unit, check=False))
    made.clean()
