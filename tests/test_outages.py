"""Whose fault it was, and what follows (contract, 3): the outage gate and the charging of attempts, for real."""

import os
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from dropsign.embedded.authority import Authority
from tests.support.sandbox import APP_SECRET, Sandbox, powerless, sha256, wait_until

REASONS: Final = {"unreachable", "tls", "credentials", "clock_skew", "overloaded", "rejecting", "disk"}

PATIENCE: Final = 50
"""Seconds for a probe to come: the backoff has full jitter, and a test must never fail by bad luck."""


def _closings(box: Sandbox) -> list[str]:
    return [line["event"] for line in box.log() if line["event"] in {"gate.closed", "gate.opened"}]


def _more(box: Sandbox, event: str, number: int) -> bool:
    return len(box.events(event)) > number


def _assert_nothing_charged(box: Sandbox, *paths: Path) -> None:
    """Check that every file was signed at its first attempt, and that no line says otherwise."""
    box.assert_exactly_signed(*paths)
    assert {line["attempt"] for line in box.events("file.signed")} == {1}
    assert not box.events("file.failed")
    assert box.status()["failed"] == 0


def test_service_gone_in_the_middle_of_a_burst(box: Sandbox) -> None:
    """An outage charges nothing, writes one line when it begins and one when it ends, and none for each file."""
    box.start_daemon()
    paths: list[Path] = []
    for outage in range(2):
        box.misbehave("delay 100ms")
        new = [box.drop(f"d{outage}/f{number}", b"%d %d" % (outage, number)) for number in range(200)]
        paths += new
        wait_until(lambda: box.status()["in_flight"] >= 4, what="requests on their way")
        box.stop_service()
        wait_until(partial(_more, box, "gate.closed", outage), what="the gate's closing")
        paths += [box.drop(f"d{outage}/late{number}", b"late %d %d" % (outage, number)) for number in range(100)]
        wait_until(lambda: box.ask("/readyz")[0] == 503, what="not being ready")
        time.sleep(1.5)
        before = len(box.log())
        time.sleep(1)
        assert len(box.log()) <= before + 5, "an outage does not write lines all the time"
        box.misbehave("")
        box.start_service()
        box.wait_signed(*paths, seconds=PATIENCE)
        wait_until(partial(_more, box, "gate.opened", outage), what="the gate's opening")
    box.wait_idle()
    _assert_nothing_charged(box, *paths)
    assert _closings(box) == ["gate.closed", "gate.opened"] * 2
    assert {line["reason"] for line in box.events("gate.closed")} == {"unreachable"}
    lines = Counter(line["event"] for line in box.log() if line["level"] != "info")
    assert lines.total() <= 6, lines
    opened = box.events("gate.opened")[0]
    assert opened["seconds"] > 0
    assert opened["waiting"] > 0
    assert box.ask("/readyz")[0] == 200


@pytest.mark.parametrize("fault", ["503", "500", "hang", "reset", "redirect"])
def test_faults_of_the_service(box: Sandbox, fault: str) -> None:
    """What is the service's fault closes the gate, with a reason; nothing is charged, all is signed once it is over."""
    box.configure("service", timeout_seconds=1)
    box.start_daemon()
    box.misbehave(fault)
    paths = [box.drop(f"f{number}", b"%d" % number) for number in range(40)]
    wait_until(lambda: box.events("gate.closed"), what="the gate's closing")
    time.sleep(0.5)
    status = box.status()
    assert (status["failed"], status["signed"]) == (0, 0)
    assert status["gate"]["closed"]
    assert status["gate"]["reason"] in REASONS
    assert box.ask("/readyz")[0] == 503
    box.misbehave("")
    box.wait_signed(*paths, seconds=PATIENCE)
    box.wait_idle()
    _assert_nothing_charged(box, *paths)
    assert _closings(box) == ["gate.closed", "gate.opened"]


