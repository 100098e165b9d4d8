"""Whole directories that come, go and are renamed, against the real daemon, watched and polled alike."""

import os
import shutil
import time
from pathlib import Path
from random import Random

from tests.support.sandbox import Sandbox, wait_until

PATIENCE = 60


def _tree(top: Path, count: int, label: str) -> list[Path]:
    """Fill a directory with files in sub-directories; return their paths relative to it."""
    names = []
    for number in range(count):
        name = Path(f"d{number % 20}") / f"e{number % 3}" / f"f{number}"
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(f"{label} {number}".encode())
        names.append(name)
    return names


def test_trees_moved_in_renamed_and_moved_out_while_they_settle(watched: Sandbox) -> None:
    """A tree that is moved in is signed as a whole; moved on before it settled, under its last name or not at all."""
    box = watched
    box.start_daemon()
    outside = box.directory / "outside"
    trees = {name: _tree(outside / name, 120, name) for name in ("stays", "renamed", "leaves")}
    for name in trees:
        (outside / name).rename(box.outbox / name)
    time.sleep(0.1)
    (box.outbox / "renamed").rename(box.outbox / "under another name")
    (box.outbox / "leaves").rename(outside / "left")
    stays = [box.outbox / "stays" / name for name in trees["stays"]]
    renamed = [box.outbox / "under another name" / name for name in trees["renamed"]]
    box.wait_signed(*stays, *renamed, seconds=PATIENCE)
    box.rescan()
    box.wait_idle()
    box.assert_exactly_signed(*stays, *renamed)
    assert box.status()["signed"] == len(stays) + len(renamed)
    assert not box.status()["failed"]
    assert max(box.times_signed()[digest] for digest in box.times_signed()) <= 2  # under the old name and the new one


def test_chains_of_directories_filled_in_the_instant_they_appear(watched: Sandbox) -> None:
    """Files written while their directories are still being noticed are all found, at every level, and sent once."""
    box = watched
    box.start_daemon()
    paths = []
    for number in range(15):
        directory = box.outbox / f"{number}"
        for level in range(12):
            directory /= f"{level}"
            directory.mkdir(parents=True)
            path = directory / "file"
            path.write_bytes(b"%d %d" % (number, level))
            paths.append(path)
    box.wait_signed(*paths, seconds=PATIENCE)
    box.wait_idle()
    box.assert_exactly_signed(*paths)
    assert set(box.times_signed().values()) == {1}


def test_signed_tree_that_is_renamed_moved_out_and_back(watched: Sandbox) -> None:
    """However a signed tree is moved about, also while its signatures are being examined, nothing is signed again."""
    box = watched
    box.configure("outbox", settle_seconds=0.1)
    names = _tree(box.outbox / "tree", 150, "tree")
    box.start_daemon()
    box.wait_signed(*(box.outbox / "tree" / name for name in names), seconds=PATIENCE)
    at, elsewhere = box.outbox / "tree", box.directory / "elsewhere"
    seed = time.time_ns()
    print(f"seed {seed}")
    chance = Random(seed)
    for turn in range(8):
        to = box.outbox / f"turn {turn}"
        at.rename(to)
        time.sleep(chance.uniform(0.1, 0.6))
        to.rename(elsewhere)
        time.sleep(chance.choice([0, chance.uniform(0, 0.3)]))
        at = chance.choice([to, box.outbox / "tree"])
        elsewhere.rename(at)
        time.sleep(chance.choice([0, chance.uniform(0.1, 0.6)]))
    box.rescan()
    box.wait_idle(PATIENCE)
    moved = [at / name for name in names]
    wait_until(lambda: box.status()["signed"] == len(moved), PATIENCE, "the journal's agreement")
    box.assert_exactly_signed(*moved)
    assert set(box.times_signed().values()) == {1}


def test_directories_that_come_and_go(watched: Sandbox) -> None:
    """A directory removed and made again under the same name, many times over, is looked into each time."""
    box = watched
    box.start_daemon()
    for turn in range(6):
        directory = box.outbox / "d" / "e"
        directory.mkdir(parents=True)
        path = directory / "file"
        path.write_bytes(b"turn %d" % turn)
        box.wait_signed(path, seconds=PATIENCE)
        shutil.rmtree(box.outbox / "d")
    box.rescan()
    box.wait_idle()
    assert box.files() == []
    assert box.status()["signed"] == 0
    assert set(box.times_signed().values()) == {1}


def test_links_to_directories_are_never_entered(watched: Sandbox) -> None:
    """A linked directory is refused like any other link, before and after one of that name was there."""
    box = watched
    outside = box.directory / "outside"
    names = _tree(outside, 5, "outside")
    (box.outbox / "link").symlink_to(outside)
    box.start_daemon()
    path = box.drop("d/file", b"file")
    box.wait_signed(path)
    path.parent.rename(outside / "d")
    (box.outbox / "d").symlink_to(outside / "d")
    (outside / names[0]).write_bytes(b"changed behind the link")
    os.utime(outside / "d" / "file")
    box.rescan()
    wait_until(lambda: {b"link", b"d"} <= box.known("refused").keys(), PATIENCE, "the refusals")
    box.rescan()
    box.wait_idle()
    assert len(box.requests()) == 1
    assert not list(outside.rglob("f?.sign"))
