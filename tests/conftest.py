"""What all tests share: real parts (nginx, strace ...) that may be missing on a developer's machine, never in CI."""

import os
import shutil
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.support.sandbox import Sandbox, Site, sandbox

collect_ignore = [] if "DROPSIGN_PACKAGE" in os.environ else ["booted"]
"""Those tests run on a machine of their own (make booted)."""

_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin", str(Path(sys.prefix, "bin"))])

_PARTS = ("chromium", "faketime", "fish", "mandoc", "nginx", "openssl", "promtool", "strace", "systemd", "zsh")
"""Those with a marker: a test so marked runs only where the part is there."""

_PROGRAMS = {"systemd": "systemd-analyze"}


def require_part(name: str) -> str:
    """Return where a program is; without it, skip the test that asks, or fail it under CI."""
    program = _PROGRAMS.get(name, name)
    found = shutil.which(program, path=_PATH)
    if found is None:
        reason = f"needs {program}, which is not installed; make test installs it if it may"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def pytest_configure() -> None:
    """Undo what a shell does to what it runs in the background: tests interrupt the processes that they start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Under CI a skipped test has failed, unless it says of itself that it may be."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and item.get_closest_marker("may_be_skipped") is None:
        report.outcome = "failed"
        report.longrepr = f"skipped, and that is a failure under CI: {report.longrepr}"
    return report


def pytest_runtest_setup(item: pytest.Item) -> None:
    for part in _PARTS:
        if item.get_closest_marker(part) is not None:
            require_part(part)


@pytest.fixture(scope="session")
def signing_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A signing service for the tests of this process, one after the other."""
    made = Site(tmp_path_factory.mktemp("site"))
    yield made
    made.stop()


@pytest.fixture
def box(tmp_path: Path, signing_site: Site) -> Iterator[Sandbox]:
    """A throw-away installation with its signing service running; a failed test shows the daemon's last lines."""
    with sandbox(tmp_path / "s", signing_site) as made:
        made.start_service()
        yield made
        if made.daemon_log.exists():
            print(made.daemon_log.read_text()[-6000:])


@pytest.fixture(params=["inotify", "poll"])
def watched(box: Sandbox, request: pytest.FixtureRequest) -> Sandbox:
    """The same with either way to learn of files; the scan that comes every few minutes is not among them."""
    box.configure("outbox", watcher=request.param, poll_seconds=0.3, rescan_seconds=3600)
    return box


@pytest.fixture
def idle_box(tmp_path: Path) -> Iterator[Sandbox]:
    """The same with nothing running in it yet."""
    with sandbox(tmp_path / "s") as made:
        yield made
        if made.daemon_log.exists():
            print(made.daemon_log.read_text()[-6000:])
