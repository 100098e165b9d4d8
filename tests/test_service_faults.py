"""What a service can do to the daemon: whatever it is, nobody is charged, held up or told in riddles."""

import re
import signal
import time
from functools import partial
from typing import Final

import pytest

from dropsign.embedded.authority import Authority
from tests.support.rude_peer import (
    WRONG,
    Misbehaviour,
    close_in_the_answer,
    empty,
    hang,
    reset,
    rude_peer,
    sign,
    unavailable,
)
from tests.support.sandbox import Sandbox, sha256, wait_until

PATIENCE: Final = 60
"""Seconds for a probe to come: the backoff has full jitter, and a test must never fail by bad luck."""

RIDDLES: Final = re.compile(r"[A-Z][a-z]+[A-Z][A-Za-z]*(Error|Exception)|\[Errno|Connect call|SSLV3|TLSV1|_ALERT_|ssl:")


def _assert_in_words(box: Sandbox) -> None:
    told = [line for line in box.log() if line["event"].startswith("gate.") or line["event"] == "file.deferred"]
    assert not [line for line in told if RIDDLES.search(line.get("error", ""))]


def test_each_fault_has_its_reason_in_words(box: Sandbox) -> None:
    """The gate closes with the fault's own reason, in plain words; nothing is charged, all is signed afterwards."""
    box.configure("service", timeout_seconds=1)
    behaviour: list[Misbehaviour] = [sign]
    paths = []
    with rude_peer(box, lambda _: behaviour[0]) as peer:
        box.start_daemon()
        for number, (name, (misbehaviour, reason, said)) in enumerate(WRONG.items()):
            behaviour[0] = misbehaviour
            first = len(box.events("gate.closed"))
            new = [box.drop(f"{name} {each}", b"%d %d" % (number, each)) for each in range(2)]
            wait_until(lambda: box.status()["gate"]["closed"], PATIENCE, f"the gate's closing by {name}")
            gate = box.status()["gate"]
            line = box.events("gate.closed")[first]
            assert gate["reason"] == line["reason"] == reason, (name, gate)
            assert re.search(said, line["error"]), (name, line)
            behaviour[0] = sign
            box.wait_signed(*new, seconds=PATIENCE)
            paths += new
            wait_until(lambda: not box.status()["gate"]["closed"], what="the gate's opening")
        box.wait_idle()
        box.assert_exactly_signed(*paths)
        assert set(peer.signed.values()) == {1}
    assert {line["attempt"] for line in box.events("file.signed")} == {1}
    assert not box.events("file.failed")
    _assert_in_words(box)


@pytest.mark.parametrize("misbehaviour", [unavailable, reset, hang, close_in_the_answer])
def test_one_file_that_always_fails_holds_up_nobody(box: Sandbox, misbehaviour: Misbehaviour) -> None:
    """Alone, it may close the gate, once; what is dropped afterwards is signed at once, and it stays uncharged."""
    box.configure("service", timeout_seconds=1)
    with rude_peer(box, lambda content: misbehaviour if content.startswith(b"failing") else sign) as peer:
        box.start_daemon()
        failing = [box.drop("failing", b"failing")]
        wait_until(lambda: box.events("gate.closed"), what="the gate's closing")
        for _ in range(3):
            time.sleep(0.5)
            box.wait_signed(box.drop("newcomer", b"%d" % time.monotonic_ns()))
        wait_until(lambda: box.events("gate.opened"), what="the gate's opening")
        failing += [box.drop(f"failing {number}", b"failing %d" % number) for number in range(8)]
        paths = [box.drop(f"good {number}", b"%d" % number) for number in range(100)]
        box.wait_signed(*paths)
        for path in failing:
            known = box.lookup(path)
            assert known["state"] in {"queued", "deferred"}
            assert not known.get("attempts")
        assert not box.events("file.failed")
        for number, path in enumerate(failing):
            path.write_bytes(b"mended %d" % number)
        box.wait_signed(*failing, seconds=PATIENCE)
        assert max(peer.signed.values()) == 1
    _assert_in_words(box)


