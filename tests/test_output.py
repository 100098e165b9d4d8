"""Output that cannot be written, and standard streams that are closed: one line, the right exit code, no traceback."""

import os
import shlex
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from tests.support.sandbox import Sandbox, wait_until

pytestmark = pytest.mark.timeout(300)

FULL, CLOSED = "No space left on device", "Bad file descriptor"


def _shell(box: Sandbox, verb: str, redirections: str) -> subprocess.CompletedProcess[str]:
    """Run a verb in a real shell, with nothing on standard input."""
    program = shlex.join([sys.executable, "-m", "dropsign", "--config", str(box.config)])
    return subprocess.run(
        ["bash", "-c", f"{program} {verb} {redirections}"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_output_that_cannot_be_written(box: Sandbox) -> None:
    """Whatever the verb, a full disk behind its output or a closed stream is one line at the end, and exit code 2."""
    box.start_daemon()
    paths = [box.drop(f"f{number}", b"%d" % number) for number in range(3)]
    box.wait_signed(*paths)
    box.wait_idle()
    verify = f"verify --key {shlex.quote(str(box.signing.public_key))} {shlex.quote(str(box.outbox))}"
    loose = box.directory / "loose"
    loose.write_bytes(b"loose")
    verbs = [
        "--help", "--version", "--show-completion bash", "status", "status --json", "check", "check --json", verify,
        f"{verify} --json", f"sign --dry-run {loose}", f"sign --force {loose}",
        f"keygen --subject x --out {box.directory / 'new'}",
    ]  # fmt: skip
    lost = [(verb, "> /dev/full") for verb in verbs] + [
        (verb, ">&-") for verb in ("--version", verify, "status --json")
    ]
    unsaid = [(verb, ">&- 2>&- <&-") for verb in ("status --json", verify)]
    with ThreadPoolExecutor(3) as together:
        results = list(together.map(lambda case: _shell(box, *case), lost + unsaid))
    for (verb, redirection), done in zip(lost + unsaid, results, strict=True):
        why = FULL if "full" in redirection else CLOSED
        line = "" if "2>" in redirection else f"dropsign: standard output cannot be written: {why}\n"
        assert (done.returncode, done.stdout, done.stderr) == (2, "", line), (verb, redirection)
    assert box.is_signed(loose), "the work is done all the same"


def test_what_is_not_needed_may_be_closed(box: Sandbox) -> None:
    """Without standard input or error, or with a reader that has seen enough, a verb does what it does."""
    box.start_daemon()
    for redirections in ("<&-", "2>&-", "2> /dev/full"):
        done = _shell(box, "status --json", redirections)
        assert (done.returncode, done.stderr) == (0, ""), redirections
        assert done.stdout.startswith("{")
    done = _shell(box, "no-such-verb", "2>&-")
    assert (done.returncode, done.stdout) == (2, ""), "what is meant for people to see is not mixed into the output"
    done = _shell(box, "status", "| true; exit ${PIPESTATUS[0]}")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("redirections", ["<&- >&- 2>&-", "> /dev/full 2> /dev/full"])
def test_daemon_without_streams(box: Sandbox, redirections: str) -> None:
    """A daemon without standard streams signs; nothing of its own is ever opened in their place; it ends with 0."""
    daemon = box.start_daemon(wait=False, prefix=["bash", "-c", f'exec "$@" {redirections}', "bash"])

    def ready() -> bool:
        with suppress(OSError):
            return box.ask("/readyz")[0] == 200
        return False

    wait_until(ready, 60, "readiness")
    paths = [box.drop(f"f{number}", b"%d" % number) for number in range(5)]
    box.wait_signed(*paths)
    where = {os.readlink(f"/proc/{daemon.pid}/fd/{number}") for number in range(3)}
    assert where <= {"/dev/null", "/dev/full"}, where
    wait_until(partial(box.knows_version, paths[-1]), what="the record")
    box.assert_exactly_signed(*paths)
    assert box.stop_daemon(signal.SIGTERM) == 0


def test_a_defect_shows_no_values(tmp_path: Path) -> None:
    """The columns of a terminal show where a defect was, and not what the variables there held."""
    script = """
import sys
from pathlib import Path
from dropsign import log
logger = log.configure("console", "info", Path(sys.argv[1]))
def divide(secret):
    return len(secret) / 0
try:
    divide("".join(["open", "sesame"]))
except ZeroDivisionError as error:
    logger.error("daemon.defect", exc_info=error)
"""
    subprocess.run([sys.executable, "-c", script, tmp_path / "log"], check=True)
    shown = (tmp_path / "log").read_text()
    assert "ZeroDivisionError: division by zero" in shown
    assert "in divide" in shown
    assert "opensesame" not in shown
