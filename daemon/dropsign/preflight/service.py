"""Whether the service answers: a handshake, a signature, and its clock."""

import asyncio
import time
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from dropsign import credentials
from dropsign.config import Configuration, Service, Verify
from dropsign.errors import ConfigurationError, CredentialsError, Fault, SigningError
from dropsign.preflight.finding import Finding, Level, Setup, fail, ok, warn
from dropsign.signer import Signer
from dropsign.verdict import SKEW_SECONDS
from dropsign.verifier import Verifier

SOME_SKEW_SECONDS: Final = 5.0

PROBE: Final = b"dropsign check --probe\n"


def check(setup: Setup) -> Iterator[Finding]:
    """Ask the service for a signature, as the daemon will."""
    try:
        loaded = credentials.load(setup.configuration, setup.environment)
    except ConfigurationError:
        yield fail("service.url", "was not asked", "put the credentials right first")
        return
    yield from asyncio.run(_ask(setup.configuration, loaded))


async def _ask(configuration: Configuration, loaded: credentials.Credentials) -> list[Finding]:
    """Shake hands, have a few bytes signed, and compare the clocks."""
    findings = []
    service = configuration.service
    signer = Signer(service, loaded)
    try:
        if (handshake := await _shake_hands(service, loaded)) is not None:
            findings.append(handshake)
        began = time.monotonic()
        signature = await signer.sign_bytes(PROBE)
        took = (time.monotonic() - began) * 1000
        findings.append(ok("service.url", f"a signature of {len(signature.text)} bytes in {took:.0f} ms"))
        findings.extend(_verified(configuration.verify, signature.text))
    except SigningError as error:
        # What the service said ends where it ends, whatever is in it; after our own words comes the remedy.
        is_quoted = error.status is not None and error.fault is not Fault.CREDENTIALS
        message, _, remedy = (str(error), "", "") if is_quoted else str(error).partition("; ")
        down = error.fault is Fault.SERVICE and error.reason != "tls"
        remedy = remedy or ("see that the service runs" if down else "check service.url and service.sign_path")
        findings.append(Finding(Level.FAIL, "service.url", message, remedy, unreachable=down))
    finally:
        await signer.close()
    if (skew := signer.clock_skew_seconds) is not None:
        findings.append(_clock(skew))
    return findings


async def _shake_hands(service: Service, loaded: credentials.Credentials) -> Finding | None:
    """Report the handshake; where it fails, nothing: the signer will say why."""
    parts = urlsplit(service.url)
    try:
        async with asyncio.timeout(service.connect_timeout_seconds):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port or 443, ssl=loaded.context)
    except (OSError, TimeoutError):
        return None
    session = writer.get_extra_info("ssl_object")
    writer.transport.abort()
    ends = session.getpeercert()["notAfter"]
    return ok("service.url", f"{session.version()} with {parts.hostname}, whose certificate is valid until {ends}")


def _verified(given: Verify, signature: bytes) -> Iterator[Finding]:
    try:
        verifier = Verifier.load(given.key, given.scheme) if given.key is not None else None
    except CredentialsError:
        return  # identity.verification said so
    if verifier is not None and verifier.verify_content(signature, PROBE):
        yield ok("verify.key", "the service's signature verifies with it")
    elif verifier is not None:
        remedy = "check that key and scheme are the service's"
        yield fail("verify.key", "the service's signature does not verify with it", remedy)


def _clock(skew: float) -> Finding:
    message = f"{skew:+.0f} s against the service's"
    if abs(skew) > SKEW_SECONDS:
        return fail("clock", message, "set it: timedatectl set-ntp true")
    if abs(skew) > SOME_SKEW_SECONDS:
        return warn("clock", message, "keep it right: timedatectl set-ntp true")
    return ok("clock", message)
