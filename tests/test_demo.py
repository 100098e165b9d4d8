"""`dropsign demo` runs the main job for real, tells what it came to, and leaves nothing behind."""

import http.client
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from dropsign.embedded.demo import Audience, Demo, Outcome, Step
from dropsign.embedded.demo_child import ChildDiedError
from dropsign.embedded.demo_files import Way, plan
from dropsign.embedded.demo_patience import Patience
from dropsign.embedded.demo_site import Site
from dropsign.errors import ExitCode, UnreachableError
from tests.support.sandbox import dropsign, wait_until


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory with a short path, as sockets need it."""
    with tempfile.TemporaryDirectory(prefix="d-") as name:
        yield Path(name)


@pytest.fixture
def site(directory: Path) -> Iterator[Site]:
    with Site(directory) as made:
        yield made


class Saboteur(Audience):
    """Does something when a step begins, and remembers how far the steps got."""

    def __init__(self, step: str = "", act: Callable[[], object] = lambda: None) -> None:
        self.step = step
        self.act = act
        self.steps: list[Step] = []
        self.furthest: dict[str, int] = {}

    def begins(self, step: str) -> None:
        self.furthest[step] = 0
        if step == self.step:
            self.act()

    def advances(self, done: int, total: int) -> None:
        assert done <= total
        self.furthest[list(self.furthest)[-1]] = done

    def ended(self, step: Step) -> None:
        self.steps.append(step)


def run(site: Site, saboteur: Saboteur, patience: Patience | None = None) -> Outcome:
    return Demo(site, patience or Patience(60), saboteur, 4).run()


def processes(mark: str) -> list[int]:
    """Return the processes whose command line speaks of something."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:  # it has just ended
            continue
    return found


def start(directory: Path, *options: str) -> "subprocess.Popen[bytes]":
    """Start the demo with its output in a file."""
    with (directory / "output").open("wb") as output, (directory / "errors").open("wb") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "dropsign", "demo", "--files", "4", *options],
            stdout=output,
            stderr=errors,
            env={**os.environ, "TMPDIR": str(directory)},
        )


def test_everything_is_signed_and_verified(directory: Path) -> None:
    """The demo ends with 0, tells each step and the numbers in plain lines, and leaves no process and no file."""
    done = dropsign("demo", "--files", "12", env={**os.environ, "TMPDIR": str(directory)})
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:8]] == ["ok"] * 8
    summary = dict(line.rsplit(maxsplit=1) for line in lines if line.startswith(("files  ", "bytes  ", "requests  ")))
    assert summary["files"] == "12"
    assert int(summary["bytes"].replace(",", "")) > 100 * 1024 * 1024
    assert summary["requests"] == "15", "12 files, and 3 of them once more"
    assert "12 of 12 verify" in done.stdout
    assert lines[-1].startswith("All 12 files")
    assert list(directory.iterdir()) == []
    assert processes(str(directory)) == []


def test_keep_leaves_it_running(directory: Path) -> None:
    """With --keep all goes on until Ctrl-C: files are signed, what is printed works as it stands, the end is 0."""
    demo = start(directory, "--keep")
    try:
        output = directory / "output"
        shown = wait_until(lambda: "it goes on where it was\n" in (text := output.read_text()) and text, 60)
        lines = shown.splitlines()
        places = {line[:16].strip(): line[16:] for line in lines if line[14:16] == "  "}
        outbox, config = Path(places["outbox"]), Path(places["configuration"])
        commands = [line for before, line in pairwise(lines) if before.startswith("# ")]

        (outbox / "mine.txt").write_text("mine\n")
        wait_until((outbox / "mine.txt.sign").exists, what="the signature of a file dropped by hand")
        address, _, page = places["status page"].removeprefix("http://").partition("/")
        connection = http.client.HTTPConnection(address, timeout=10)
        connection.request("GET", f"/{page}")
        assert connection.getresponse().status == http.client.OK
        connection.close()
        for command in commands[:4]:
            subprocess.run(["sh", "-c", command], check=True, capture_output=True, timeout=60)
        assert (outbox / config.name).read_text().endswith("# changed\n")

        # The service is stopped and started again, as is suggested; a file dropped meanwhile waits for it.
        stop, again = commands[4:6]
        subprocess.run(["sh", "-c", stop], check=True, timeout=60)
        (outbox / "meanwhile.txt").write_text("meanwhile\n")
        with (directory / "by-hand").open("wb") as log:
            by_hand = subprocess.Popen(shlex.split(again), stdout=log, stderr=log)
        try:
            wait_until((outbox / "meanwhile.txt.sign").exists, what="the signature after the outage")
        finally:
            by_hand.kill()
            by_hand.wait()
    finally:
        demo.send_signal(signal.SIGINT)
        assert demo.wait(20) == ExitCode.DONE, (directory / "errors").read_text()
    assert config.exists()
    assert str(config.parent) in output.read_text().splitlines()[-1]
    assert processes(str(directory)) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(directory: Path, number: int) -> None:
    """A signal in the middle ends everything in order: 130, no process, no directory."""
    demo = start(directory)
    wait_until(lambda: b"signing service" in (directory / "output").read_bytes(), what="the second step")
    demo.send_signal(number)
    assert demo.wait(20) == ExitCode.INTERRUPTED
    assert {path.name for path in directory.iterdir()} == {"output", "errors"}
    assert processes(str(directory)) == []


