"""How long to wait before the next try: exponential backoff with full jitter, as pure functions.

Full jitter draws uniformly between nothing and the ceiling, which spreads many clients best (Brooker, 'Exponential
Backoff And Jitter', 2015).
"""

from random import Random


def ceiling(tries: int, first: float, most: float) -> float:
    """Return the longest wait in seconds after `tries` failures: `first`, doubled each time, up to `most`."""
    return min(most, first * 2.0 ** min(max(tries - 1, 0), 60))


def full_jitter(tries: int, first: float, most: float, random: Random) -> float:
    """Return a wait in seconds, drawn uniformly up to the ceiling."""
    return random.uniform(0, ceiling(tries, first, most))


def some_jitter(seconds: float, random: Random) -> float:
    """Return `seconds` give or take a tenth, so that many daemons do not move in step."""
    return seconds * random.uniform(0.9, 1.1)
