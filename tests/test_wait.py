"""`wait` returns when everything given is signed and matches, and says what is missing when it does not."""

import subprocess
import sys
from pathlib import Path

import pytest

from dropsign.waiting import paths_in
from tests.support.sandbox import SLOWNESS, Sandbox, dropsign, wait_until

LONG = str(60 * SLOWNESS)


def wait(box: Sandbox, *arguments: str | Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return dropsign("--config", box.config, "wait", *arguments, input=text)


@pytest.fixture(params=["record", "key"])
def proof(request: pytest.FixtureRequest, box: Sandbox) -> str:
    """What shows that a signature matches: what the journal recorded, or the verification key."""
    if request.param == "key":
        box.configure("verify", key=str(box.signing.public_key))
    return str(request.param)


def test_what_is_on_its_way_is_waited_for(box: Sandbox, proof: str) -> None:
    """Files that are signed while it waits, that come only then, in directories and manifests: all of them."""
    assert proof
    box.configure("outbox", settle_after_close_seconds=1)
    box.start_daemon()
    paths = [box.drop(f"release/{number}", b"%d" % number) for number in range(20)]
    late = box.outbox / "late one"
    manifest = box.directory / "SHA256SUMS"
    manifest.write_text(f"{late}\n{'0' * 64}  {paths[0]}\n")
    command = [sys.executable, "-m", "dropsign", "--config", str(box.config), "wait", "--timeout", LONG]
    with subprocess.Popen(
        [*command, "--manifest", str(manifest), str(box.outbox / "release")], stdout=subprocess.PIPE, text=True
    ) as waiting:
        late.write_bytes(b"late")
        assert waiting.stdout is not None
        assert waiting.stdout.read() == "22 signed and matching, 0 not\n"
        assert waiting.wait() == 0
    assert all(box.is_signed(path) for path in [*paths, late])
    assert wait(box, "--timeout", "0", paths[0], box.sign_of(paths[1])).returncode == 0


def test_a_signature_that_does_not_match_is_not_enough(box: Sandbox, proof: str) -> None:
    """A changed file, and a foreign FILE.sign: with no daemon to mend it, the wait runs out and names them."""
    assert proof
    box.start_daemon()
    good, changed, swapped = (box.drop(name, name.encode()) for name in ("good", "changed", "swapped"))
    box.wait_signed(good, changed, swapped)
    box.wait_idle()
    box.stop_daemon()
    changed.write_bytes(b"changed!")
    box.sign_of(swapped).write_bytes(box.sign_of(good).read_bytes())
    done = wait(box, "--timeout", "0.5", box.outbox)
    assert done.returncode == 3
    assert [name in done.stderr for name in ("good:", "changed:", "swapped:")] == [False, True, True]
    assert "no daemon runs" in done.stderr
    box.start_daemon()
    assert wait(box, "--timeout", LONG, changed).returncode == 0


def test_what_will_not_be_signed_is_not_waited_for(box: Sandbox) -> None:
    """A failed file, a refused one and one that is gone end the wait with 1, once the others are done."""
    box.stop_service()
    box.start_service("--max-mib", "1")
    box.start_daemon()
    good, failed, refused = box.drop("good"), box.drop("failed", bytes(2_000_000)), box.drop("r" * 252)
    done = wait(box, "--timeout", LONG, good, failed, refused)
    assert (done.returncode, done.stdout) == (1, "1 signed and matching, 2 not\n")
    assert "413" in done.stderr
    assert "name_too_long" in done.stderr
    ignored = box.drop("x.tmp")
    done = wait(box, ignored)
    assert (done.returncode, "'*.tmp'" in done.stderr) == (2, True)


def test_an_outage_is_named_when_the_wait_runs_out(box: Sandbox) -> None:
    """The reason is not the files': the gate's reason and the remedy are said."""
    box.stop_service()
    box.start_daemon()
    path = box.drop("file")
    wait_until(lambda: box.status()["gate"]["closed"], what="the gate's closing")
    done = wait(box, "--timeout", "0.2", path)
    assert (done.returncode, "gate is closed: unreachable" in done.stderr) == (3, True)
    assert "dropsign check" in done.stderr


def test_what_nobody_knows_of_yet_is_waited_for(box: Sandbox) -> None:
    """A file that is still to come, with the daemon and without it, is missing when the wait runs out: no more."""
    path = box.outbox / "to come"

    def is_missing(remedy: str) -> None:
        done = wait(box, "--timeout", "0.2", path)
        assert (done.returncode, "Traceback" in done.stderr) == (3, False), done.stderr
        assert f"{path}: missing" in done.stderr
        assert remedy in done.stderr

    box.start_daemon()
    is_missing("the daemon is at work")
    box.stop_daemon()
    is_missing("start it")


def test_outside_of_the_outbox_it_takes_a_key(box: Sandbox, tmp_path: Path) -> None:
    """There is no record of what lies elsewhere; with a key, a hand-over that was signed is found in order."""
    box.start_daemon()
    path = box.drop("file")
    box.wait_signed(path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for source in (path, box.sign_of(path)):
        (elsewhere / source.name).write_bytes(source.read_bytes())
    done = wait(box, elsewhere)
    assert (done.returncode, "verify.key" in done.stderr) == (2, True)
    box.stop_daemon()
    box.configure("verify", key=str(box.signing.public_key))
    assert wait(box, elsewhere).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code"), [([], 2), (["--manifest", "/nonexistent"], 2), (["--timeout", "-1"], 2)]
)
def test_mistakes_are_one_line_and_2(box: Sandbox, arguments: list[str], code: int) -> None:
    """Nothing named, a manifest that is not there: said, with what to do."""
    done = wait(box, *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert "Traceback" not in done.stderr


def test_without_daemon_and_journal_it_ends(box: Sandbox) -> None:
    """Where nobody could ever sign, there is nothing to wait for."""
    done = wait(box, box.drop("file"))
    assert (done.returncode, "no daemon answers" in done.stderr) == (3, True)


def test_manifest_has_paths_or_lines_of_sha256sum() -> None:
    """Names with spaces, and those that sha256sum escapes."""
    digest = b"0" * 64
    lines = [b"plain", digest + b"  in two", digest + b" *binary", b"\\" + digest + rb"  a\nb\\c", b"", b"0 short"]
    assert list(paths_in(line + b"\n" for line in lines)) == [b"plain", b"in two", b"binary", b"a\nb\\c", b"0 short"]