def test_a_process_that_dies_is_named(directory: Path) -> None:
    """If the daemon dies, the demo says so, shows the end of its log, and ends with 3."""
    demo = start(directory)
    wait_until(lambda: b"first signature" in (directory / "output").read_bytes(), 60, "the first signature")
    daemon = next(pid for pid in processes(str(directory)) if b"--config" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(daemon, signal.SIGKILL)
    assert demo.wait(20) == ExitCode.UNREACHABLE
    errors = (directory / "errors").read_text()
    assert "daemon.ready" in errors
    assert errors.splitlines()[-1] == f"dropsign: the daemon (process {daemon}) was killed by signal 9"
    assert processes(str(directory)) == []


def test_a_directory_that_cannot_hold_the_files(directory: Path) -> None:
    """What the directory cannot hold is said in one line, and all that was begun is removed."""
    command = f"ulimit -f 100000; exec {shlex.quote(sys.executable)} -m dropsign demo"  # half a file of 100 MiB
    environment = {**os.environ, "TMPDIR": str(directory)}
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.USAGE
    assert done.stderr.startswith(f"dropsign: {directory}")
    assert done.stderr.endswith("File too large; set TMPDIR to a directory that has more room\n")
    assert list(directory.iterdir()) == []
    assert processes(str(directory)) == []


def test_steps_are_told(site: Site) -> None:
    """Whoever watches is told each step, how far it is, and how long it took."""
    saboteur = Saboteur()
    outcome = run(site, saboteur)
    assert [step.name for step in saboteur.steps] == list(saboteur.furthest)
    assert all(step.seconds > 0 and step.detail for step in saboteur.steps)
    assert saboteur.furthest["all signed"] == outcome.files == 4
    assert outcome.problems == []


def test_what_does_not_verify_is_named(site: Site) -> None:
    """Wrong and missing signatures, and what should not lie there, are named one by one."""

    def tamper() -> None:
        for file in plan(4)[1:3]:
            path = file.at(site.outbox)
            path.with_name(path.name + ".sign").write_bytes(b"AAAA")
        (site.outbox / "hello.txt.sign").unlink()
        (site.outbox / "stranger.tmp").touch()

    problems = {problem.name: problem.what for problem in run(site, Saboteur("verification", tamper)).problems}
    first, *wrong = [file.name for file in plan(4)[:3]]
    assert problems.pop(first) == "has no signature"
    assert problems.pop(b"stranger.tmp") == "is neither a file dropped nor its .sign"
    assert problems == dict.fromkeys(wrong, "has a signature that does not fit it")


def test_a_stopped_service_is_noticed(site: Site) -> None:
    """A service that ends, in whatever step, ends the demo with the tail of its log."""

    def stop() -> None:
        site.children[0].signal(signal.SIGTERM)
        site.children[0].wait_or_kill(10)

    with pytest.raises(ChildDiedError, match=r"the signing service \(process \d+\) ended with exit code 0") as died:
        run(site, Saboteur("all signed", stop))
    assert any("ready" in line for line in died.value.tail)


def test_patience_runs_out(site: Site) -> None:
    """The demo gives up with 3 when its time is over, and names what is still missing."""
    with pytest.raises(UnreachableError, match="gave up after 0 s; still missing: the signing service") as gave_up:
        run(site, Saboteur(), Patience(0))
    assert gave_up.value.exit_code == ExitCode.UNREACHABLE


def test_a_child_that_will_not_end_is_killed(site: Site) -> None:
    """A child that does not heed SIGTERM gets SIGKILL."""
    site.prepare()
    site.start_service()
    wait_until(site.is_listening)
    child = site.children[0]
    os.kill(child.pid, signal.SIGSTOP)  # a stopped process heeds nothing else
    site.__exit__()
    with pytest.raises(ChildDiedError, match="was killed by signal 9"):
        child.check()


@pytest.mark.parametrize("number", [1, 2, 12, 13, 40, 1000])
def test_plan(number: int) -> None:
    """As many files as asked for, all with different names, in all ways if there are enough."""
    files = plan(number)
    assert len({file.name for file in files}) == len(files) == number
    assert number < 12 or {file.way for file in files} == set(Way)