def test_faults_now_and_then(box: Sandbox) -> None:
    """With a service that fails now and then, every file ends signed, none is charged, no version is signed twice."""
    box.configure("service", timeout_seconds=2)
    box.start_daemon()
    box.misbehave("503:10%,429:5%,500:5%,reset:5%")
    paths = [box.drop(f"f{number}", b"%d" % number) for number in range(150)]
    time.sleep(3)
    box.misbehave("")
    box.wait_signed(*paths, seconds=100)
    box.wait_idle()
    _assert_nothing_charged(box, *paths)
    assert set(box.times_signed().values()) == {1}
    assert Counter(_closings(box))["gate.closed"] == Counter(_closings(box))["gate.opened"]


def test_answers_without_a_usable_signature(box: Sandbox) -> None:
    """A 200 with no signature, or a wrong one, is charged; after `attempts` the file is failed, till it changes."""
    box.configure("service", attempts=2)
    box.configure("verify", key=str(box.signing.public_key))
    box.start_daemon()
    faults = ["null", "text", "halfjson", "bigbody", "badsig"]
    paths = [box.outbox / fault for fault in faults]
    for number, path in enumerate(paths):
        box.misbehave(path.name)
        path.write_bytes(b"version 1 %d" % number)
        wait_until(partial(_more, box, "file.failed", number), what="the failure")
        assert not box.sign_of(path).exists()
        mine = [(line["event"], line["attempt"]) for line in box.log() if line.get("path") == path.name]
        assert mine == [("file.deferred", 1), ("file.failed", 2)]
        known = box.lookup(path)
        assert (known["state"], known["attempts"]) == ("failed", 2)
        assert known["reason"] == ("bad_signature" if path.name == "badsig" else "no_signature")
    assert len(box.requests()) == 2 * len(faults)
    box.rescan()
    box.wait_idle()
    assert len(box.requests()) == 2 * len(faults), "what failed is not tried again by itself"
    assert not box.events("gate.closed")
    assert box.ask("/readyz")[0] == 200
    box.misbehave("")
    for number, path in enumerate(paths):
        path.write_bytes(b"version 2 %d" % number)
    box.wait_signed(*paths)
    box.wait_idle()
    assert {line["attempt"] for line in box.events("file.signed")} == {1}, "a new version begins anew"


def test_an_answer_that_comes_right(box: Sandbox) -> None:
    """A file whose first attempt gave no signature is tried again by itself, and says which attempt succeeded."""
    box.start_daemon()
    box.misbehave("null")
    path = box.drop("file")
    wait_until(lambda: box.events("file.deferred"), what="the deferral")
    box.misbehave("")
    box.wait_signed(path)
    wait_until(lambda: box.events("file.signed"), what="the line")
    assert box.events("file.signed")[0]["attempt"] == box.events("file.deferred")[-1]["attempt"] + 1


def test_refusals_of_one_file(box: Sandbox) -> None:
    """A 4xx that is the file's is final at once, keeps status and answer, and is tried again on retry only."""
    box.start_daemon()
    statuses = [400, 404, 409, 413, 415, 422, 418]
    paths = [box.outbox / f"f{status}" for status in statuses]
    for number, (path, status) in enumerate(zip(paths, statuses, strict=True)):
        box.misbehave(str(status))
        path.write_bytes(path.name.encode())
        wait_until(partial(_more, box, "file.failed", number), what="the failure")
        line = box.events("file.failed")[-1]
        assert (line["path"], line["attempt"], line["reason"]) == (path.name, 1, f"http_{status}")
        failed = box.known("failed")[path.name.encode()]
        assert str(status) in failed["error"]
        assert "rehearsed" in failed["error"], "the answer's text is kept"
    box.rescan()
    box.wait_idle()
    assert len(box.requests()) == len(statuses)
    assert not box.events("gate.closed")
    box.misbehave("")
    assert box.ask("/api/retry", {"all": True}) == (200, {"retried": len(statuses)})
    box.wait_signed(*paths)
    assert box.known("failed") == {}


def test_failures_outlive_a_restart(box: Sandbox) -> None:
    """A failed file stays failed over a restart, and is not sent again by it."""
    box.start_daemon()
    box.misbehave("422")
    path = box.drop("file")
    wait_until(lambda: box.known("failed"), what="the failure")
    assert box.stop_daemon() == 0
    box.misbehave("")
    box.start_daemon()
    box.rescan()
    box.wait_idle()
    assert box.known("failed").keys() == {b"file"}
    assert not box.sign_of(path).exists()
    assert len(box.requests()) == 1


