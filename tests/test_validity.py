"""Certificates that do not hold: the daemon waits behind its gate for others, and nothing else goes on with them."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from dropsign.embedded.authority import Authority, Issued
from dropsign.errors import Fault
from dropsign.units import unit_of
from dropsign.validity import Validity
from tests.support.sandbox import Sandbox, dropsign, wait_until

PATIENCE = 50
"""Seconds for a probe to come, with all its jitter."""

MISTIMED = [((-1, 0), "expired on"), ((30, 2), "not valid before")]
"""Days that a certificate holds, and in which it begins to, with what is said of it."""


def in_use(box: Sandbox, issued: Issued) -> tuple[Path, Path]:
    """Put a certificate and its key where the configuration names them; return those places."""
    places = box.directory / "used.pem", box.directory / "used.key.pem"
    for source, place in zip((issued.private_key, issued.certificate), reversed(places), strict=True):
        fresh = place.with_suffix(".new")
        shutil.copy2(source, fresh)
        fresh.replace(place)
    box.configure("tls", certificate=str(places[0]), private_key=str(places[1]))
    return places


@pytest.mark.parametrize(("dates", "said"), MISTIMED)
def test_started_with_a_certificate_that_does_not_hold(box: Sandbox, dates: tuple[int, int], said: str) -> None:
    """The daemon starts, keeps all drops behind the gate and says why; a good one on disk opens it, nothing charged."""
    certificate, _ = in_use(box, box.authority.issue("mistimed", days=dates[0], starts_in_days=dates[1]))
    box.start_daemon()
    paths = [box.drop(f"f{number}", b"%d" % number) for number in range(20)]
    wait_until(lambda: box.events("gate.closed"), what="the gate's closing")
    closed = box.events("gate.closed")[0]
    assert closed["reason"] == "credentials"
    assert f"tls.certificate: {certificate}" in closed["error"]
    assert said in closed["error"]
    wait_until(lambda: box.status()["backlog"] == len(paths), what="all being queued")
    status, answer = box.ask("/readyz")
    assert status == 503
    assert any("credentials" in reason for reason in answer["reasons"])
    shown = dropsign("--config", box.config, "status").stdout
    assert said in shown
    assert "renew the certificate" in shown
    assert (box.status()["certificates_days_left"]["client"] < 0) == (dates[0] < 0)
    assert not box.requests(), "nothing was asked with it"
    in_use(box, box.authority.issue("good"))
    box.wait_signed(*paths, seconds=PATIENCE)
    wait_until(lambda: box.events("gate.opened"), what="the gate's opening")
    box.wait_idle()
    assert {line["attempt"] for line in box.events("file.signed")} == {1}
    assert set(box.times_signed().values()) == {1}


def test_started_with_an_authority_that_has_expired(box: Sandbox) -> None:
    """No service can be trusted by it: the gate is closed for `tls`, until the authority's successor lies there."""
    authority = box.directory / "trusted.pem"
    shutil.copy(box.authority.issue("old", days=-1).certificate, authority)
    box.configure("tls", authority=str(authority))
    box.start_daemon()
    path = box.drop("file")
    wait_until(lambda: box.events("gate.closed"), what="the gate's closing")
    closed = box.events("gate.closed")[0]
    assert closed["reason"] == "tls"
    assert f"tls.authority: {authority} expired on" in closed["error"]
    fresh = authority.with_suffix(".new")  # the last one before it, as while authorities change
    fresh.write_bytes(authority.read_bytes() + box.authority.certificate.read_bytes())
    fresh.replace(authority)
    box.wait_signed(path, seconds=PATIENCE)
    wait_until(lambda: box.ask("/readyz")[0] == 200, what="readiness")


@pytest.mark.parametrize(("dates", "said"), MISTIMED)
def test_nothing_else_goes_on(box: Sandbox, dates: tuple[int, int], said: str) -> None:
    """`sign` and `check` say so and end; a reload onto such a certificate is refused, the one in force stays."""
    good = box.configure().read_text()
    in_use(box, box.authority.issue("mistimed", days=dates[0], starts_in_days=dates[1]))
    path = box.drop("file")
    done = dropsign("--config", box.config, "sign", path)
    assert done.returncode == 2
    assert said in done.stderr
    checked = dropsign("--config", box.config, "check")
    assert checked.returncode != 0
    assert any(line.startswith("FAIL") and said in line for line in checked.stdout.splitlines())
    mistimed = box.config.read_text()
    box.config.write_text(good)
    box.start_daemon()
    box.wait_signed(path)
    box.config.write_text(mistimed)
    assert box.daemon is not None
    box.daemon.send_signal(1)
    wait_until(lambda: box.events("daemon.reload_refused"), what="the refusal")
    assert said in box.events("daemon.reload_refused")[0]["error"]
    box.wait_signed(box.drop("another", b"another"))


def test_a_refused_certificate_shows(box: Sandbox) -> None:
    """What lies on disk and is not taken up is named in `status`, until something good lies there."""
    in_use(box, box.authority.issue("first"))
    box.start_daemon()
    box.wait_signed(box.drop("file"))
    assert box.status()["credentials_refused"] is None
    in_use(box, box.authority.issue("over", days=-1))
    wait_until(lambda: box.status()["credentials_refused"], 30, what="the refusal")
    assert "expired on" in box.status()["credentials_refused"]["error"]
    assert "refused since" in dropsign("--config", box.config, "status").stdout
    assert box.status()["ready"], "the one of before is still good"
    in_use(box, box.authority.issue("second"))
    wait_until(lambda: box.status()["credentials_refused"] is None, 30, what="the good one")


@given(
    now=st.floats(0, 4e9),
    starts=st.floats(0, 4e9),
    lasts=st.floats(1, 1e9),
    reason=st.sampled_from(["tls", "credentials"]),
)
def test_when_it_holds(now: float, starts: float, lasts: float, reason: str) -> None:
    """It holds from its start until just before its end, and says which of the two is wrong."""
    validity = Validity("tls.certificate", Path("c.pem"), starts, starts + lasts, reason)
    objection = validity.objection(now)
    assert (objection is None) == (starts <= now < starts + lasts)
    if objection is not None:
        assert ("not valid before" in str(objection)) == (now < starts)
        assert objection.reason == reason
        assert objection.fault is (Fault.CREDENTIALS if reason == "credentials" else Fault.SERVICE)


def test_one_of_several_is_enough(tmp_path: Path) -> None:
    """An authority's file may hold the one of before and the next one: it ends with the last of them."""
    authority = Authority(tmp_path)
    issued = [authority.issue("old", days=-3), authority.issue("next", days=30)]
    certificates = [x509.load_pem_x509_certificate(each.certificate.read_bytes()) for each in issued]
    validity = Validity.of("tls.authority", tmp_path, certificates, "tls")
    assert validity.objection(datetime.now(UTC).timestamp()) is None
    assert validity.objection((datetime.now(UTC) + timedelta(days=31)).timestamp()) is not None


@pytest.mark.parametrize(
    ("socket", "unit"),
    [
        (None, "dropsign"),
        ("/run/dropsign/control.sock", "dropsign"),
        ("/run/dropsign/eu/control.sock", "dropsign@eu"),
        ("/srv/x/control.sock", "dropsign"),
    ],
)
def test_the_unit_that_advice_names(socket: str | None, unit: str) -> None:
    """An instance has a directory of its name below the service's."""
    assert unit_of(None if socket is None else Path(socket)) == unit
