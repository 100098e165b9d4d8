"""Who writes a FILE.sign: the watcher tells others' doings from ours, and contention keeps two from fighting."""

import asyncio
import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropsign.contention import REMEMBERED_MOST, UNCONTESTED_SECONDS, Contention
from dropsign.model import Fingerprint, Notice
from dropsign.outbox import Outbox, Publication
from tests.test_watcher import watching

PAUSES = st.floats(0, 2 * UNCONTESTED_SECONDS)


@given(st.lists(st.tuples(PAUSES, st.sampled_from([b"a", b"b", b"c"]), st.booleans())))
def test_only_what_was_put_back_of_late_is_left_to_scans(steps: list[tuple[float, bytes, bool]]) -> None:
    """A path is contested for just the time after it was last put back, whatever becomes of others."""
    contention, last, now = Contention(), dict[bytes, float](), 0.0
    for pause, path, is_mended in steps:
        now += pause
        contested = path in last and now - last[path] < UNCONTESTED_SECONDS
        assert contention.is_on(path, now) == contested
        if is_mended:
            contention.mended(path, now)
            last[path] = now
            assert contention.is_on(path, now)


@given(st.lists(PAUSES, min_size=1))
def test_whoever_obeys_puts_back_once_a_minute_at_most(pauses: list[float]) -> None:
    """However often a FILE.sign is written over, it is put back by events once in that time."""
    contention, times, now = Contention(), list[float](), 0.0
    for pause in pauses:
        now += pause
        if not contention.is_on(b"a", now):
            contention.mended(b"a", now)
            times.append(now)
    assert all(later - earlier >= UNCONTESTED_SECONDS for earlier, later in pairwise(times))
    assert len(times) <= 1 + now / UNCONTESTED_SECONDS


def test_a_whole_outbox_that_is_written_over_stays_bounded() -> None:
    """Where there are too many to remember, all are left to scans, until time has passed."""
    contention = Contention()
    for number in range(REMEMBERED_MOST + 1):
        contention.mended(b"%d" % number, 0.0)
    assert contention.is_on(b"any other", UNCONTESTED_SECONDS - 1)
    assert not contention.is_on(b"any other", UNCONTESTED_SECONDS)
    assert not contention.is_on(b"%d" % REMEMBERED_MOST, UNCONTESTED_SECONDS)


@pytest.mark.parametrize("recursive", [True, False])
def test_what_we_publish_is_no_notice_and_what_others_do_is(tmp_path: Path, *, recursive: bool) -> None:
    """Hundreds of our renames among somebody else's: each one of theirs is told of, and none of ours."""
    root = tmp_path / "outbox"
    root.mkdir()
    drops = {name: root / name for number in range(200) for name in (f"ours{number}", f"theirs{number}")}
    for path in drops.values():
        path.write_bytes(b"x")
    outbox = Outbox(root)

    def publish(number: int) -> None:
        path = drops[f"ours{number}"]
        outbox.publish([Publication(os.fsencode(path.name), Fingerprint.of(path.lstat()), b"s")])

    def interfere(number: int) -> None:
        sign = root / f"theirs{number}.sign"
        match number % 5:
            case 0:
                sign.write_bytes(b"foreign")
            case 1:
                (tmp_path / "new").write_bytes(b"foreign")
                (tmp_path / "new").rename(sign)
            case 2:
                (root / ".new").write_bytes(b"foreign")
                (root / ".new").rename(sign)
            case 3:
                os.mkfifo(sign)
            case _:
                sign.mkdir()

    async def scenario() -> None:
        async with watching(root, recursive=recursive) as site:
            for number in range(200):
                await asyncio.gather(asyncio.to_thread(publish, number), asyncio.to_thread(interfere, number))
            told = await site.take()
            beside = {path for path, notices in told.items() if Notice.BESIDE in notices}
            assert beside == {b"theirs%d" % number for number in range(200)}
            assert told.keys() - beside <= {b".new"}
            (root / "ours0.sign").rename(root / "ours1.sign")
            (root / "ours2.sign").write_bytes(b"foreign")
            os.truncate(root / "ours3.sign", 0)
            assert (await site.take()).keys() == {b"ours1", b"ours2", b"ours3"}

    try:
        asyncio.run(scenario())
    finally:
        outbox.close()
