"""What a process holds: memory, descriptors, threads, and the size of its journal; and whether it grows."""

import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MIB: Final = 1024 * 1024

NOISE: Final = 2.0
"""A line that rises by no more than so many standard deviations of what scatters about it is no growth."""

LEAST_MIB: Final = 1.0
"""Nor is what rises by no more than this."""


@dataclass(frozen=True, slots=True)
class Vitals:
    """One look.

    Attributes:
        at: seconds since the run began.
        rss: resident memory, MiB, shared libraries and all.
        pss: the same with what is shared divided by who shares it, MiB.
        private: what would be given back if the process ended, MiB.
        descriptors: open ones.
        threads: of the process.
        journal: size of the database, MiB.
        wal: size of its write-ahead log, MiB.
    """

    at: float
    rss: float
    pss: float
    private: float
    descriptors: int
    threads: int
    journal: float
    wal: float


def look(pid: int, journal: Path, at: float) -> Vitals:
    """Look at a process (proc(5), smaps_rollup) and its journal."""
    sizes: dict[str, float] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()[1:]:
        name, value = line.split()[:2]
        sizes[name] = int(value) / 1024
    return Vitals(
        at,
        sizes["Rss:"],
        sizes["Pss:"],
        sizes["Private_Clean:"] + sizes["Private_Dirty:"],
        len(os.listdir(f"/proc/{pid}/fd")),  # noqa: PTH208 - their number is all that is wanted
        len(os.listdir(f"/proc/{pid}/task")),  # noqa: PTH208
        _size(journal) / MIB,
        _size(journal.with_name(journal.name + "-wal")) / MIB,
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@dataclass(frozen=True, slots=True)
class Trend:
    """A straight line through what was measured.

    Attributes:
        per_hour: how fast it rises.
        rise: from its first to its last point.
        scatter: standard deviation of what was measured about it.
    """

    per_hour: float
    rise: float
    scatter: float

    @classmethod
    def of(cls, times: Sequence[float], values: Sequence[float]) -> "Trend":
        """Fit it by least squares.

        Args:
            times: in seconds, ascending; at least two.
            values: one each.
        """
        slope, start = statistics.linear_regression(times, values)
        scatter = statistics.pstdev(value - start - slope * time for time, value in zip(times, values, strict=True))
        return cls(slope * 3600, slope * (times[-1] - times[0]), scatter)

    @property
    def is_growth(self) -> bool:
        """Tell whether it rises by more than the noise."""
        return self.rise > max(LEAST_MIB, NOISE * self.scatter)
