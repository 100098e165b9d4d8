"""The last quarter of an hour, and what of the machine is told to the network: rules without clock or network."""

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dropsign.discretion import discreet
from dropsign.recent import STEP_SECONDS, WINDOW_SECONDS, Durations, Throughput

TIMES = st.lists(st.floats(0, 3 * WINDOW_SECONDS), max_size=60).map(sorted)


@settings(deadline=None)
@given(TIMES, st.floats(0, WINDOW_SECONDS))
def test_the_series_counts_each_signature_once(times: list[float], later: float) -> None:
    """Every signature of the window's whole steps is in it, in its step, and nothing else is."""
    throughput = Throughput(0.0)
    for time in times:
        throughput.count(time)
    now = (times[-1] if times else 0) + later
    series = throughput.series(now)
    end = now // STEP_SECONDS
    assert len(series) == WINDOW_SECONDS // STEP_SECONDS
    for age, number in enumerate(reversed(series), start=1):
        assert number == sum(time // STEP_SECONDS == end - age for time in times)


@settings(deadline=None)
@given(st.integers(1, 50), st.floats(0, 1e6))
def test_a_steady_rate_is_told_as_such(rate: int, begin: float) -> None:
    """From the beginning on, and after minutes, the mean of the last minute is the rate."""
    throughput = Throughput(begin)
    for number in range(1, rate * 180 + 1):
        now = begin + number / rate
        throughput.count(now)
        if number in {rate * 10, rate * 180}:
            assert throughput.per_second(now) == pytest.approx(rate, rel=0.05, abs=0.1)
    assert throughput.per_second(begin + 180 + WINDOW_SECONDS) == 0


@settings(deadline=None)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=300))
def test_percentiles_are_durations_that_were_seen(durations: list[float]) -> None:
    """The least duration that so many of a hundred do not exceed; what left the window counts no more."""
    kept = Durations()
    kept.add(0.0, 1e9)
    for seconds in durations:
        kept.add(WINDOW_SECONDS + 1.0, seconds)
    found = kept.percentiles(WINDOW_SECONDS + 2.0)
    assert found is not None
    for rank in (50, 95, 99):
        expected = sorted(durations)[math.ceil(len(durations) * rank / 100) - 1]
        assert found[f"p{rank}"] == pytest.approx(expected, abs=1e-6)
    assert kept.percentiles(3 * WINDOW_SECONDS) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/srv/out box/inbox is not there", "inbox is not there"),
        ("/var/lib/dropsign/journal.sqlite3: disk is full", "journal.sqlite3: disk is full"),
        ("cannot read '/run/credentials/dropsign.service/client_key', sorry", "cannot read 'client_key', sorry"),
        ("(/etc/dropsign/)", "(dropsign)"),
        ("/srv/other/x", "x"),
        ("https://signing.example.com/api/v1/sign_file answered 503", None),
        ("the service answered 400: <p>no</p>, and/or 1/2", None),
        ("batch/a file.txt", None),
    ],
)
def test_paths_are_cut_down_to_their_names(text: str, told: str | None) -> None:
    """Absolute paths show their last name alone; URLs, and names relative to the outbox, stay as they are."""
    known = {Path("/srv/out box/inbox"), Path("/srv"), Path("/")}
    answer = {"gate": {"detail": text}, "reasons": [text], "path": "/kept", "number": 1}
    expected = text if told is None else told
    assert discreet(answer, known) == {
        "gate": {"detail": expected},
        "reasons": [expected],
        "path": "/kept",
        "number": 1,
    }
