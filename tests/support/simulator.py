"""The real daemon under random operations of people, programs, the service and its own deaths, held against a model.

    python -m tests.support.simulator [--minutes N] [--seed N] [--operations N] [--directory DIR]

Operations come in episodes; after each, all disturbance ends and the model is checked (see `model`). The seed decides
the operations (see `script`) and the configuration; how they meet the daemon's work is up to the machine. A failure
shows the seed, the last operations and what is not as it should be, and leaves the directory to be looked at.
"""

import argparse
import base64
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, deque
from contextlib import suppress
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.model import Model
from tests.support.sandbox import Sandbox, sandbox, wait_until
from tests.support.script import FIRST, Operation, Script

OPERATIONS: Final = 60
"""In an episode."""

QUIET_SECONDS: Final = 60.0
"""How long the daemon may take to come to rest after an episode."""


class SimulationError(AssertionError):
    """The model does not hold."""


class Simulator:
    """Carries operations out.

    Attributes:
        seed: decides all that happens.
        counts: operations by kind, episodes, and why files were given up for a while.
        late: what was not as it should be at rest until a scan came by, which the contract allows.
    """

    def __init__(self, box: Sandbox, seed: int) -> None:
        """Configure the daemon as the seed has it.

        Args:
            box: with nothing running in it yet.
            seed: decides all that happens.
        """
        self.seed = seed
        self.counts: Counter[str] = Counter()
        self.late: list[str] = []
        self._box = box
        self._script = Script(seed)
        self._outside = box.directory / "outside"
        self._outside.mkdir()
        self._recent: deque[Operation] = deque(maxlen=3 * OPERATIONS)
        self._writers: dict[str, int] = {}
        self._readies = 0
        self._is_doomed = False
        self._has_key = seed % 2 == 0
        box.configure("verify", key=str(box.signing.public_key) if self._has_key else None)
        box.configure("outbox", error_files=seed % 3 == 0, rescan_seconds=30)
        if seed % 4 == 3:
            box.configure("outbox", watcher="poll", poll_seconds=1)
        self._model = Model(box, self._script.tree)

    def run(self, *, episodes: int | None = None, minutes: float = 0, operations: int = OPERATIONS) -> None:
        """Run episodes: a number of them, or for so many minutes.

        Raises:
            SimulationError: the model does not hold; the text says all that is known.
        """
        self._box.start_service()
        self._start(Operation("start", "", "wait"))
        end, number = time.monotonic() + minutes * 60, 0
        while number < episodes if episodes is not None else time.monotonic() < end:
            number += 1
            try:
                for operation in self._script.operations(operations):
                    self._carry_out(operation)
                for operation in self._script.calm():
                    self._carry_out(operation)
                self._check()
            except Exception as error:
                recent = "\n".join(map(_line, self._recent))
                text = f"{recent}\n{type(error).__name__}: {error}\nseed {self.seed}, episode {number}"
                raise SimulationError(text) from error
            self.counts["episodes"] += 1

    def close(self) -> None:
        """Close what writers hold open."""
        for fd in self._writers.values():
            os.close(fd)

    def _check(self) -> None:
        """Wait until the daemon has come to rest, and hold everything against the model."""
        box = self._box
        self._reprieve()
        self._wait_ready()
        wait_until(self._rests, QUIET_SECONDS, "rest")
        self.late += self._model.problems()
        box.rescan()
        box.wait_idle(QUIET_SECONDS)
        # What the journal's thread has in hand is not in the file yet.
        with suppress(AssertionError):
            wait_until(lambda: not self._model.problems(), 5)
        if problems := self._model.problems():
            raise AssertionError("\n".join(problems))

    def _rests(self) -> bool:
        """Tell whether all is signed; files that were given up for the sake of a fault are tried again."""
        for state in ("failed", "deferred"):
            if known := self._box.known(state):
                for path, entry in known.items():
                    assert entry["reason"], f"{path!r} is {state} without a reason"
                    self.counts[f"{state}: {entry['reason']}"] += 1
                self._box.ask("/api/retry", {"paths": [os.fsdecode(path) for path in known]})
                time.sleep(0.2)
        status = self._box.status()
        waiting = sum(int(status[what]) for what in ("backlog", "in_flight", "settling", "failed", "deferred"))
        return not waiting and not status["gate"]["closed"]

    # Carrying out

    def _carry_out(self, operation: Operation) -> None:
        self._recent.append(operation)
        self.counts[operation.kind] += 1
        method = f"_{operation.kind.replace(' ', '_')}"
        if hasattr(self, method):
            getattr(self, method)(operation)
        else:
            self._change(operation)
        time.sleep(operation.pause)

    def _at(self, path: str) -> Path:
        return self._box.outbox / path

    def _write(self, operation: Operation) -> None:
        self._at(operation.path).write_bytes(operation.content)

    def _write_twice(self, operation: Operation) -> None:
        path = self._at(operation.path)
        path.write_bytes(FIRST + operation.content)
        path.write_bytes(operation.content)

    def _write_hidden(self, operation: Operation) -> None:
        path = self._at(operation.path)
        hidden = path.with_name(f".{path.name}.hidden")
        hidden.write_bytes(operation.content)
        hidden.rename(path)

    def _move_in(self, operation: Operation) -> None:
        staged = self._outside / "staged"
        staged.write_bytes(operation.content)
        staged.rename(self._at(operation.path))

    def _change(self, operation: Operation) -> None:
        """Do what is one call."""
        path, other = self._at(operation.path), self._at(operation.other)
        match operation.kind:
            case "rename":
                path.rename(other)
            case "remove":
                path.unlink()
            case "remove sign":
                self._box.sign_of(path).unlink(missing_ok=True)
            case "link":
                os.link(path, other)
            case "symbolic link":
                path.symlink_to("somewhere")
            case "fifo":
                os.mkfifo(path)
            case "make directory":
                path.mkdir()
            case "remove directory":
                _remove_tree(path)
            case _:
                raise NotImplementedError(operation.kind)

    def _write_in_pieces(self, operation: Operation) -> None:
        with self._at(operation.path).open("wb", buffering=0) as file:
            for start in range(0, len(operation.content), 20_000):
                file.write(operation.content[start : start + 20_000])
                time.sleep(0.002)

    def _write_alike(self, operation: Operation) -> None:
        path = self._at(operation.path)
        before = path.stat()
        with path.open("r+b") as file:
            file.write(operation.content)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def _pick_up(self, operation: Operation) -> None:
        path = self._at(operation.path)
        pair = [path, self._box.sign_of(path)]
        for one in pair if operation.other == "file first" else reversed(pair):
            one.unlink(missing_ok=True)

    def _touch(self, operation: Operation) -> None:
        path = self._at(operation.path)
        match operation.other:
            case "mode":
                path.chmod(0o600 if path.stat().st_mode & 0o077 else 0o644)
            case "past" if self._has_key:  # without one, whoever sets back the clock has old signatures kept
                os.utime(path, (1e9, 1e9))
            case "future":
                os.utime(path, (2e9, 2e9))
            case _:
                os.utime(path)

    def _foreign(self, operation: Operation) -> None:
        """Have a file come after the signature that is not older, so that both are there when it is noticed."""
        path, staged = self._at(operation.path), self._outside / "staged"
        staged.write_bytes(operation.content)
        signed = operation.content if operation.other == "right" or not self._has_key else b"other"
        signature = self._outside / "signature"
        signature.write_bytes(self._sign(signed))
        signature.rename(self._box.sign_of(path))
        staged.rename(path)

    def _sign(self, content: bytes) -> bytes:
        key = serialization.load_pem_private_key(self._box.signing.private_key.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return base64.b64encode(key.sign(content, ec.ECDSA(hashes.SHA256())))

    def _open(self, operation: Operation) -> None:
        fd = os.open(self._at(operation.path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        os.write(fd, operation.content)
        self._writers[operation.path] = fd

    def _close(self, operation: Operation) -> None:
        fd = self._writers.pop(operation.path)
        os.ftruncate(fd, 0)
        os.pwrite(fd, operation.content, 0)
        os.close(fd)

    def _move_directory(self, operation: Operation) -> None:
        self._move(self._at(operation.path), self._at(operation.other))

    def _move_out(self, operation: Operation) -> None:
        self._move(self._at(operation.path), self._outside / operation.other)

    def _move_back(self, operation: Operation) -> None:
        self._move(self._outside / operation.path, self._at(operation.other))

    @staticmethod
    def _move(source: Path, target: Path) -> None:
        for path in source.rglob("*"):
            if path.is_symlink() or path.is_fifo():
                path.unlink()
        source.rename(target)

    def _misbehave(self, operation: Operation) -> None:
        # Without a key, nobody would notice.
        self._box.misbehave("" if "badsig" in operation.other and not self._has_key else operation.other)

    def _serve(self, _: Operation) -> None:
        self._box.start_service()

    def _outage(self, _: Operation) -> None:
        self._box.stop_service()

    def _signal(self, operation: Operation) -> None:
        self._wait_ready()
        assert self._box.daemon is not None
        self._box.daemon.send_signal(getattr(signal, operation.other))

    def _kill(self, _: Operation) -> None:
        self._box.kill_daemon()
        self._is_doomed = False

    def _stop(self, _: Operation) -> None:
        self._wait_ready()
        code = self._box.stop_daemon()
        assert code == 0 or (self._is_doomed and code == -signal.SIGKILL), f"exit code {code} after SIGTERM"
        self._is_doomed = False

    def _start(self, operation: Operation) -> None:
        self._launch()
        if operation.other == "wait":
            self._wait_ready()

    def _start_to_die(self, operation: Operation) -> None:
        self._launch({"DROPSIGN_FAILPOINT": operation.other})
        self._is_doomed = True

    def _launch(self, environment: dict[str, str] | None = None) -> None:
        self._readies = len(self._box.events("daemon.ready"))
        self._box.start_daemon(wait=False, environment=environment)

    def _reprieve(self) -> None:
        """Replace a daemon that died as it was to, or still is to, by one that goes on."""
        if self._is_doomed:
            self._box.kill_daemon()
            self._is_doomed = False
            self._launch()

    def _wait_ready(self) -> None:
        """Wait until the daemon listens to signals; one that died first is replaced."""

        def ready() -> bool:
            daemon = self._box.daemon
            assert daemon is not None
            if daemon.poll() is not None:
                assert self._is_doomed, f"the daemon ended by itself: {daemon.returncode}"
                self._reprieve()
            return len(self._box.events("daemon.ready")) > self._readies

        wait_until(ready, what="the daemon's readiness")


def _remove_tree(path: Path) -> None:
    """Remove a directory into which signatures are being written meanwhile."""
    while path.exists():
        shutil.rmtree(path, ignore_errors=True)


def _line(operation: Operation) -> str:
    content = f" {len(operation.content)} bytes" if operation.content else ""
    return f"{operation.kind}: {operation.path!r} {operation.other!r}{content}"


def main() -> None:
    """Run for some minutes, and exit with 1 at the first failure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--operations", type=int, default=OPERATIONS)
    parser.add_argument("--directory", type=Path, default=None)
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    directory = Path(tempfile.mkdtemp(dir=options.directory))
    with sandbox(directory / "box") as box:
        simulator = Simulator(box, options.seed)
        try:
            simulator.run(minutes=options.minutes, operations=options.operations)
        except SimulationError as error:
            sys.exit(f"{error}\nsee {directory}")
        finally:
            simulator.close()
            print("left to a scan:", *simulator.late, sep="\n  ")
            print(dict(simulator.counts))
    shutil.rmtree(directory)


if __name__ == "__main__":
    main()