def test_the_same_refusal_for_many_files(box: Sandbox) -> None:
    """Many files refused alike mean that the address is wrong: the gate closes, and none of them stays failed."""
    box.configure("outbox", error_files=True)
    box.start_daemon()
    box.misbehave("404")
    paths = [box.drop(f"f{number}", b"%d" % number) for number in range(60)]
    wait_until(lambda: box.events("gate.closed"), what="the gate's closing")
    assert box.events("gate.closed")[0]["reason"] == "rejecting"
    assert "404" in box.events("gate.closed")[0]["error"]
    wait_until(lambda: box.known("failed") == {}, what="nobody being blamed any more")
    time.sleep(1)
    assert box.known("failed") == {}
    assert len(box.events("file.failed")) < 16
    box.misbehave("")
    box.wait_signed(*paths, seconds=PATIENCE)
    box.wait_idle()
    box.assert_exactly_signed(*paths)
    assert _closings(box) == ["gate.closed", "gate.opened"]
    assert set(box.times_signed().values()) == {1}


def test_different_refusals_close_no_gate(box: Sandbox) -> None:
    """Refusals among answers that are good are the files' own, however many they are."""
    box.stop_service()
    box.start_service("--max-mib", "0.01")
    box.start_daemon()
    for number in range(12):
        box.wait_signed(box.drop(f"small{number}", b"%d" % number))
        box.drop(f"large{number}", b"%d" % number * 20_000)
        wait_until(partial(_more, box, "file.failed", number), what="the failure")
    assert not box.events("gate.closed")


def test_a_secret_that_is_no_longer_good(box: Sandbox) -> None:
    """A 401 closes the gate and says what to check; a new secret in the file opens it, with no restart or signal."""
    other = box.directory / "the service's secret"
    other.write_text(APP_SECRET + " of next year", "utf-8")
    box.start_daemon()
    before = box.drop("before", b"before")
    box.wait_signed(before)
    box.stop_service()
    box.start_service("--app-secret-file", str(other))
    paths = [box.drop(f"f{number}", b"%d" % number) for number in range(20)]
    wait_until(lambda: "401" in (box.status()["gate"]["detail"] or ""), PATIENCE, what="the gate's closing")
    gate = box.status()["gate"]
    assert gate["reason"] == "credentials"
    assert "app_secret" in gate["detail"]
    assert APP_SECRET not in box.daemon_log.read_text()
    time.sleep(0.5)
    assert box.known("failed") == {}
    replaced = box.secret_file.with_suffix(".new")
    replaced.write_text(APP_SECRET + " of next year", "utf-8")
    replaced.chmod(0o600)
    replaced.rename(box.secret_file)
    box.wait_signed(*paths, seconds=PATIENCE)
    box.wait_idle()
    _assert_nothing_charged(box, before, *paths)
    assert len(box.events("credentials.loaded")) >= 2


@pytest.mark.parametrize("kind", ["foreign", "name", "expired"])
def test_a_service_that_is_not_the_one(box: Sandbox, kind: str) -> None:
    """A service with a foreign, another host's or an expired certificate gets nothing; the reason is `tls`."""
    match kind:
        case "foreign":
            issued = Authority(box.directory / "foreign").issue("localhost", server=True)
        case "name":
            issued = box.authority.issue("elsewhere")  # no name of this machine in it
        case _:
            issued = box.authority.issue("old", server=True, days=-1)
    box.stop_service()
    box.start_service("--certificate", str(issued.certificate), "--private-key", str(issued.private_key))
    box.start_daemon()
    path = box.drop("file")
    wait_until(lambda: box.events("gate.closed"), what="the gate's closing")
    assert box.events("gate.closed")[0]["reason"] == "tls"
    time.sleep(1)
    assert not box.requests(), "not a byte of the file goes there"
    box.stop_service()
    box.start_service()
    box.wait_signed(path, seconds=PATIENCE)
    box.wait_idle()
    _assert_nothing_charged(box, path)


