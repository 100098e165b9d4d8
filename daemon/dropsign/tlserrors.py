"""What a broken connection or TLS handshake means, in an operator's words, and whose fault it was."""

import os
import re
import ssl
from typing import Final

from dropsign.errors import Fault, SigningError

_OF_OUR_CERTIFICATE: Final = {
    "UNKNOWN_CA": "the service does not know its authority",
    "CERTIFICATE_EXPIRED": "it has expired",
    "CERTIFICATE_REVOKED": "it has been revoked",
    "CERTIFICATE_UNKNOWN": "the service does not accept it",
    "BAD_CERTIFICATE": "the service does not accept it",
    "UNSUPPORTED_CERTIFICATE": "it is not of a kind that the service takes, such as one for clients",
    "CERTIFICATE_REQUIRED": "the service got none",
    "ACCESS_DENIED": "the service denies it access",
    "DECRYPT_ERROR": "the service finds that tls.private_key does not belong to it",
}
"""The alerts (RFC 8446, 6.2) by which a server refuses a client for its certificate."""

_DATES: Final = {
    "certificate has expired": "whoever runs the service must renew it; is this machine's clock right?",
    "certificate is not yet valid": "is this machine's clock right?",
    "certificate revoked": "whoever runs the service must replace it",
}
"""What to do about a service's certificate that is right, but not now (OpenSSL's words)."""

_NO_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL"})


def explain(error: ssl.SSLError) -> SigningError:
    """Return what a failed handshake means."""
    if isinstance(error, ssl.SSLCertVerificationError):
        why = getattr(error, "verify_message", None) or error
        remedy = _DATES.get(str(why), "check tls.authority and service.url")
        text = f"the service's certificate is not accepted: {why}; {remedy}"
        return SigningError(Fault.SERVICE, "tls", text)
    reason = error.reason or ""
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError) or reason == "UNEXPECTED_EOF_WHILE_READING":
        text = "the service closes the connection during the TLS handshake"
        return SigningError(Fault.SERVICE, "unreachable", text)
    _, is_alert, alert = reason.partition("ALERT_")
    if alert in _OF_OUR_CERTIFICATE:
        text = f"the service refuses our certificate: {_OF_OUR_CERTIFICATE[alert]}; check tls.certificate"
        return SigningError(Fault.CREDENTIALS, "credentials", text)
    if alert == "PROTOCOL_VERSION" or reason == "UNSUPPORTED_PROTOCOL":
        why = "the service speaks no version of TLS that tls.minimum_version allows"
    elif reason in _NO_TLS:
        why = "the service does not speak TLS at this address"
    elif is_alert:
        why = f"the service ends it: {alert.replace('_', ' ').lower()}"
    else:
        why = reason.replace("_", " ").lower() or str(error)
    return SigningError(Fault.SERVICE, "tls", f"the TLS handshake failed: {why}; check service.url")


def refusal_in_silence() -> SigningError:
    """Return what it means that a service closes a connection right after the handshake, unasked and wordless.

    In TLS 1.3 a server judges our certificate only after our side of the handshake is done. Some, asyncio's among
    them, then close the connection without the alert that would say why.
    """
    text = "the service closes the connection right after the handshake; it seems to refuse our certificate"
    return SigningError(Fault.CREDENTIALS, "credentials", f"{text}; check tls.certificate")


def in_words(error: Exception) -> str:
    """Return what the system says of a connection: `connection refused`."""
    # Where a name has several addresses, the text of one error holds the numbers of all.
    errno, strerror = getattr(error, "errno", None), getattr(error, "strerror", None)
    numbers = [errno] if errno else [int(number) for number in re.findall(r"\[Errno (\d+)\]", str(error))]
    texts = [os.strerror(number) for number in dict.fromkeys(numbers) if number > 0]
    text = ", ".join(texts) or strerror or "no connection"
    return text[:1].lower() + text[1:]
