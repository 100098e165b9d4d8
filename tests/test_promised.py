"""What is promised beside the main path, told by a real daemon: warnings, metrics that age, the memory it may take."""

import signal
import time

import pytest

from tests.support.sandbox import Sandbox, wait_until


def test_what_is_deferred_has_waited_since_it_came_to_rest(box: Sandbox) -> None:
    """Neither a further try nor a restart makes a file younger, and the oldest of all is told, deferred or queued."""
    box.misbehave("badsig")
    box.configure("service", attempts=100)
    box.configure("verify", key=str(box.signing.public_key))
    box.start_daemon()
    path = box.drop("first")

    def since(tries: int) -> float:
        def is_deferred() -> bool:
            known = box.lookup(path)
            return bool(known["state"] == "deferred" and known["attempts"] >= tries)

        wait_until(is_deferred, 60, f"{tries} tries")
        found: float = box.lookup(path)["since"]
        return found

    began = since(1)
    assert since(2) == began
    box.stop_daemon()
    box.start_daemon()
    assert since(3) == began
    waited = time.time() - began
    assert box.status()["oldest_waiting_seconds"] >= waited
    assert box.metric("dropsign_oldest_waiting_seconds") >= waited
    box.misbehave("")
    box.wait_signed(path, seconds=60)
    wait_until(lambda: box.metric("dropsign_oldest_waiting_seconds") == 0, what="nothing that waits")
    wait_until(lambda: box.metric("dropsign_drop_to_sign_seconds_sum") >= waited, what="all of its time counted")


def test_files_that_never_rest_are_reported_once(box: Sandbox) -> None:
    """A file that somebody holds open, and writes to now and then, is named once, and signed when it is closed."""
    box.configure("outbox", unsettled_warning_seconds=1)
    box.start_daemon()

    def reported() -> list[str]:
        return [event["path"] for event in box.events("file.unsettled")]

    with (box.outbox / "first").open("wb") as first, (box.outbox / "second").open("wb") as second:
        first.write(b"1")
        first.flush()
        wait_until(lambda: "first" in reported(), 60, "the report")
        second.write(b"2")
        second.flush()
        first.write(b"1")
        first.flush()
        wait_until(lambda: "second" in reported(), 60, "the other's report")
        assert not box.requests()
    box.wait_signed(box.outbox / "first", box.outbox / "second")
    assert sorted(reported()) == ["first", "second"]
    assert all(event["seconds"] >= 1 for event in box.events("file.unsettled"))


def test_certificate_that_ends_soon_is_named(box: Sandbox) -> None:
    """It is named once, with what is left of it; the authority's, which holds for years, is not."""
    issued = box.authority.issue("soon", days=5)
    box.configure("tls", certificate=str(issued.certificate), private_key=str(issued.private_key))
    box.start_daemon()
    wait_until(lambda: box.events("credentials.expiring"), 60, "the warning")
    assert box.daemon is not None
    box.daemon.send_signal(signal.SIGHUP)
    wait_until(lambda: box.events("daemon.reloaded"), 60, "a further look")
    box.wait_signed(box.drop("file"))
    (said,) = box.events("credentials.expiring")
    assert (said["which"], said["days"], said["level"]) == ("client", 4, "warning")
    assert said["expires"] == box.status()["certificates"]["client"]


def test_metric_of_the_last_scan(box: Sandbox) -> None:
    """It says what `status` says, of the first scan and of each that follows."""
    box.start_daemon()
    for _ in range(2):
        seconds = box.status()["last_scan"]["seconds"]
        assert box.metric("dropsign_scan_seconds") == pytest.approx(seconds)
        assert seconds > 0
        box.rescan()


def test_requests_keep_to_their_memory(box: Sandbox) -> None:
    """As many streamed requests are on their way as memory_mib has room for, though the service would bear more."""
    box.configure("service", memory_mib=2)
    box.start_daemon()
    box.misbehave("delay 200ms")
    paths = [box.drop(f"{number}", b"%d" % number + bytes(300_000)) for number in range(12)]
    seen = set()

    def all_signed() -> bool:
        seen.add(box.status()["in_flight"])
        return all(map(box.is_signed, paths))

    wait_until(all_signed, 60, "the signatures")
    assert max(seen) <= 2


@pytest.mark.slow
def test_an_outage_is_summed_up_once_a_minute(box: Sandbox) -> None:
    """While the gate is closed a line a minute says why, since when, and how many files wait."""
    box.start_daemon()
    box.stop_service()
    paths = [box.drop(f"f{number}", b"%d" % number) for number in range(5)]
    wait_until(lambda: box.events("gate.closed"), what="the gate's closing")
    wait_until(lambda: box.events("gate.waiting"), 90, "the summary")
    told = box.events("gate.waiting")[0]
    assert (told["reason"], told["waiting"]) == ("unreachable", len(paths))
    assert told["seconds"] >= 59
    assert len(box.events("gate.closed")) == 1