def test_stop_and_restart_in_an_outage(box: Sandbox) -> None:
    """A stop in an outage is quick and clean, though nothing can be signed; the next start goes on, nothing charged."""
    box.configure("daemon", grace_seconds=3600)  # which there is nothing to wait for
    box.start_daemon()
    box.misbehave("503")
    paths = [box.drop(f"f{number}", b"%d" % number) for number in range(80)]
    wait_until(lambda: box.events("gate.closed"), what="the gate's closing")
    assert box.stop_daemon() == 0
    box.misbehave("")
    box.start_daemon()
    box.wait_signed(*paths, seconds=PATIENCE)
    box.wait_idle()
    _assert_nothing_charged(box, *paths)
    assert set(box.times_signed().values()) == {1}


def test_changes_in_an_outage(box: Sandbox) -> None:
    """What is changed, removed and added while the gate is closed is seen for what it is when it opens."""
    box.start_daemon()
    signed = box.drop("signed", b"signed")
    box.wait_signed(signed)
    box.misbehave("503")
    changed, gone = box.drop("changed", b"old"), box.drop("gone", b"gone")
    wait_until(lambda: box.events("gate.closed"), what="the gate's closing")
    signed.write_bytes(b"signed, then changed")
    wait_until(lambda: not box.sign_of(signed).exists(), what="the withdrawal")
    changed.write_bytes(b"new")
    gone.unlink()
    added = box.drop("added", b"added")
    box.misbehave("")
    box.wait_signed(signed, changed, added, seconds=PATIENCE)
    box.wait_idle()
    _assert_nothing_charged(box, signed, changed, added)
    assert sha256(b"gone") not in box.times_signed()
    assert sha256(b"old") not in box.times_signed()


def test_unreadable_file(box: Sandbox) -> None:
    """A file that cannot be read is deferred, said once, and holds nobody up; it is signed once it can be read."""
    box.start_daemon(prefix=powerless())
    box.wait_signed(box.drop("first", b"first"))
    locked = box.directory / "locked"
    locked.write_bytes(b"locked")
    locked.chmod(0)
    path = box.outbox / "locked"
    locked.rename(path)
    other = box.drop("other", b"other")
    box.wait_signed(other)
    wait_until(lambda: box.events("file.deferred"), what="the deferral")
    for _ in range(3):
        box.rescan()
    assert len(box.events("file.deferred")) == 1
    assert not box.events("gate.closed")
    assert box.status()["failed"] == 0
    os.chmod(path, 0o644)
    box.rescan()
    box.wait_signed(path, seconds=PATIENCE)


def test_a_directory_that_cannot_be_written(box: Sandbox) -> None:
    """A signature that cannot be put beside its file is kept: said once, and published later without a request."""
    directory = box.outbox / "d"
    path = box.drop("d/file")
    directory.chmod(0o555)
    box.start_daemon(prefix=powerless())
    wait_until(lambda: box.events("file.deferred"), what="the deferral")
    for _ in range(3):
        box.rescan()
    time.sleep(1)
    assert len(box.requests()) == 1
    assert len(box.events("file.deferred")) == 1
    assert box.lookup(path)["state"] == "deferred"
    box.wait_signed(box.drop("other", b"other"))
    directory.chmod(0o755)
    box.rescan()
    box.wait_signed(path, seconds=PATIENCE)
    box.wait_idle()
    assert set(box.times_signed().values()) == {1}
    assert not box.events("gate.closed")


def test_drops_in_an_outage(box: Sandbox) -> None:
    """Writers go on dropping in an outage; all of it is signed once it is over, and nothing was charged."""
    box.start_daemon()
    box.misbehave("502")
    first = box.drop("first", b"first")
    wait_until(lambda: box.events("gate.closed"), what="the gate's closing")
    paths = [first]

    def write(writer: int) -> None:
        for number in range(50):
            paths.append(box.drop(f"w{writer}/{number}", b"%d %d" % (writer, number)))
            time.sleep(0.01)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    box.misbehave("")
    box.wait_signed(*paths, seconds=PATIENCE)
    box.wait_idle()
    _assert_nothing_charged(box, *paths)
