"""Which processes hold a file open for writing, as far as /proc tells this user."""

import os
from collections.abc import Iterator
from pathlib import Path

_ACCESS_MODE = 0o3
"""Of open(2)'s flags, those that tell reading from writing (O_ACCMODE)."""


def writers(path: bytes) -> Iterator[tuple[int, str]]:
    """Yield number and name of each process that has a file open for writing; others' may be hidden from us.

    Args:
        path: of the file.
    """
    try:
        wanted = os.stat(path)
    except OSError:
        return
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            if any(_writes(process, descriptor, wanted) for descriptor in (process / "fd").iterdir()):
                yield int(process.name), (process / "comm").read_text("utf-8", "replace").strip()
        except OSError:  # it ended, or is not ours to look into
            continue


def _writes(process: Path, descriptor: Path, wanted: os.stat_result) -> bool:
    if not os.path.samestat(descriptor.stat(), wanted):
        return False
    lines = (process / "fdinfo" / descriptor.name).read_text().splitlines()
    flags = next(int(line.split()[1], 8) for line in lines if line.startswith("flags:"))
    return flags & _ACCESS_MODE != os.O_RDONLY
