"""The daemon killed between every two steps of a file's way; see docs/architecture.md, 'If the process dies'."""

import os
import signal
from pathlib import Path

import pytest

from dropsign.failpoints import NAMES
from tests.support.sandbox import SLOWNESS, Sandbox

pytestmark = pytest.mark.timeout(120)


def die_at(box: Sandbox, name: str, count: int) -> list[Path]:
    """Run the daemon until it dies at a point, with files at every stage of their way; return the files."""
    signed = [box.drop(f"signed{number}", b"signed %d" % number) for number in range(6)]
    box.start_daemon()
    box.wait_signed(*signed)
    box.wait_idle()
    box.stop_daemon()
    (box.outbox / "signed5").unlink()  # for `forgotten`, with its .sign left behind
    box.start_daemon(environment={"DROPSIGN_FAILPOINT": f"{name}:{count}"}, wait=False)
    daemon = box.daemon
    assert daemon is not None
    for path in signed[:2]:
        path.write_bytes(path.read_bytes() + b", rewritten")  # for `withdrawn`
    fresh = [box.drop(f"nested/fresh{number}", b"fresh %d" % number) for number in range(12)]
    large = box.drop("large", bytes(range(256)) * 4096)
    assert daemon.wait(30 * SLOWNESS) == -signal.SIGKILL, f"the daemon never reached {name}"
    box.daemon = None
    return [*signed[:5], *fresh, large]


@pytest.mark.parametrize("count", [int(os.environ.get("DROPSIGN_TEST_FAILPOINT_COUNT", "2"))])
@pytest.mark.parametrize("name", NAMES)
def test_a_death_between_two_steps_loses_nothing(box: Sandbox, name: str, count: int) -> None:
    """Wherever it is killed: after a restart all are signed and match, nothing lies about, the journal agrees."""
    if name in {"withdrawn", "forgotten"}:
        count = 1  # there are not more of them
    files = die_at(box, name, count)
    box.start_daemon()
    box.wait_signed(*files)
    box.wait_idle()
    box.rescan()
    box.wait_idle()
    expected = {name for path in files for name in (path, box.sign_of(path))} | {box.outbox / "signed5.sign"}
    assert {path for path in box.outbox.rglob("*") if path.is_file()} == expected
    status = box.status()
    assert (status["signed"], status["failed"], status["backlog"]) == (len(files), 0, 0)
    assert not box.events("daemon.defect")
    sent = box.times_signed()
    assert max(sent.values()) <= 2
    twice = sum(1 for number in sent.values() if number == 2)
    if name in {"settled", "withdrawn", "queued", "loaded"}:
        assert twice <= len(files), "only what was on its way may be asked for again"
    assert box.stop_daemon() == 0