def test_overloaded_service_settles(box: Sandbox) -> None:
    """A service that bears 8 requests at a time is asked for about 8; under 5 % are refused, and status shows it."""
    box.stop_service()
    box.start_service("--max-in-flight", "8")
    box.misbehave("delay 20ms")
    box.start_daemon()
    paths = [box.drop(f"f{number}", b"%d" % number) for number in range(1500)]
    limits = []

    def is_done() -> bool:
        limits.append(box.status()["concurrency"])
        return len(box.events("file.signed")) == len(paths)

    wait_until(is_done, 100, "all signatures")
    refused = [request for request in box.requests() if request["status"] == 429]
    assert len(refused) < 0.05 * len(box.requests())
    assert max(limits[len(limits) // 2 :]) <= 9
    assert box.metric("dropsign_concurrency_limit") <= 9
    assert box.metric("dropsign_concurrency_ceiling") == box.status()["concurrency_ceiling"] == 32
    assert not [line for line in box.log() if line["event"] in {"gate.closed", "file.failed"}]
    box.wait_idle()
    box.assert_exactly_signed(*paths)
    assert set(box.times_signed().values()) == {1}


def test_connection_cut_while_idle(box: Sandbox) -> None:
    """A request that met the end of its connection's idle time is made again at once, and nobody hears of it."""
    with rude_peer(box, lambda _: sign, cuts_idle=True) as peer:
        box.start_daemon()
        paths = []
        for number in range(10):
            paths.append(box.drop(f"f{number}", b"%d" % number))
            box.wait_signed(paths[-1])
        box.wait_idle()
        assert peer.cut
        assert set(peer.signed.values()) == {1}
    assert {line["attempt"] for line in box.events("file.signed")} == {1}
    assert not [line for line in box.log() if line["event"] in {"gate.closed", "file.deferred"}]


def test_old_connections_do_not_hide_that_new_ones_fail(box: Sandbox) -> None:
    """Where an open connection works on, as after a certificate's end, an outage is one, and not one a file."""
    with rude_peer(box, lambda _: sign) as peer:
        box.start_daemon()
        first = box.drop("first")
        box.wait_signed(first)
        peer.refuse()
        paths = [box.drop(f"f{number}", b"%d" % number) for number in range(300)]
        wait_until(lambda: _is_left_alone(box) or all(map(box.is_signed, paths)), 60, "a probe that is far off")
        assert len(box.events("gate.closed")) <= 40, "what was on its way on old connections may open it"
    box.start_service()
    assert box.daemon is not None
    box.daemon.send_signal(signal.SIGHUP)  # or the next probe may be a minute off
    box.wait_signed(first, *paths, seconds=PATIENCE)


def _is_left_alone(box: Sandbox) -> bool:
    wait = box.status()["gate"]["next_probe_seconds"]
    return wait is not None and wait > 1.5


def test_empty_signature(box: Sandbox) -> None:
    """An empty signData is none: it is charged, tried again, and never published."""
    with rude_peer(box, lambda _: empty):
        box.configure("service", attempts=1)
        box.start_daemon()
        path = box.drop("file")
        wait_until(lambda: box.events("file.failed"), what="the failure")
        assert box.lookup(path)["reason"] == "no_signature"
        assert not box.sign_of(path).exists()


def test_slow_loris_and_ten_mebibytes(box: Sandbox) -> None:
    """An answer that drips for ever is cut off by the time limit; one of 10 MiB costs no memory to speak of."""
    box.configure("service", timeout_seconds=2)
    box.start_daemon()
    box.misbehave("slowloris")
    dripping = box.drop("dripping", b"dripping")
    wait_until(lambda: box.events("gate.closed"), what="the gate's closing")
    assert box.events("gate.closed")[0]["reason"] == "unreachable"
    box.misbehave("bigbody")
    large = [box.drop(f"large {number}", b"%d" % number) for number in range(8)]
    wait_until(partial(_all_deferred, box, 9), PATIENCE, "the charges")
    assert box.daemon is not None
    with open(f"/proc/{box.daemon.pid}/status") as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    assert peak < 200 * 1024, "KiB, with all of Python's"
    box.misbehave("")
    box.wait_signed(dripping, *large, seconds=PATIENCE)
    assert sha256(b"dripping") in box.times_signed()


def _all_deferred(box: Sandbox, number: int) -> bool:
    return len({line["path"] for line in box.events("file.deferred")}) == number


def test_client_certificate_that_the_service_refuses(box: Sandbox) -> None:
    """A service that cuts us off after the handshake, without the alert, is found to refuse our certificate."""
    foreign = Authority(box.directory / "foreign")
    box.stop_service()
    box.start_service("--authority", str(foreign.certificate))
    box.start_daemon()
    path = box.drop("file")
    wait_until(lambda: box.status()["gate"]["closed"], what="the gate's closing")
    assert {line["reason"] for line in box.events("gate.closed")} == {"credentials"}
    assert "tls.certificate" in box.events("gate.closed")[0]["error"]
    box.stop_service()
    box.start_service()
    box.wait_signed(path, seconds=PATIENCE)
    box.wait_idle()
    assert [line["attempt"] for line in box.events("file.signed")] == [1]
    _assert_in_words(box)


def test_nobody_listens(box: Sandbox) -> None:
    """The line says where, and what the system said, in words."""
    box.stop_service()
    box.start_daemon()
    wait_until(lambda: box.events("gate.closed"), what="the gate's closing")
    line = box.events("gate.closed")[0]
    assert line["reason"] == "unreachable"
    assert line["error"] == f"the service cannot be reached at localhost:{box.port}: connection refused"
