"""A stale FILE.sign goes as soon as its file changes, also while the journal cannot be written: full, or locked."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.support.faults import assert_agreement, fill, gate_lines, small_disk
from tests.support.sandbox import Sandbox, wait_until

pytestmark = pytest.mark.timeout(300)

PATIENCE = 60


@contextmanager
def _locked(box: Sandbox, how: str) -> Iterator[None]:
    with closing(sqlite3.connect(box.journal, isolation_level=None, timeout=20)) as other:
        other.execute(f"BEGIN {how}")
        yield
        other.execute("ROLLBACK")


@contextmanager
def _full(box: Sandbox) -> Iterator[None]:
    filler = fill(box.journal.parent)
    yield
    filler.unlink()


def _change(box: Sandbox) -> list[Path]:
    """Change signed files in each way: written in place, replaced, grown, and while a writer holds them open."""
    paths = [box.outbox / f"f{number}" for number in range(40)]
    for number, path in enumerate(paths):
        match number % 4:
            case 0:
                path.write_bytes(b"new %d" % number)
            case 1:
                replacement = box.directory / "replacement"
                replacement.write_bytes(path.read_bytes()[::-1])
                replacement.rename(path)
            case 2:
                with path.open("ab") as file:
                    file.write(b" and more")
            case _:
                with path.open("r+b") as file:
                    file.write(b"N")
    return paths


@pytest.mark.parametrize("fault", ["full", "IMMEDIATE", "EXCLUSIVE"])
def test_while_the_journal_cannot_be_written(box: Sandbox, fault: str) -> None:
    """What changes loses its signature, what is touched does not; afterwards each version is signed, once."""
    with small_disk(box.journal.parent, "2m"):
        box.start_daemon()
        files = {box.drop(f"f{number}", b"old %d" % number) for number in range(40)}
        untouched = [box.drop(f"untouched {number}", b"untouched %d" % number) for number in range(5)]
        touched = [box.drop(f"touched {number}", b"touched %d" % number) for number in range(5)]
        held = box.drop("held", b"held")
        box.wait_signed(*files, *untouched, *touched, held)
        box.rescan()
        assert_agreement(box, *files, *untouched, *touched, held)
        with _full(box) if fault == "full" else _locked(box, fault):
            late = [box.drop(f"late {number}", bytes(1000) + b"%d" % number) for number in range(10)]
            wait_until(partial(_is_shut, box, late), PATIENCE, "the gate's closing")
            with held.open("ab", buffering=0) as writer:
                for path in touched:
                    os.utime(path)
                changed = _change(box)
                writer.write(b" and written to")
                for path in [*changed, held]:
                    wait_until(partial(_is_withdrawn, box, path), PATIENCE, f"the withdrawal at {path.name}")
                assert all(map(box.is_signed, [*untouched, *touched]))
                assert [kind for kind, _ in gate_lines(box)][-1] == "closed"
        box.wait_signed(*changed, *late, held, seconds=PATIENCE)
        box.rescan()
        assert_agreement(box, *changed, *late, held, *untouched, *touched)
        assert set(box.times_signed().values()) == {1}
        assert box.stop_daemon() == 0


def _is_withdrawn(box: Sandbox, path: Path) -> bool:
    return not box.sign_of(path).exists()


def _is_shut(box: Sandbox, late: list[Path]) -> bool:
    """Tell whether the gate is shut for the journal; new drops need it to be written."""
    if not box.status()["gate"]["closed"]:
        late.append(box.drop(f"late {len(late)}", bytes(1000) + b"%d" % len(late)))
    return bool(box.status()["gate"]["closed"])
