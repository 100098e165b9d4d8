"""A process that drops files in every way there is, and rewrites some while they are being signed.

    python -m tests.support.writer OUTBOX STAGING SEED COUNT

Contents are unique to path and version, but for empty ones. OUTBOX and STAGING are on one file system.
"""

import os
import random
import sys
import time

from tests.support.names import HOSTILE

REWRITTEN = 0.12


def is_empty(number: int) -> bool:
    """Tell whether the first version of a writer's nth file is empty."""
    return number % 50 == 10


def size(chance: random.Random, number: int) -> int:
    if is_empty(number):
        return 0
    if number % 400 == 7:
        return chance.randrange(1_000_000, 4_000_000)
    if number % 40 == 3:
        return chance.randrange(300 * 1024)
    if number % 4 == 1:
        return chance.randrange(20 * 1024)
    return chance.randrange(1, 2048)


def content(chance: random.Random, path: bytes, version: int, length: int) -> bytes:
    head = b"%d:%d:%s:" % (version, os.getpid(), path)
    return (head + chance.randbytes(max(0, length - len(head)))) if length else b""


def drop(way: int, path: bytes, staged: bytes, data: bytes) -> None:
    if way == 0:
        with open(path, "wb") as file:
            file.write(data)
    elif way == 1:  # in two parts
        with open(path, "wb") as file:
            file.write(data[: len(data) // 2])
            file.flush()
            time.sleep(0.002)
            file.write(data[len(data) // 2 :])
    else:
        target = staged if way == 2 else path + b".tmp" if len(os.path.basename(path)) < 240 else staged
        with open(target, "wb") as file:
            file.write(data)
        os.rename(target, path)


def main() -> None:
    outbox, staging = os.fsencode(sys.argv[1]), os.fsencode(sys.argv[2])
    seed, count = int(sys.argv[3]), int(sys.argv[4])
    chance = random.Random(seed)
    later: list[tuple[bytes, int]] = []
    for number in range(count):
        name = b"%d-%d" % (seed, number) + HOSTILE[number % len(HOSTILE)][:200]
        depth = chance.randrange(4)
        folders = [b"%d " % chance.randrange(5) + HOSTILE[chance.randrange(len(HOSTILE))][:40] for _ in range(depth)]
        path = b"/".join([outbox, *folders, name])
        os.makedirs(os.path.dirname(path), exist_ok=True)
        staged = b"%s/%d-%d" % (staging, seed, number)
        drop(chance.randrange(4), path, staged, content(chance, path, 0, size(chance, number)))
        if chance.random() < REWRITTEN:
            later.append((path, 1))
        while later and chance.random() < 0.15:
            path, version = later.pop(0)
            drop(chance.randrange(4), path, staged, content(chance, path, version, size(chance, number) or 1))
            if version < 3 and chance.random() < 0.5:
                later.append((path, version + 1))
    for path, version in later:
        drop(0, path, b"", content(chance, path, version, 100))
        time.sleep(0.01)


if __name__ == "__main__":
    main()
