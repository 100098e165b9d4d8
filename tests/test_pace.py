"""How many requests the service bears at a time (pace.py); time is invented, and the service is some arithmetic."""

import heapq
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropsign.pace import FIRST_LIMIT, RECENT_SECONDS, Pace


@dataclass
class Run:
    """What a simulated service saw."""

    asked: int = 0
    refused: int = 0
    outages: int = 0
    limits: tuple[int, ...] = ()


def simulate(pace: Pace, *, bears: int, requests: int, seconds: float = 0.02) -> Run:
    """Ask a service that refuses at once whatever goes beyond what it bears, as fast as the pace allows."""
    run, now, underway, limits = Run(), 0.0, 0, []
    ends: list[tuple[float, float, bool]] = []
    while run.asked < requests:
        while len(ends) < pace.limit:
            accepted = underway < bears
            underway += accepted
            heapq.heappush(ends, (now + (seconds if accepted else 0.001), now, accepted))
            run.asked += 1
        now, began, accepted = heapq.heappop(ends)
        limits.append(pace.limit)
        if accepted:
            underway -= 1
            pace.answered(now)
        else:
            run.refused += 1
            run.outages += not pace.overloaded(began, now)
    run.limits = tuple(limits)
    return run


@pytest.mark.parametrize("bears", [4, 5, 8, 13, 31])
def test_it_settles_near_what_the_service_bears(bears: int) -> None:
    """Fewer than 5 % are refused, nothing looks like an outage, and the limit ends up close below the bearable."""
    run = simulate(Pace(32), bears=bears, requests=4000)
    assert run.refused / run.asked < 0.05
    assert run.outages == 0
    settled = run.limits[len(run.limits) // 2 :]
    assert max(settled) <= bears + 1
    assert sum(settled) / len(settled) >= 0.7 * bears


def test_a_service_that_bears_all_is_asked_with_all_soon() -> None:
    """Without a refusal the limit reaches the ceiling within a few rounds, and never passes it."""
    run = simulate(Pace(32), bears=1000, requests=500)
    assert max(run.limits) == 32
    assert run.limits[40] == 32


def test_it_begins_low() -> None:
    """A pool does not fall on a service that it knows nothing of; after an outage it starts with one request."""
    pace = Pace(32)
    assert pace.limit == FIRST_LIMIT
    pace.outage()
    assert pace.limit == 1


def test_a_refusal_by_a_service_that_answers_nobody_is_an_outage() -> None:
    """Overload is only believed of a service that has answered somebody just now."""
    pace = Pace(32)
    assert not pace.overloaded(0.0, 0.1)
    pace.answered(1.0)
    assert pace.overloaded(1.1, 1.2)
    assert not pace.overloaded(1.1, 1.0 + RECENT_SECONDS + 0.1)


def test_nothing_but_refusals_becomes_an_outage_within_the_recent_seconds() -> None:
    """A service that fell over under load is found out after a bounded number of refusals, not only after a while."""
    pace = Pace(32)
    pace.answered(0.0)
    verdicts = [pace.overloaded(0.001 * number, 0.001 * number) for number in range(1, 200)]
    assert False in verdicts
    assert verdicts.index(False) <= 2 * 32


def test_requests_that_were_underway_count_as_one_refusal() -> None:
    """When a whole round is refused at once, the limit falls once, not once for each."""
    pace = Pace(32)
    for _ in range(28):
        pace.answered(0.0)
    assert pace.limit == 32
    for _ in range(10):
        pace.overloaded(0.5, 1.0)
    assert pace.limit == 16


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1))), st.integers(1, 64))
def test_the_limit_stays_between_one_and_the_ceiling(steps: list[tuple[bool, float]], ceiling: int) -> None:
    """Whatever is answered or refused, in whatever order."""
    pace, now = Pace(ceiling), 0.0
    for accepted, seconds in steps:
        now += seconds
        if accepted:
            pace.answered(now)
        else:
            pace.overloaded(now - seconds, now)
        assert 1 <= pace.limit <= ceiling
