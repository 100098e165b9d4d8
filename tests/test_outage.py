"""outage.py and backoff.py: when the pool stops asking, how long it waits, and when it says so."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropsign.backoff import ceiling, full_jitter, some_jitter
from dropsign.outage import (
    FIRST_WAIT_SECONDS,
    LONGEST_RETRY_AFTER_SECONDS,
    LONGEST_WAIT_SECONDS,
    SAME_REFUSALS,
    OutagePolicy,
)

SEEDS = st.integers(0, 2**32)


def policy(seed: int = 1) -> OutagePolicy:
    return OutagePolicy(Random(seed))


@given(st.integers(-5, 10**9), st.floats(0.001, 1e3), st.floats(0.001, 1e6), SEEDS)
def test_waits_lie_between_nothing_and_the_ceiling(tries: int, first: float, most: float, seed: int) -> None:
    """However often it was tried, a wait is neither negative nor above the ceiling, and the ceiling never overflows."""
    top = ceiling(tries, first, most)
    assert 0 < top <= most
    assert 0 <= full_jitter(tries, first, most, Random(seed)) <= top


def test_ceiling_doubles_from_the_first_wait_up_to_the_longest() -> None:
    """The ceilings are 1, 2, 4 ... up to 60 s, as the contract has them."""
    assert [ceiling(tries, 1.0, 60.0) for tries in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_jitter_is_full() -> None:
    """Waits are spread over all of the range, so that many clients do not come back at once."""
    random = Random(7)
    waits = [full_jitter(6, 1.0, 60.0, random) for _ in range(1000)]
    assert min(waits) < 1
    assert max(waits) > 31
    assert 14 < sum(waits) / len(waits) < 18


@given(st.floats(0, 1e6), SEEDS)
def test_some_jitter_is_a_tenth(seconds: float, seed: int) -> None:
    """An interval is hit give or take a tenth."""
    assert seconds * 0.9 <= some_jitter(seconds, Random(seed)) <= seconds * 1.1


def test_an_absurd_retry_after_is_capped() -> None:
    """A service (or somebody in its place) cannot silence the daemon for a year."""
    subject = policy()
    subject.fault(0.0, 3e7)
    assert subject.next_probe == LONGEST_RETRY_AFTER_SECONDS


def test_first_fault_closes_and_later_ones_do_not_again() -> None:
    """Only the fault that closes the gate says so."""
    subject = policy()
    assert subject.fault(10.0)
    probed = subject.next_probe
    assert not subject.fault(probed)
    assert subject.is_out


@given(st.lists(st.one_of(st.none(), st.floats(0, 3600)), min_size=1, max_size=30), SEEDS)
def test_each_failed_probe_waits_within_its_ceiling_and_obeys_retry_after(
    answers: list[float | None], seed: int
) -> None:
    """The n-th failed probe is followed by at most min(60, 2^(n-1)) s, and never by less than `Retry-After` asks."""
    subject = policy(seed)
    now = 0.0
    for number, retry_after in enumerate(answers, 1):
        subject.fault(now, retry_after)
        wait = subject.next_probe - now
        most = ceiling(number, FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS)
        assert (retry_after or 0) - 1e-9 * now - 1e-9 <= wait <= max(most, retry_after or 0) + 1e-9 * now + 1e-9
        now = max(subject.next_probe, now)


@given(st.lists(st.tuples(st.floats(0, 1), st.one_of(st.none(), st.floats(0, 100))), max_size=100), SEEDS)
def test_requests_that_were_on_their_way_do_not_prolong_the_backoff(
    late: list[tuple[float, float | None]], seed: int
) -> None:
    """A hundred requests cut by one outage are one fault, not a hundred probes; but each `Retry-After` is heard."""
    subject = policy(seed)
    subject.fault(0.0)
    first = subject.next_probe
    wanted = first
    for part, retry_after in late:
        now = first * part * 0.999
        subject.fault(now, retry_after)
        wanted = max(wanted, now + (retry_after or 0))
    assert subject.next_probe == wanted
    assert subject.probes == 1


def test_late_fault_without_retry_after_does_not_undo_an_earlier_one() -> None:
    """What one answer asked for holds, though another request of the same moment was merely cut."""
    subject = policy()
    subject.fault(0.0, 120.0)
    subject.fault(0.1)
    assert subject.next_probe >= 120.0


def test_success_ends_the_outage_and_the_backoff() -> None:
    """After an answer the gate is open, and the next outage begins with the shortest waits."""
    subject = policy()
    for _ in range(10):
        subject.fault(subject.next_probe)
    assert subject.success()
    assert not subject.is_out
    assert not subject.success()
    assert subject.fault(5000.0)
    assert subject.next_probe <= 5000.0 + FIRST_WAIT_SECONDS


def test_many_different_files_refused_alike_in_a_row() -> None:
    """The eighth different file in a row with the same status says that the fault is not theirs, and names all."""
    subject = policy()
    paths = [b"%d" % number for number in range(SAME_REFUSALS)]
    assert [subject.refusal(path, 404) for path in paths] == [False] * (SAME_REFUSALS - 1) + [True]
    assert subject.blamed() == paths
    assert subject.blamed() == []
    assert not subject.refusal(b"next", 404)


@pytest.mark.parametrize("interruption", ["same file", "other status", "success"])
def test_refusals_that_are_no_row(interruption: str) -> None:
    """One file refused again and again, another status, or an answer in between, are no sign of a wrong URL."""
    subject = policy()
    for number in range(SAME_REFUSALS - 1):
        assert not subject.refusal(b"%d" % number, 404)
    match interruption:
        case "same file":
            assert not any(subject.refusal(b"0", 404) for _ in range(100))
        case "other status":
            assert not subject.refusal(b"other", 413)
            assert not any(subject.refusal(b"new%d" % number, 404) for number in range(SAME_REFUSALS - 1))
        case _:
            subject.success()
            assert not any(subject.refusal(b"new%d" % number, 404) for number in range(SAME_REFUSALS - 1))
    assert subject.refusal(b"the last straw", 404)


@given(st.lists(st.tuples(st.integers(0, 12), st.sampled_from([400, 404, 413, 0]))))
def test_refusals_close_only_for_a_row_of_different_files(refusals: list[tuple[int, int]]) -> None:
    """Against a plain model: true exactly when the last eight of different files have one status."""
    subject = policy()
    row: list[tuple[int, int]] = []
    for name, status in refusals:
        told = subject.refusal(b"%d" % name, status)
        if name in [other for other, _ in row]:
            assert not told
            continue
        row = [*row, (name, status)][-SAME_REFUSALS:]
        assert told is (len(row) == SAME_REFUSALS and len({status for _, status in row}) == 1)
