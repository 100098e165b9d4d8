"""A burst of equal files into a running daemon, side by side with baseline A, against nginx.

Usage: python -m bench.burst [--files N] [--size BYTES] [--baseline-files N] [--rounds N] [--directory DIR]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench.peers import nginx
from tests.support.sandbox import Sandbox, sandbox, wait_until

MIB = 1024 * 1024


@dataclass
class Measured:
    """One run."""

    files_per_second: float
    cpu_seconds_per_file: float = 0.0
    peak_mib: float = 0.0


def usage(pid: int) -> tuple[float, float]:
    """Return a process' CPU seconds so far, and its peak memory in MiB."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    status = Path(f"/proc/{pid}/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return ticks / os.sysconf("SC_CLK_TCK"), peak / 1024


def fill(directory: Path, number: int, size: int) -> None:
    """Make files of random content, no two alike."""
    directory.mkdir()
    content = bytearray(os.urandom(size))
    for index in range(number):
        content[:8] = index.to_bytes(8, "big")[: len(content)]
        (directory / f"file{index:07}").write_bytes(content)


def run_dropsign(box: Sandbox, stage: Path, number: int) -> Measured:
    """Rename a staged burst into the outbox and wait for the last signature."""
    daemon = box.start_daemon()
    cpu, _ = usage(daemon.pid)
    started = time.monotonic()
    for path in stage.iterdir():
        path.rename(box.outbox / path.name)
    wait_until(lambda: sum(1 for _ in box.outbox.glob("*.sign")) >= number, 600, "the last signature")
    seconds = time.monotonic() - started
    after, peak = usage(daemon.pid)
    box.stop_daemon()
    return Measured(number / seconds, (after - cpu) / number, peak)


def run_baseline(box: Sandbox, directory: Path, number: int) -> Measured:
    """Have baseline A sign a directory."""
    client = box.client
    files = (box.authority.certificate, client.certificate, client.private_key, directory)
    result = subprocess.run(
        [sys.executable, "-m", "bench.baseline_a", f"https://localhost:{box.port}", *map(str, files)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return Measured(number / float(result.stdout))


def main() -> None:
    """Run the rounds and print medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--size", type=int, default=64 * 1024)
    parser.add_argument("--baseline-files", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=None)
    options = parser.parse_args()
    ours, theirs = [], []
    for _ in range(options.rounds):
        with (
            tempfile.TemporaryDirectory(dir=options.directory) as name,
            sandbox(Path(name) / "box") as box,
            nginx(box, Path(name) / "nginx"),
        ):
            fill(Path(name) / "baseline", options.baseline_files, options.size)
            theirs.append(run_baseline(box, Path(name) / "baseline", options.baseline_files))
            fill(Path(name) / "stage", options.files, options.size)
            ours.append(run_dropsign(box, Path(name) / "stage", options.files))
    rate = statistics.median(run.files_per_second for run in ours)
    baseline = statistics.median(run.files_per_second for run in theirs)
    cpu = statistics.median(run.cpu_seconds_per_file for run in ours)
    peak = max(run.peak_mib for run in ours)
    print(f"{options.files} files of {options.size} bytes, median of {options.rounds}:")
    print(f"  baseline A  {baseline:10.2f} files/s  (over {options.baseline_files} files)")
    print(f"  dropsign    {rate:10.2f} files/s  {cpu * 1e6:.0f} us CPU a file  peak {peak:.0f} MiB")
    print(f"  ratio       {rate / baseline:10.2f}")


if __name__ == "__main__":
    main()
