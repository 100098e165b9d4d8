"""Whose fault an answer was: status, headers and body -> the signature, or a SigningError; pure."""

import email.utils
import json
import time
from typing import Final

from dropsign.errors import Fault, SigningError

ANSWER_MAX: Final = 256 * 1024
"""Bytes of an answer that are read; no signature is longer."""

DETAIL_MAX: Final = 500
"""Bytes of a refusal's text that are kept (contract, section 3)."""

SKEW_SECONDS: Final = 120.0
"""From this difference to the service's clock on, a refusal is blamed on the clock."""

_OVERLOADED: Final = frozenset({408, 425, 429, 503, 504})
_FORBIDDEN: Final = frozenset({401, 403})


def signature_in(status: int, answer: bytes, retry_after: str | None, skew: float | None) -> bytes:
    """Return the signature in an answer.

    Args:
        status: HTTP's.
        answer: the body, as far as it was read.
        retry_after: the header of that name.
        skew: this machine's clock minus the service's, in seconds, if that is known.

    Raises:
        SigningError: there is none; it says whose fault that is (contract, section 3).
    """
    if status == 200:  # noqa: PLR2004 - HTTP's own number
        return _sign_data(answer)
    text = answer[:DETAIL_MAX].decode("utf-8", "replace").strip()
    detail = f"the service answered {status}{': ' + text if text else ''}"
    if status in _FORBIDDEN or (status == 400 and b"SSL certificate" in answer):  # noqa: PLR2004 - nginx says so
        skew = skew or 0.0
        if abs(skew) > SKEW_SECONDS:
            text = f"this machine's clock is {skew:+.0f} s off the service's; set it (timedatectl); {detail}"
            raise SigningError(Fault.CREDENTIALS, "clock_skew", text, status=status)
        text = f"{detail}; check app_key, app_secret and certificate"
        raise SigningError(Fault.CREDENTIALS, "credentials", text, status=status)
    if status in _OVERLOADED or status >= 500:  # noqa: PLR2004 - HTTP's own number
        reason = "overloaded" if status in _OVERLOADED else "rejecting"
        wait = retry_after_seconds(retry_after)
        raise SigningError(Fault.SERVICE, reason, detail, status=status, retry_after=wait, passing=True)
    if 300 <= status < 400:  # noqa: PLR2004 - HTTP's own numbers
        raise SigningError(Fault.SERVICE, "rejecting", detail, status=status)
    if status < 400:  # noqa: PLR2004 - HTTP's own number
        raise SigningError(Fault.ANSWER, "no_signature", detail, status=status)
    raise SigningError(Fault.FILE, f"http_{status}", detail, status=status)


def _sign_data(answer: bytes) -> bytes:
    """Return the bytes of `signData` in a 200."""
    try:
        value = json.loads(answer) if len(answer) <= ANSWER_MAX else None
    except (ValueError, RecursionError):
        value = None
    text = value.get("signData") if isinstance(value, dict) else None
    try:
        signature = text.encode("utf-8") if isinstance(text, str) else b""
    except UnicodeEncodeError:
        signature = b""
    if not signature:
        shown = answer[:DETAIL_MAX].decode("utf-8", "replace")
        raise SigningError(Fault.ANSWER, "no_signature", f"the service answered 200 without a signature: {shown}")
    return signature


def retry_after_seconds(value: str | None) -> float | None:
    """Return the seconds that `Retry-After` asks for, given as seconds or as a date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    value = value.strip(" \t")
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
