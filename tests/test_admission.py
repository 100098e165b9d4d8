"""admission.py: what is to be done about a path, case by case of the contract's sections 1 and 2."""

from dataclasses import replace

import pytest

from dropsign.admission import (
    UNPUBLISHABLE,
    UNREADABLE,
    Verdict,
    doubted,
    insist,
    is_adoptable,
    is_stale,
    judge,
    may_be_signed,
)
from dropsign.model import Entry, Fingerprint, Look, Notice, Stamp, State

NOW = Fingerprint(1, 2, 30, 400, 500)
TOUCHED = Fingerprint(1, 2, 30, 401, 501)
GROWN = Fingerprint(1, 2, 31, 401, 501)
REPLACED = Fingerprint(1, 3, 30, 400, 502)
PUBLISHED = Stamp(9, 900)
OTHER = Stamp(9, 901)


def look(
    fingerprint: Fingerprint | None = NOW,
    *,
    refusal: str | None = None,
    sign: int | None = None,
    stamp: Stamp | None = None,
) -> Look:
    return Look(b"a", fingerprint, refusal, False, sign, PUBLISHED if sign is not None else stamp)


def entry(
    state: State = State.SIGNED, fingerprint: Fingerprint = NOW, *, signed: int | None = 30, number: int | None = 7
) -> Entry:
    return Entry(b"a", state, fingerprint, b"digest", number, signed_size=signed, stamp=PUBLISHED)


@pytest.mark.parametrize(
    ("seen", "known", "verdict"),
    [
        pytest.param(look(None), None, Verdict.NOTHING, id="gone-unknown"),
        pytest.param(look(None), entry(), Verdict.FORGET, id="gone-signed"),
        pytest.param(look(None), entry(State.FAILED), Verdict.FORGET, id="gone-failed"),
        pytest.param(look(None, refusal="directory"), entry(), Verdict.FORGET, id="now-a-directory"),
        pytest.param(look(refusal="fifo"), None, Verdict.REFUSE, id="fifo"),
        pytest.param(look(refusal="fifo"), entry(State.REFUSED), Verdict.NOTHING, id="fifo-said-once"),
        pytest.param(look(TOUCHED, refusal="fifo"), entry(State.REFUSED), Verdict.REFUSE, id="another-fifo"),
        pytest.param(look(refusal="too_large"), entry(), Verdict.REFUSE, id="limit-lowered"),
        pytest.param(look(), entry(State.REFUSED, signed=None, number=None), Verdict.ADMIT, id="limit-raised"),
        pytest.param(look(), None, Verdict.ADMIT, id="new"),
        pytest.param(look(sign=1), None, Verdict.EXAMINE, id="new-with-a-foreign-signature"),
        pytest.param(look(sign=1), entry(), Verdict.NOTHING, id="signed"),
        pytest.param(look(), entry(), Verdict.EXAMINE, id="signature-missing"),
        pytest.param(look(stamp=OTHER), entry(), Verdict.EXAMINE, id="signature-written-over"),
        pytest.param(look(sign=1), replace(entry(), stamp=None), Verdict.EXAMINE, id="signature-never-looked-at"),
        pytest.param(look(stamp=OTHER), entry(State.DEFERRED), Verdict.NOTHING, id="deferred-with-a-foreign-signature"),
        pytest.param(look(), entry(State.QUEUED), Verdict.NOTHING, id="queued"),
        pytest.param(look(), entry(State.DEFERRED), Verdict.NOTHING, id="deferred"),
        pytest.param(look(), entry(State.FAILED), Verdict.NOTHING, id="failed"),
        pytest.param(look(TOUCHED, sign=1), entry(), Verdict.EXAMINE, id="touched"),
        pytest.param(look(REPLACED, sign=1), entry(), Verdict.EXAMINE, id="replaced-same-size"),
        pytest.param(look(GROWN, sign=1), entry(), Verdict.ADMIT, id="grown"),
        pytest.param(look(TOUCHED), entry(State.FAILED, signed=None, number=None), Verdict.ADMIT, id="failed-changed"),
        pytest.param(look(TOUCHED), entry(State.QUEUED, signed=None, number=None), Verdict.ADMIT, id="queued-changed"),
        pytest.param(look(TOUCHED), entry(State.FAILED), Verdict.EXAMINE, id="failed-back-to-what-was-signed"),
    ],
)
def test_verdict(seen: Look, known: Entry | None, verdict: Verdict) -> None:
    """Each case of how a path looks and what is known of it has its verdict."""
    assert judge(seen, known, republish_missing=True) is verdict


def test_what_somebody_was_heard_to_write_is_examined_whatever_its_stamp() -> None:
    """The kernel's clock may be too coarse to tell it from ours; a scan's finding tells of no such thing."""
    for notice, verdict in ((Notice.BESIDE, Verdict.EXAMINE), (Notice.FOUND, Verdict.NOTHING)):
        assert judge(look(sign=1), doubted(entry(), notice), republish_missing=False) is verdict
        assert judge(look(), doubted(entry(), notice), republish_missing=False) is Verdict.NOTHING
        assert judge(look(), doubted(None, notice), republish_missing=False) is Verdict.ADMIT


def resting(reason: str, *, number: int | None = 7) -> Entry:
    return replace(entry(State.DEFERRED, number=number), reason=reason)


