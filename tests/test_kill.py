"""kill -9 at any moment loses nothing (contract, 3): the crash loop against the real daemon."""

import json
import os
import random
import secrets
import threading
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from tests.support import evidence
from tests.support.sandbox import Sandbox, sha256, wait_until

ROUNDS: Final = int(os.environ.get("DROPSIGN_TEST_ROUNDS", "3"))
SEED: Final = int(os.environ.get("DROPSIGN_TEST_SEED", secrets.randbits(32)))
FRESH: Final = 300
REWRITTEN: Final = 40
PICKED_UP: Final = 20


class Crowd:
    """People who drop, rewrite and pick up files, whether the daemon lives or not."""

    def __init__(self, box: Sandbox, chance: random.Random) -> None:
        self._box = box
        self._chance = chance
        self.contents: dict[Path, list[bytes]] = {}
        """Each version of the files that are there, in order."""
        self.ever: set[str] = set()
        """SHA-256 of all that was dropped."""

    def begin(self, number: int) -> threading.Thread:
        """Begin a round: an end for some files of the round before, changes of others, and fresh ones."""
        chance, older = self._chance, list(self.contents)
        sizes = [chance.choice((20, 20, 20, 5_000, 400_000 if index % 20 == 0 else 20)) for index in range(FRESH)]
        fresh = [(self._box.outbox / f"d{index % 7}" / f"r{number}f{index}", size) for index, size in enumerate(sizes)]
        changed = chance.sample(older, min(len(older), REWRITTEN))
        gone = chance.sample(older, min(len(older), PICKED_UP))
        writes = [(path, f"{path.name}:{number}:".encode().ljust(size, b".")) for path, size in fresh]
        writes += [(path, f"{path.name}:{number}:again".encode()) for path in set(changed) - set(gone)]
        chance.shuffle(writes)
        for path, content in writes:
            self.contents.setdefault(path, []).append(content)
            self.ever.add(sha256(content))
        for path in gone:
            self.pick_up(path)

        def act() -> None:
            for path, content in writes:
                path.parent.mkdir(exist_ok=True)
                if len(content) % 3:
                    path.write_bytes(content)
                else:
                    temporary = path.with_name(path.name + ".tmp")
                    temporary.write_bytes(content)
                    temporary.rename(path)

        acting = threading.Thread(target=act)
        acting.start()
        return acting

    def pick_up(self, path: Path) -> None:
        del self.contents[path]
        path.unlink()
        self._box.sign_of(path).unlink(missing_ok=True)

    def clear(self, keep: int) -> None:
        """Pick up all files but those of one round, so that many rounds cost no more than one each."""
        for path in [path for path in self.contents if not path.name.startswith(f"r{keep}f")]:
            self.pick_up(path)


class Ledger:
    """How often the service signed each content, held against what the journal had recorded at each kill."""

    def __init__(self, box: Sandbox, crowd: Crowd) -> None:
        self._box = box
        self._crowd = crowd
        self._read = box.request_log.stat().st_size if box.request_log.exists() else 0
        self._recorded: set[str] = set()
        self._excuses: Counter[str] = Counter()
        """At how many kills a content was there whose signature was not recorded."""
        self.times: Counter[str] = Counter()
        self.kills = 0

    def life_over(self) -> None:
        """Judge what a life of the daemon that just ended did, and what it left."""
        left = evidence.read(self._box.journal)
        assert not evidence.broken_promises(self._box.outbox, left)
        for path, contents in self._crowd.contents.items():
            with suppress(FileNotFoundError):
                text = self._box.sign_of(path).read_bytes()
                assert any(self._box.verifies(text, content) for content in contents), (path, text, "torn or wrong")
        signed = self._signed_since()
        assert not signed.keys() & self._recorded, "what was recorded before this life is not asked for again"
        assert signed.keys() <= self._crowd.ever, "nothing else was ever sent"
        self.times += signed
        unexcused = {content: count for content, count in self.times.items() if count > 1 + self._excuses[content]}
        assert not unexcused, "each that was signed again was not recorded at a kill"
        self._recorded = left.recorded

    def _signed_since(self) -> Counter[str]:
        self._box.site.wait_unused()
        with self._box.request_log.open("rb") as file:
            file.seek(self._read)
            lines = file.readlines()
            self._read = file.tell()
        answers = map(json.loads, lines)
        return Counter(answer["sha256"] for answer in answers if answer["status"] == 200)

    def kill(self) -> None:
        """Kill the daemon, and judge."""
        self._box.kill_daemon()
        self.kills += 1
        self.life_over()
        self._excuses.update(self._crowd.ever - self._recorded)


def _answers(box: Sandbox) -> bool:
    with suppress(OSError):
        return box.ask("/healthz")[0] == 200
    return False


def _rests(box: Sandbox, count: int) -> bool:
    status = box.status()
    return (status["last_scan"] is not None, status["backlog"], status["in_flight"], status["signed"]) == (
        True, 0, 0, count,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(120 + 60 * ROUNDS)
def test_killed_at_random_moments(box: Sandbox) -> None:
    """After each kill -9 and restart every file is signed, all match, and journal and outbox agree row by row."""
    print(f"DROPSIGN_TEST_SEED={SEED}")
    box.is_measured = False
    chance = random.Random(SEED)
    crowd = Crowd(box, chance)
    ledger = Ledger(box, crowd)
    for number in range(ROUNDS):
        box.start_daemon()
        acting = crowd.begin(number)
        for _ in range(chance.choice((1, 1, 2))):
            time.sleep(chance.uniform(0, 0.8))
            ledger.kill()
            box.start_daemon(wait=chance.random() < 0.5)
        acting.join()
        wait_until(partial(_answers, box), 40, "the restarted daemon's answers")
        box.wait_signed(*crowd.contents, seconds=60)
        wait_until(partial(_rests, box, len(crowd.contents)), 60, "the end of all files")
        box.assert_exactly_signed(*crowd.contents)
        if number % 2:
            assert box.stop_daemon() == 0
            ledger.life_over()
            assert not evidence.disagreements(box.outbox, evidence.read(box.journal))
        else:
            ledger.kill()
        crowd.clear(number)
        again = sum(count > 1 for count in ledger.times.values())
        print(f"round {number + 1}: {ledger.kills} kills, {len(crowd.ever)} versions dropped, {again} signed again")
    assert not box.events("daemon.defect")


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
