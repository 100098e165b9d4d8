"""The daemon for minutes or hours under a steady stream of files, with faults of the service and reloads: what grows?

Usage: python -m bench.soak [--minutes N] [--rate FILES_A_SECOND] [--seed N] [--directory DIR]

Prints a line a minute and a verdict; the exit code is 1 if anything was lost, wrong or signed twice without a reason,
or if anything grew. How growth is judged: the first half of the run is warm-up. In the second half, what was measured
every two seconds is averaged over each round of faults, as they make memory rise and fall; through the averages goes
a straight line, which may not rise by more than twice the scatter about it, nor by more than 1 MiB (or one descriptor)
if that is more. Threads live in pools that fill up as they are needed, and may not pass the pools' sizes. The journal
is not judged, as it keeps the history of all signatures for ever; its write-ahead log is.
"""

import argparse
import json
import os
import random
import secrets
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Final

from bench.traffic import Traffic
from bench.vitals import Trend, Vitals, look
from tests.support.sandbox import Sandbox, sandbox, wait_until

_FAULTS: Final = (
    "",
    "fail 503:20%\n",
    "fail reset:5%,halfjson:2%\n",
    "",
    "fail hang:2%,null:2%\n",
    "outage",
    "",
    "fail 429:10%,text:1%,500:3%\n",
    "delay 50ms\nfail slowloris:1%,reset:10%\n",
    "outage",
)
"""What the service does, one after the other: see embedded/faults.py; `outage` stops it for a while."""

_PHASE_SECONDS: Final = 10.0
_OUTAGE_SECONDS: Final = 6.0
_RELOAD_SECONDS: Final = 45.0
_LOOK_SECONDS: Final = 2.0
_TIMEOUT_SECONDS: Final = 5.0
_THREADS_MOST: Final = 7 + 4 + min(32, (os.cpu_count() or 1) + 4)
"""One each for the loop, watcher, journal, looks, loading, publishing and scans; large files'; asyncio's own pool."""

_ROUNDS_LEAST: Final = 4

_END_SECONDS: Final = 600.0

_JUDGED: Final[dict[str, Callable[[Vitals], float]]] = {
    "private MiB": lambda vitals: vitals.private,
    "PSS MiB": lambda vitals: vitals.pss,
    "RSS MiB": lambda vitals: vitals.rss,
    "descriptors": lambda vitals: vitals.descriptors,
    "WAL MiB": lambda vitals: vitals.wal,
}


class Soak:
    """One run."""

    def __init__(self, box: Sandbox, rate: float, seed: int) -> None:
        chance = random.Random(seed)
        self._box = box
        self._traffic = Traffic(box, rate, chance)
        self._faults = cycle(_FAULTS)
        self._outages = 0
        self._reloads = 0
        self._back: float | None = None
        self.seen: list[Vitals] = []

    def run(self, minutes: float) -> None:
        """Keep the daemon busy for so long, and print a line a minute."""
        box = self._box
        box.start_service()
        daemon = box.start_daemon()
        started = time.monotonic()
        phase, reload, vitals, line = started, started + _RELOAD_SECONDS, started, started + 60
        print("minute    RSS    PSS private  fds threads journal   WAL dropped picked up backlog  gate", flush=True)
        while (now := time.monotonic()) < started + minutes * 60:
            assert daemon.poll() is None, f"the daemon ended: {daemon.returncode}"
            self._traffic.go_on()
            if now >= phase:
                self._misbehave(now)
                phase += _PHASE_SECONDS
            if self._back is not None and now >= self._back:
                box.start_service()
                self._back = None
            if now >= reload:
                daemon.send_signal(signal.SIGHUP)
                self._reloads += 1
                reload += _RELOAD_SECONDS
            if now >= vitals:
                self.seen.append(look(daemon.pid, box.journal, now - started))
                vitals += _LOOK_SECONDS
            if now >= line:
                self._print_line()
                line += 60
            time.sleep(0.005)
        self._calm_down()

    def _misbehave(self, now: float) -> None:
        fault = next(self._faults)
        if fault == "outage":
            self._box.stop_service()
            self._outages += 1
            self._back = now + _OUTAGE_SECONDS
        temporary = self._box.site.faults_file.with_suffix(".new")
        temporary.write_text("" if fault == "outage" else fault, "utf-8")
        temporary.replace(self._box.site.faults_file)

    def _calm_down(self) -> None:
        """End all faults, ask for what was given up for their sake, and wait for the last signature."""
        self._box.misbehave("")
        self._box.start_service()
        self._back = None
        wait_until(lambda: not self._box.status()["gate"]["closed"], 60, "an open gate")
        self._box.ask("/api/retry", {"all": True})
        self._traffic.end(_END_SECONDS)

    def _print_line(self) -> None:
        vitals, counts, status = self.seen[-1], self._traffic.counts, self._box.status()
        gate = status["gate"]["reason"] or "open"
        print(
            f"{vitals.at / 60:6.1f} {vitals.rss:6.1f} {vitals.pss:6.1f} {vitals.private:7.1f} {vitals.descriptors:4}"
            f" {vitals.threads:7} {vitals.journal:7.1f} {vitals.wal:5.1f} {counts['dropped']:7}"
            f" {counts['picked_up']:9} {status['backlog']:7}  {gate}",
            flush=True,
        )

    def verdict(self) -> bool:
        """Print what came of it; return whether all was well."""
        counts = self._traffic.counts
        signed, results = Counter[str](), Counter[str]()
        for request in _lines(self._box.request_log):
            results[request["result"]] += 1
            if request["result"] == "signed":
                signed[request["sha256"]] += 1
        twice = sum(number - 1 for number in signed.values())
        cut = results.total() - results["signed"]
        events = Counter(line["event"] for line in _lines(self._box.daemon_log))
        explained = self._outages * 32
        print(f"\n{dict(counts)}, {self._outages} outages, {self._reloads} reloads, {cut} faults injected")
        print(f"requests: {dict(results)}")
        print(f"log: {dict(events)}")
        print(f"signed twice: {twice}; answers that an outage may have cut off: up to {explained}")
        wrong = counts["lost"] + counts["wrong"] + events["daemon.defect"]
        return not wrong and twice <= explained and not _grew(self.seen)