@pytest.mark.parametrize(
    ("seen", "known", "asked", "forced"),
    [
        pytest.param(look(None), None, Verdict.NOTHING, Verdict.NOTHING, id="gone-unknown"),
        pytest.param(look(None), entry(), Verdict.FORGET, Verdict.FORGET, id="gone-signed"),
        pytest.param(look(refusal="fifo"), entry(State.REFUSED), Verdict.NOTHING, Verdict.NOTHING, id="fifo"),
        pytest.param(look(sign=1), entry(), Verdict.NOTHING, Verdict.ADMIT, id="signed"),
        pytest.param(look(sign=1), None, Verdict.EXAMINE, Verdict.ADMIT, id="foreign"),
        pytest.param(look(), entry(State.QUEUED), Verdict.NOTHING, Verdict.ADMIT, id="queued"),
        pytest.param(look(), entry(State.FAILED), Verdict.ADMIT, Verdict.ADMIT, id="failed"),
        pytest.param(look(), resting("null"), Verdict.ADMIT, Verdict.ADMIT, id="deferred"),
        pytest.param(look(), resting(UNPUBLISHABLE), Verdict.EXAMINE, Verdict.ADMIT, id="signature-at-hand"),
        pytest.param(look(), resting(UNREADABLE, number=None), Verdict.ADMIT, Verdict.ADMIT, id="unread"),
        pytest.param(
            look(sign=1), resting(UNREADABLE, number=None), Verdict.EXAMINE, Verdict.ADMIT, id="foreign-unread"
        ),
        pytest.param(look(sign=1), resting(UNREADABLE), Verdict.EXAMINE, Verdict.ADMIT, id="unread-ours"),
    ],
)
def test_verdict_on_what_somebody_asks_for(seen: Look, known: Entry | None, asked: Verdict, forced: Verdict) -> None:
    """What was given up is taken up; by force, all that is there and may be signed."""
    verdict = judge(seen, known, republish_missing=True)
    assert insist(verdict, seen, known, force=False) is asked
    assert insist(verdict, seen, known, force=True) is forced


def test_what_could_not_be_read_is_examined_when_it_changes() -> None:
    """A FILE.sign beside it may be its own; but not ours, where the size is another than what was signed."""
    for number, seen, verdict in (
        (None, look(TOUCHED, sign=1), Verdict.EXAMINE),
        (None, look(TOUCHED), Verdict.ADMIT),
        (7, look(TOUCHED, sign=1), Verdict.EXAMINE),
        (7, look(GROWN, sign=1), Verdict.ADMIT),
    ):
        assert judge(seen, resting(UNREADABLE, number=number), republish_missing=True) is verdict


def test_missing_signature_stays_missing_if_so_configured() -> None:
    """With republish_missing = false, a FILE.sign that someone removed is not put back."""
    assert judge(look(), entry(), republish_missing=False) is Verdict.NOTHING
    assert judge(look(stamp=OTHER), entry(), republish_missing=False) is Verdict.EXAMINE  # wrong is worse than missing
    assert judge(look(TOUCHED), entry(), republish_missing=False) is Verdict.EXAMINE  # a new version is another thing


def test_only_content_of_the_same_size_can_be_the_one_signed() -> None:
    """A file is read to compare its digest only if it has the size of what was signed."""
    assert may_be_signed(entry(), TOUCHED)
    assert not may_be_signed(entry(), GROWN)
    assert not may_be_signed(entry(number=None), TOUCHED)
    assert may_be_signed(entry(State.FAILED, GROWN, signed=30), TOUCHED)  # of the signed one, not of the failed one


@pytest.mark.parametrize(
    ("seen", "known", "written", "stale"),
    [
        pytest.param(look(GROWN, sign=1), entry(), False, True, id="other-size"),
        pytest.param(look(TOUCHED, sign=1), entry(), True, True, id="written"),
        pytest.param(look(TOUCHED, sign=1), entry(), False, False, id="merely-touched"),
        pytest.param(look(NOW, sign=1), entry(), True, False, id="the-very-version"),
        pytest.param(look(GROWN), entry(), True, False, id="no-signature-there"),
        pytest.param(look(None, sign=1), entry(), True, False, id="gone-its-signature-is-left-alone"),
        pytest.param(look(GROWN, sign=1), None, True, False, id="unknown"),
        pytest.param(look(GROWN, sign=1), entry(State.QUEUED), True, False, id="not-signed"),
        pytest.param(look(TOUCHED, sign=1), resting(UNREADABLE), True, True, id="ours-unread-and-written"),
        pytest.param(look(GROWN, sign=1), resting(UNREADABLE, number=None), True, False, id="foreign"),
    ],
)
def test_stale_before_it_settles(seen: Look, known: Entry | None, written: bool, stale: bool) -> None:
    """A signature is withdrawn early only where it is certain that it does not match, and never of a file gone."""
    assert is_stale(seen, known, written=written) is stale


def test_foreign_signature_is_adoptable_if_it_is_not_older_than_its_file() -> None:
    """A FILE.sign of the same nanosecond or later may be the file's; an older one, or none, may not."""
    assert is_adoptable(look(sign=400))
    assert is_adoptable(look(sign=401))
    assert not is_adoptable(look(sign=399))
    assert not is_adoptable(look())
    assert not is_adoptable(look(None, sign=401))
