"""The last quarter of an hour: how many signatures were made a second, and how long files and requests took.

Pure bookkeeping: times are monotonic seconds, given as arguments.
"""

import math
from collections import deque
from typing import Final

WINDOW_SECONDS: Final = 15 * 60
"""How far back is remembered."""

STEP_SECONDS: Final = 5
"""How much one point of the series covers."""

_STEPS: Final = WINDOW_SECONDS // STEP_SECONDS
_RATE_SECONDS: Final = 60
"""What the present rate is the mean of."""

_SAMPLES_MOST: Final = 4096
"""How many durations are kept: enough for a 99th percentile, few enough to be sorted for each answer."""


class Throughput:
    """Counts signatures, in steps of some seconds."""

    def __init__(self, now: float) -> None:
        self._began = now
        self._counts: deque[tuple[int, int]] = deque(maxlen=_STEPS + 1)

    def count(self, now: float) -> None:
        """Count one signature."""
        step = int(now // STEP_SECONDS)
        if self._counts and self._counts[-1][0] == step:
            self._counts[-1] = (step, self._counts[-1][1] + 1)
        else:
            self._counts.append((step, 1))

    def per_second(self, now: float) -> float:
        """Return the mean rate of the last minute, or since the beginning if that is shorter ago."""
        first = int(now // STEP_SECONDS) - _RATE_SECONDS // STEP_SECONDS + 1
        recent = sum(number for step, number in self._counts if step >= first)
        return recent / max(1.0, min(now - first * STEP_SECONDS, now - self._began))

    def series(self, now: float) -> list[int]:
        """Return how many signatures each step of the window brought, the one that ended last at the end."""
        numbers = [0] * _STEPS
        end = int(now // STEP_SECONDS)
        for step, number in self._counts:
            if end - _STEPS <= step < end:
                numbers[step - end] = number
        return numbers


class Durations:
    """Keeps the latest durations of one kind, and tells what is usual."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=_SAMPLES_MOST)

    def add(self, now: float, seconds: float) -> None:
        """Take one in."""
        self._samples.append((now, seconds))

    def percentiles(self, now: float) -> dict[str, float] | None:
        """Return the 50th, 95th and 99th percentile in seconds; None where the window holds no duration."""
        seconds = sorted(seconds for at, seconds in self._samples if now - at <= WINDOW_SECONDS)
        if not seconds:
            return None
        return {f"p{rank}": round(seconds[math.ceil(len(seconds) * rank / 100) - 1], 6) for rank in (50, 95, 99)}
