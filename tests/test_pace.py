"""How many requests the service bears at a time (pace.py); time is invented, and the service is some arithmetic."""

import heapq
import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropsign.pace import FIRST_LIMIT, LONGEST_PAUSE_SECONDS, RECENT_SECONDS, Pace


@dataclass
class Run:
    """What a simulated service saw."""

    asked: int = 0
    refused: int = 0
    outages: int = 0
    limits: tuple[int, ...] = ()
    seconds: float = 0.0


def simulate(
    pace: Pace,
    *,
    bears: int,
    requests: int,
    seconds: float = 0.02,
    retry_after: float | None = None,
    fails: float = 0.0,
    start: float = 0.0,
) -> Run:
    """Ask a service that refuses at once whatever goes beyond what it bears, and a share by chance, with all speed."""
    run, now, underway, limits = Run(), start, 0, []
    chance = random.Random(1)
    ends: list[tuple[float, float, bool]] = []
    while run.asked < requests:
        if pace.resumes > now and not ends:
            now = pace.resumes
        while len(ends) < pace.limit and now >= pace.resumes:
            accepted = underway < bears and chance.random() >= fails
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
            run.outages += not pace.overloaded(began, now, retry_after)
    run.limits, run.seconds = tuple(limits), now
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


@pytest.mark.parametrize("fails", [0.1, 0.2, 0.5])
def test_failures_by_chance_are_no_reason_to_ask_for_less(fails: float) -> None:
    """Where as much fails however few ask, the pool works on with most of its requests."""
    run = simulate(Pace(32), bears=1000, requests=8000, fails=fails)
    settled = run.limits[len(run.limits) // 2 :]
    assert sum(settled) / len(settled) > 16


def test_a_service_that_failed_by_chance_and_then_bears_little_is_heard() -> None:
    """What was learned of its failures does not hide for long that it is overloaded."""
    pace = Pace(32)
    before = simulate(pace, bears=1000, requests=4000, fails=0.2)
    change = simulate(pace, bears=8, requests=4000, start=before.seconds)
    assert change.refused / change.asked < 0.2
    run = simulate(pace, bears=8, requests=4000, start=change.seconds)
    assert run.refused / run.asked < 0.05
    assert max(run.limits[len(run.limits) // 2 :]) <= 9


@pytest.mark.parametrize("bears", [4, 8, 13])
def test_a_pause_is_kept_by_all_and_does_not_bring_the_pool_to_a_standstill(bears: int) -> None:
    """`Retry-After: 1` at each refusal: nobody asks in that second, and most of the time goes into signing."""
    run = simulate(Pace(32), bears=bears, requests=4000, retry_after=1)
    assert run.refused / run.asked < 0.01
    assert run.outages == 0
    assert run.seconds < 2 * 4000 / bears * 0.02


def test_a_pause_that_is_asked_for_by_a_service_that_answers_is_half_the_time_at_most() -> None:
    """A service that answers between its refusals is heard in full first, and then for as long as it was asked."""
    pace = Pace(32)
    pace.answered(10.0)
    assert pace.overloaded(9.9, 10.0, 2.0)
    assert pace.resumes == 12.0
    pace.overloaded(9.9, 10.5, 4.0)  # on its way when the pause began
    assert pace.resumes == 12.0
    pace.answered(12.4)
    pace.overloaded(12.1, 12.5, 2.0)
    assert pace.resumes == 13.0


def test_a_long_pause_is_an_outage() -> None:
    """Who asks to be left alone for longer has the gate closed, which says so."""
    pace = Pace(32)
    pace.answered(10.0)
    assert not pace.overloaded(9.9, 10.0, LONGEST_PAUSE_SECONDS + 1)


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
