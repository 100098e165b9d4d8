"""nginx as the service's front: what it says and does when something is wrong, and what the daemon makes of it."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import NameOID

from dropsign.embedded.authority import Authority
from tests.conftest import require_part
from tests.support.sandbox import Sandbox, free_port, wait_until
from tests.support.strict_peer import strict_peer

PATIENCE: Final = 60
"""Seconds for a probe to come: the backoff has full jitter, and a test must never fail by bad luck."""

_PASS: Final = "proxy_pass http://backend;"
_TLS: Final = "ssl_protocols TLSv1.2 TLSv1.3;"


def _backend_gone(_: Sandbox) -> dict[str, str]:
    return {_PASS: f"proxy_pass http://127.0.0.1:{free_port()};"}


def _too_many(_: Sandbox) -> dict[str, str]:
    return {_PASS: "return 429;"}


def _under_maintenance(_: Sandbox) -> dict[str, str]:
    return {_PASS: "add_header Retry-After 1 always; return 503;"}


def _moved(_: Sandbox) -> dict[str, str]:
    return {_PASS: "return 301 https://elsewhere.example.com/api;"}


def _forbidden(_: Sandbox) -> dict[str, str]:
    return {_PASS: "return 403;"}


def _hung_up(_: Sandbox) -> dict[str, str]:
    return {_PASS: "return 444;"}


def _expired(box: Sandbox) -> dict[str, str]:
    issued = box.authority.issue("old", server=True, days=-1)
    return {
        str(box.server.certificate): str(issued.certificate),
        str(box.server.private_key): str(issued.private_key),
    }


def _other_host(box: Sandbox) -> dict[str, str]:
    key = load_pem_private_key(box.server.private_key.read_bytes(), None)
    ours = box.authority._own
    now, name = datetime.now(UTC), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "elsewhere.example.com")])
    issued = (
        x509.CertificateBuilder(ours.subject, name, key.public_key(), x509.random_serial_number())  # type: ignore[arg-type]
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("elsewhere.example.com")]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ours.public_key()), critical=False)  # type: ignore[arg-type]
        .sign(box.authority._key, SHA256())
    )
    certificate = box.directory / "elsewhere.pem"
    certificate.write_bytes(issued.public_bytes(Encoding.PEM))
    return {str(box.server.certificate): str(certificate)}


def _old_tls(_: Sandbox) -> dict[str, str]:
    return {_TLS: "ssl_protocols TLSv1.1; ssl_ciphers DEFAULT:@SECLEVEL=0;"}


def _other_clients(box: Sandbox) -> dict[str, str]:
    return {
        f"ssl_client_certificate {box.authority.certificate}": "ssl_client_certificate "
        + str(Authority(box.directory / "foreign").certificate)
    }


FAULTS: Final[list[tuple[Callable[[Sandbox], dict[str, str]], str, str]]] = [
    (_backend_gone, "rejecting", "answered 502"),
    (_too_many, "overloaded", "answered 429"),
    (_under_maintenance, "overloaded", "answered 503"),
    (_moved, "rejecting", "answered 301"),
    (_forbidden, "credentials", "answered 403"),
    (_hung_up, "unreachable", "closes the connection without an answer"),
    (_expired, "tls", "certificate has expired"),
    (_other_host, "tls", "elsewhere|[Mm]ismatch"),
    (_old_tls, "tls", "no version of TLS"),
    (_other_clients, "credentials", "SSL certificate"),
]


@pytest.mark.nginx
@pytest.mark.slow
def test_each_fault_has_its_reason(box: Sandbox) -> None:
    """The gate closes with the fault's own reason; nothing is charged or sent elsewhere, all is signed afterwards."""
    with strict_peer(box, require_part("nginx")) as peer:
        box.start_daemon()
        paths = [box.drop("first", b"first")]
        box.wait_signed(*paths)
        for number, (fault, reason, said) in enumerate(FAULTS):
            peer.serve(fault(box))
            first = len(box.events("gate.closed"))
            new = [box.drop(f"{fault.__name__} {each}", b"%d %d" % (number, each)) for each in range(2)]
            met = partial(_is_closed_for, box, reason)
            wait_until(met, PATIENCE, f"the gate's closing by {fault.__name__}")
            told = box.status()["gate"]["detail"] or box.events("gate.closed")[first]["error"]
            assert re.search(said, told), (fault.__name__, told)
            peer.serve()
            box.wait_signed(*new, seconds=PATIENCE)
            paths += new
            wait_until(lambda: not box.status()["gate"]["closed"], what="the gate's opening")
        box.wait_idle()
        box.assert_exactly_signed(*paths)
        assert set(peer.times_signed().values()) == {1}
    assert {line["attempt"] for line in box.events("file.signed")} == {1}
    assert not box.events("file.failed")


def _is_closed_for(box: Sandbox, reason: str) -> bool:
    return bool(box.status()["gate"]["reason"] == reason)


@pytest.mark.nginx
def test_file_that_is_too_large_for_nginx(box: Sandbox) -> None:
    """A 413 in the middle of the upload is the file's own, is final, and keeps status and reason; others are signed."""
    with strict_peer(box, require_part("nginx")) as peer:
        peer.serve({"client_max_body_size 64m": "client_max_body_size 1m"})
        box.start_daemon()
        large = [box.drop(f"large {size}", b"x" * size) for size in (1_000_000, 8_000_000)]
        small = [box.drop(f"small {number}", b"%d" % number) for number in range(20)]
        wait_until(lambda: len(box.known("failed")) == len(large), PATIENCE, "the failures")
        box.wait_signed(*small)
        assert {box.lookup(path)["reason"] for path in large} == {"http_413"}
        assert "413" in box.lookup(large[0])["error"]
        assert not box.events("gate.closed")


@pytest.mark.nginx
def test_nginx_that_closes_connections_all_the_time(box: Sandbox) -> None:
    """Connections that end after every other request, or by a restart between two files, cost nobody anything."""
    with strict_peer(box, require_part("nginx")) as peer:
        peer.serve({"keepalive_requests 100": "keepalive_requests 2"})
        box.start_daemon()
        paths = [box.drop(f"f{number}", b"%d" % number) for number in range(200)]
        box.wait_signed(*paths, seconds=PATIENCE)
        for number in range(5):
            peer.serve()
            paths.append(box.drop(f"after {number}", b"after %d" % number))
            box.wait_signed(paths[-1], seconds=PATIENCE)
        box.wait_idle()
        box.assert_exactly_signed(*paths)
        assert set(peer.times_signed().values()) == {1}
    assert {line["attempt"] for line in box.events("file.signed")} == {1}
    assert not [line for line in box.log() if line["event"] in {"gate.closed", "file.deferred", "file.failed"}]