def _lines(path: Path) -> list[dict[str, str]]:
    with path.open("rb") as file:
        return [json.loads(line) for line in file]


def _grew(seen: Sequence[Vitals]) -> bool:
    """Print how each figure went after warm-up; tell whether any of them grew."""
    seconds = _PHASE_SECONDS * len(_FAULTS)
    rounds = int(seen[-1].at / 2 // seconds)
    if rounds < _ROUNDS_LEAST:
        print(f"\ntoo short to tell growth, which takes {2 * _ROUNDS_LEAST * seconds / 60:.0f} minutes")
        return False
    start = seen[-1].at - rounds * seconds
    parts = [[v for v in seen if 0 <= v.at - start - number * seconds < seconds] for number in range(rounds)]
    times = [start + (number + 0.5) * seconds for number in range(rounds)]
    grew = False
    print(f"\nafter warm-up, in {rounds} rounds of faults from minute {start / 60:.1f} to {seen[-1].at / 60:.1f}:")
    for name, value in _JUDGED.items():
        values = [value(vitals) for part in parts for vitals in part]
        trend = Trend.of(times, [statistics.mean(map(value, part)) for part in parts])
        grew |= trend.is_growth
        verdict = "GROWS" if trend.is_growth else "no growth"
        print(
            f"{name:>12}: {min(values):7.1f} to {max(values):7.1f}, rounds' averages rise by {trend.rise:+5.1f}"
            f" ({trend.per_hour:+.1f} an hour), scatter {trend.scatter:4.1f}: {verdict}"
        )
    threads = max(vitals.threads for vitals in seen)
    print(
        f"     threads: {threads} at most, of {_THREADS_MOST}: {'TOO MANY' if threads > _THREADS_MOST else 'no growth'}"
    )
    print(f"     journal: {parts[0][0].journal:.1f} to {seen[-1].journal:.1f} MiB, the history of all signatures")
    return grew or threads > _THREADS_MOST


def main() -> None:
    """Run, and exit with 1 if anything was amiss."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rate", type=float, default=50)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--directory", type=Path, default=None)
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.rate:g} files a second for {options.minutes:g} minutes")
    with tempfile.TemporaryDirectory(dir=options.directory) as name, sandbox(Path(name) / "box") as box:
        box.configure("service", timeout_seconds=_TIMEOUT_SECONDS)
        soak = Soak(box, options.rate, options.seed)
        soak.run(options.minutes)
        well = soak.verdict()
    print("\nall is well" if well else "\nNOT WELL")
    sys.exit(not well)


if __name__ == "__main__":
    main()
