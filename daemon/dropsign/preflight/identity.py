"""Who the daemon is: its user, its credentials, and the certificates in them."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID

from dropsign.credentials import load
from dropsign.errors import ConfigurationError, CredentialsError
from dropsign.preflight.finding import Finding, Level, Setup, fail, mistake, ok, warn
from dropsign.regular import open_regular
from dropsign.verifier import Verifier

EXPIRES_SOON: Final = timedelta(days=30)


def user(_setup: Setup) -> Iterator[Finding]:
    """Warn of root, who sees permissions with other eyes than the daemon."""
    if os.geteuid() == 0:
        yield warn(
            "user",
            "root may do everything, so permissions prove nothing",
            "run it as the daemon's user: sudo -u dropsign",
        )


def credentials(setup: Setup) -> Iterator[Finding]:
    """Check that keys, certificates and secrets are there, private, and fit each other."""
    mistakes: list[Finding] = []
    try:
        load(setup.configuration, setup.environment)
    except ConfigurationError as error:
        mistakes = [mistake(text) for text in error.mistakes]
    said = {
        "tls.certificate": "can be read",
        "tls.private_key": "nobody else can read it" + ("" if mistakes else ", and it fits the certificate"),
        "tls.authority": "can be read",
        "service.app_key": "is set",
        "service.app_secret_file": "is set; nobody else can read it",
    }
    yield from mistakes
    for subject, message in said.items():
        if not any(finding.subject.startswith(subject) for finding in mistakes):
            yield ok(subject, message)


def certificates(setup: Setup) -> Iterator[Finding]:
    """Check what the certificates say: dates, order and purpose."""
    tls = setup.configuration.tls
    now = datetime.now(UTC)
    for key, given, credential in (
        ("tls.certificate", tls.certificate, "client_certificate"),
        ("tls.authority", tls.authority, "authority"),
    ):
        path = given or Path(setup.environment.get("CREDENTIALS_DIRECTORY", "/nonexistent")) / credential
        try:
            with open_regular(path) as file:
                chain = x509.load_pem_x509_certificates(file.read())
        except (OSError, ValueError):
            continue  # `credentials` said so
        for at, certificate in enumerate(chain):
            finding = _dates(key, certificate, now)
            if at > 0 or finding.level is not Level.FAIL:  # of the first, `credentials` said so
                yield finding
        yield from _client(key, chain) if key == "tls.certificate" else _authority(key, chain)


def verification(setup: Setup) -> Iterator[Finding]:
    """Check the key that signatures are checked with."""
    given = setup.configuration.verify
    if given.key is None:
        remedy = "set it to the service's public key, and no wrong signature is ever published"
        yield warn("verify.key", "is not set; signatures are published as they come", remedy)
        return
    try:
        Verifier.load(given.key, given.scheme)
    except CredentialsError as error:
        yield from map(mistake, error.mistakes)
    else:
        yield ok("verify.key", f"fits {given.scheme}")


def _dates(key: str, certificate: x509.Certificate, now: datetime) -> Finding:
    name, ends = certificate.subject.rfc4514_string() or "without a name", certificate.not_valid_after_utc
    remedy = (
        "ask whoever runs the service for the new one"
        if key == "tls.authority"
        else "ask the authority for a new one; dropsign keygen makes the request"
    )
    if not certificate.not_valid_before_utc <= now:
        return fail(key, f"{name} is not valid before {certificate.not_valid_before_utc}", "check this machine's clock")
    if ends <= now:
        return fail(key, f"{name} expired on {ends:%Y-%m-%d}", remedy)
    if ends - now < EXPIRES_SOON:
        return warn(key, f"{name} expires on {ends:%Y-%m-%d}, in {(ends - now).days} days", remedy)
    return ok(key, f"{name} is valid until {ends:%Y-%m-%d}")


def _client(key: str, chain: list[x509.Certificate]) -> Iterator[Finding]:
    for below, above in pairwise(chain):
        try:
            below.verify_directly_issued_by(above)
        except (ValueError, TypeError, InvalidSignature):
            name = below.subject.rfc4514_string()
            remedy = "put our certificate first, then each intermediate after what it issued"
            yield fail(key, f"{name} was not issued by the certificate after it", remedy)
            return
    try:
        usage = chain[0].extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])  # not restricted
    if not {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(usage):
        yield fail(key, "is not for TLS clients (extended key usage)", "ask the authority for a client certificate")
    else:
        yield ok(key, f"is made for TLS clients, with {len(chain) - 1} intermediates in good order")


def _authority(key: str, chain: list[x509.Certificate]) -> Iterator[Finding]:
    for certificate in chain:
        try:
            authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        except x509.ExtensionNotFound:
            authority = False
        if not authority:
            name = certificate.subject.rfc4514_string()
            yield warn(key, f"{name} is not an authority's", "give the certificates of the service's authority alone")
