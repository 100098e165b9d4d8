"""The daemon killed between every two steps of a file's way; see docs/architecture.md, 'If the process dies'."""

import os
import re
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from dropsign.failpoints import NAMES
from tests.support import evidence
from tests.support.sandbox import Sandbox, Site, powerless, sandbox, wait_until
from tests.support.stages import LARGEST_MIB, Stages

COUNT: Final = int(os.environ.get("DROPSIGN_TEST_FAILPOINT_COUNT", "2"))

_RARE: Final = {"outdated", "obtain_written", "obtain_committed"}
"""Points that take a file which changes while its signature is on its way: one is enough to wait for."""


@pytest.fixture(scope="module")
def slow_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A service that thinks long enough for several files to be in flight, and refuses large ones."""
    made = Site(tmp_path_factory.mktemp("site"), "--delay", "100ms", "--max-mib", str(LARGEST_MIB))
    yield made
    made.stop()


@pytest.fixture
def crash_box(tmp_path: Path, slow_site: Site) -> Iterator[Sandbox]:
    """An installation that uses it."""
    with sandbox(tmp_path / "s", slow_site) as box:
        box.start_service()
        box.is_measured = False
        box.configure("outbox", error_files=True)
        box.configure("verify", key=str(box.signing.public_key))
        yield box
        print(box.daemon_log.read_text()[-6000:] if box.daemon_log.exists() else "")


def die_at(box: Sandbox, stages: Stages, name: str, count: int) -> None:
    """Run the daemon until it dies at a point, with files at every stage of their way."""
    daemon = box.start_daemon(wait=False, environment={"DROPSIGN_FAILPOINT": f"{name}:{count}"}, prefix=powerless())

    def died() -> bool:
        if box.events("daemon.ready"):
            stages.go_on()
        return daemon.poll() is not None

    wait_until(died, seconds=40, what=f"the daemon's death at {name}")
    assert daemon.returncode == -signal.SIGKILL
    box.daemon = None


def contents_signed(box: Sandbox) -> Counter[str]:
    """Return how often each content was signed, once the service has nothing to do any more."""
    box.site.wait_unused()
    return box.times_signed()


@pytest.mark.parametrize("name", NAMES)
def test_a_death_between_two_steps_loses_nothing(crash_box: Sandbox, name: str) -> None:
    """Wherever it is killed: each file ends signed, failed or refused, and the journal says so, row by row.

    No temporary is left, and no content is signed twice whose signature was recorded when the daemon died.
    """
    box = crash_box
    stages = Stages(box)
    die_at(box, stages, name, 1 if name in _RARE else COUNT)
    left = evidence.read(box.journal)
    bare = {os.fsencode(path.name) for path in stages.republished}
    assert not [text for text in evidence.broken_promises(box.outbox, left) if not any(map(text.encode().count, bare))]
    before = contents_signed(box)
    stages.mend()
    box.start_daemon(prefix=powerless())
    ends = (len(stages.signed), len(stages.failed), len(stages.refused), 0)

    def ended() -> bool:
        status = box.status()
        waiting = status["backlog"] + status["in_flight"]
        return status["last_scan"] and (status["signed"], status["failed"], status["refused"], waiting) == ends

    wait_until(ended, seconds=40, what=f"the end of all files, {ends},")
    wait_until(lambda: lying_about(box) == stages.files(), what="an outbox with nothing else in it")
    assert box.stop_daemon() == 0
    assert not evidence.disagreements(box.outbox, evidence.read(box.journal), notes=True)
    assert lying_about(box) == stages.files()
    assert all(map(box.is_signed, stages.signed))
    assert not box.events("daemon.defect")
    total = contents_signed(box)
    assert max(total.values()) <= 2
    assert not (total - before).keys() & left.recorded, "what was recorded is not asked for again"
    assert not total.keys() & stages.unsent


def lying_about(box: Sandbox) -> set[Path]:
    """Return all that lies in the outbox, but for directories."""
    return {path for path in box.outbox.rglob("*") if path.is_symlink() or not path.is_dir()}


def test_the_crash_table_names_every_failpoint() -> None:
    """docs/architecture.md says for each point what is on disk if the process dies there, and names no other."""
    page = (Path(__file__).parent.parent / "docs" / "architecture.md").read_text("utf-8")
    table = page.partition("## If the process dies")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(NAMES)
