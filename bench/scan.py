"""A full scan of an outbox in which all is signed and in place, and what its journal takes on disk.

Usage: python -m bench.scan [--files N] [--rounds N] [--directory DIR]
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from dropsign.filters import Filters
from dropsign.journal import Journal
from dropsign.model import Drop, Fingerprint, Signature, Stamp
from dropsign.outbox import Outbox
from dropsign.scan import Scan, Tally

A_DIRECTORY = 1000
"""Files in each."""


def fill(root: Path, journal: Journal, number: int) -> None:
    """Make signed files, and record them."""
    for index in range(number):
        path = root / f"release-{index // A_DIRECTORY}" / f"package-{index:07}_amd64.deb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % index)
        sign = path.with_name(path.name + ".sign")
        sign.write_bytes(os.urandom(48).hex().encode())
        drop = Drop(os.fsencode(path.relative_to(root)), Fingerprint.of(path.lstat()), ticket=journal.next_ticket())
        journal.queue(drop)
        signature = Signature(sign.read_bytes(), os.urandom(32), drop.fingerprint.size)
        journal.sign(drop, signature, Stamp.of(sign.lstat()))


def scan(outbox: Outbox, journal: Journal) -> Tally:
    """Look at all of them once."""
    walk = Scan(
        outbox,
        Filters(["**"], []),
        recursive=True,
        republish_missing=True,
        known=journal.known,
        emit=lambda _: None,
        stopped=lambda: False,
    )
    return walk.run(journal.known_directories())


def main() -> None:
    """Fill, scan, and print the median."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        root, database = Path(name) / "outbox", Path(name) / "journal.sqlite3"
        root.mkdir()
        journal = Journal(database)
        fill(root, journal, options.files)
        journal.close()
        size = database.stat().st_size / options.files
        outbox, journal = Outbox(root), Journal(database)
        seconds = []
        for _ in range(options.rounds):
            started = time.monotonic()
            tally = scan(outbox, journal)
            seconds.append(time.monotonic() - started)
            assert (tally.files, tally.differences) == (options.files, 0)
        journal.close()
        outbox.close()
    print(
        f"{options.files} signed files: a scan {statistics.median(seconds):.2f} s, the journal {size:.0f} bytes a file"
    )


if __name__ == "__main__":
    main()
