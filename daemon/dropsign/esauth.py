"""The es-auth request signature, as pure functions fed in pieces (protocol.md, 'Request').

The hash covers the percent-encoding of a text that is fixed but for base64 in its middle, so it can be fed
piece by piece: memory does not grow with the file. In base64 only `+`, `/` and `=` need encoding.
"""

import hashlib
import os
import string
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote_from_bytes

BODY_HEAD: Final = b'{"data":"'
BODY_TAIL: Final = b'"}'

PIECE: Final = 48 * 1024
"""Bytes of content to encode at a time: a multiple of three, and small enough to stay in a core's cache.

Measured: about 480 MB/s with 48 KiB pieces, 360 MB/s with 3 MiB ones.
"""

HEADER_KEY: Final = "es-auth-appkey"
HEADER_NONCE: Final = "es-auth-nonce"
HEADER_TIMESTAMP: Final = "es-auth-timestamp"
HEADER_SIGN: Final = "es-auth-sign"

_NONCE_LENGTH: Final = 16
_ALPHABET: Final = (string.ascii_letters + string.digits).encode()
_FAIR: Final = 256 // len(_ALPHABET) * len(_ALPHABET)
"""Random bytes from here up are passed over, so that no character is likelier than another."""
_TO_ALPHABET: Final = bytes(_ALPHABET[byte % len(_ALPHABET)] for byte in range(256))
_UNFAIR: Final = bytes(range(_FAIR, 256))


@dataclass(frozen=True, slots=True)
class Application:
    """Who asks: the application key, and the secret that never leaves this process."""

    key: str
    secret: str = field(repr=False)


def new_nonce() -> str:
    """Return 16 characters of `[a-zA-Z0-9]` from a cryptographic source, fresh for every attempt."""
    nonce = b""
    while len(nonce) < _NONCE_LENGTH:
        nonce += os.urandom(2 * _NONCE_LENGTH).translate(_TO_ALPHABET, _UNFAIR)
    return nonce[:_NONCE_LENGTH].decode("ascii")


def body_length(size: int) -> int:
    """Return the length in bytes of the request body for `size` bytes of content."""
    return len(BODY_HEAD) + (size + 2) // 3 * 4 + len(BODY_TAIL)


def quote(text: bytes) -> bytes:
    """Percent-encode all but the unreserved characters of RFC 3986, with upper-case hex."""
    return quote_from_bytes(text, safe="").encode("ascii")


def quote_base64(text: bytes) -> bytes:
    """Do the same as `quote` for standard base64, many times faster."""
    quoted = text.replace(b"+", b"%2B").replace(b"/", b"%2F")
    return quoted.replace(b"=", b"%3D") if text.endswith(b"=") else quoted


class RequestSigner:
    """Makes the `es-auth-sign` of requests to one path by one application."""

    def __init__(self, application: Application, path: str, method: str = "POST") -> None:
        self._start = hashlib.sha256(quote(f"{method}{path}{HEADER_KEY}:{application.key}{HEADER_NONCE}:".encode()))
        self._end = quote(BODY_TAIL + application.secret.encode())

    def begin(self, nonce: str, timestamp: str) -> "RequestHash":
        """Start the hash of one attempt.

        Args:
            nonce: see `new_nonce`.
            timestamp: Unix time in milliseconds, decimal.
        """
        state = self._start.copy()
        state.update(quote(f"{nonce}{HEADER_TIMESTAMP}:{timestamp}json=".encode() + BODY_HEAD))
        return RequestHash(state, self._end)


class RequestHash:
    """The running hash of one attempt; feed it the body's base64 in order, in pieces of any length."""

    __slots__ = ("_end", "_state")

    def __init__(self, state: "hashlib._Hash", end: bytes) -> None:
        self._state = state
        self._end = end

    def feed(self, base64_text: bytes) -> None:
        """Add the next piece of the base64 between the body's head and tail."""
        self._state.update(quote_base64(base64_text))

    def finish(self) -> str:
        """Return the value of the `es-auth-sign` header."""
        self._state.update(self._end)
        return self._state.hexdigest()
