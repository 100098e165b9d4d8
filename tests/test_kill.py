"""kill -9 at any moment loses nothing (contract, 3): the crash loop against the real daemon."""

import os
import random
import secrets
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from dropsign.worker import UNPUBLISHED
from tests.support.sandbox import Sandbox, sha256, wait_until

ROUNDS: Final = int(os.environ.get("DROPSIGN_TEST_ROUNDS", "5"))
FILES: Final = 500
SEED: Final = int(os.environ.get("DROPSIGN_TEST_SEED", secrets.randbits(32)))


def _burst(box: Sandbox, number: int, chance: random.Random) -> tuple[list[Path], threading.Thread]:
    """Begin to drop files, some large; return their paths and who does it."""
    paths = [box.outbox / f"d{index % 7}" / f"r{number}f{index}" for index in range(FILES)]
    sizes = [chance.choice((20, 20, 20, 5_000, 400_000 if index % 20 == 0 else 20)) for index in range(FILES)]

    def write() -> None:
        for path, size in zip(paths, sizes, strict=True):
            path.parent.mkdir(exist_ok=True)
            if size % 3:
                path.write_bytes(f"{path.name}:".encode().ljust(size, b"."))
            else:
                temporary = path.with_name(path.name + ".tmp")
                temporary.write_bytes(f"{path.name}:".encode().ljust(size, b"."))
                temporary.rename(path)

    return paths, threading.Thread(target=write)


def _answers(box: Sandbox) -> bool:
    with suppress(OSError):
        return box.ask("/healthz")[0] == 200
    return False


@pytest.mark.slow
@pytest.mark.timeout(60 + 20 * ROUNDS)
def test_killed_at_random_moments(box: Sandbox) -> None:
    """After each kill -9 and restart every file is signed, all match, and no temporary or other file is left."""
    print(f"DROPSIGN_TEST_SEED={SEED}")
    chance = random.Random(SEED)
    dropped: list[Path] = []
    kills = 0
    for number in range(ROUNDS):
        box.start_daemon()
        paths, writer = _burst(box, number, chance)
        dropped += paths
        writer.start()
        for _ in range(chance.choice((1, 1, 2))):
            time.sleep(chance.uniform(0, 0.8))
            box.kill_daemon()
            kills += 1
            box.start_daemon(wait=chance.random() < 0.5)
        writer.join()
        box.wait_signed(*paths, seconds=40)
        wait_until(partial(_answers, box), what="the restarted daemon's answers")
        box.wait_idle()
        box.rescan()
        box.wait_idle()
        box.assert_exactly_signed(*dropped)
        status = box.status()
        assert (status["signed"], status["failed"], status["refused"]) == (len(dropped), 0, 0)
        if number % 2:
            assert box.stop_daemon() == 0
        else:
            box.kill_daemon()
    times = box.times_signed()
    assert times.keys() == {sha256(path.read_bytes()) for path in dropped}, "nothing else was ever sent"
    again = [count for count in times.values() if count > 1]
    print(f"{kills} kills, {len(dropped)} files, {len(again)} signed more than once")
    assert all(count <= kills + 1 for count in again)
    most = UNPUBLISHED + 5 * 32
    assert len(again) <= kills * most, "only what was between the request and the record"


def test_killed_while_being_signed_then_changed(box: Sandbox) -> None:
    """What changed, or went, between a kill and the next start is seen for what it is then."""
    box.start_daemon()
    box.misbehave("delay 1s")
    changed, gone, kept = (box.drop(name, name.encode()) for name in ("changed", "gone", "kept"))
    while box.status()["in_flight"] < 3:
        time.sleep(0.01)
    box.kill_daemon()
    changed.write_bytes(b"other")
    gone.unlink()
    box.misbehave("")
    box.start_daemon()
    box.wait_signed(changed, kept)
    box.wait_idle()
    box.rescan()
    box.wait_idle()
    box.assert_exactly_signed(changed, kept)


def test_left_over_temporaries_are_removed(box: Sandbox) -> None:
    """Temporaries that a killed daemon left are removed by the next one; what only looks alike stays."""
    box.configure("outbox", exclude=[])
    left = [box.drop(f"{directory}.dropsign-0123456789ab-{n}.tmp") for directory in ("", "d/") for n in ("0", "1f")]
    alike = [box.drop(name) for name in (".dropsign-xyz-0.tmp", ".dropsign-0123456789ab-0.tmp.txt", "d/other.tmp")]
    box.start_daemon()
    box.wait_signed(*alike)
    assert not any(path.exists() for path in left)
    box.assert_exactly_signed(*alike)
