"""How strictly the embedded service takes the protocol: body, timestamp, nonce and signature of one request."""

import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Final

import pybase64

from dropsign import esauth

WINDOW_MS: Final = 5 * 60 * 1000
"""Milliseconds that a request's timestamp may be off, both ways."""

_NONCE: Final = re.compile(r"[a-zA-Z0-9]{16}")
_DECIMAL: Final = re.compile(r"[0-9]{1,15}")
_QUAD: Final = 4
_TAIL: Final = len(esauth.BODY_TAIL)


class RefusedError(Exception):
    """The request is not answered with a signature; says with which status, and why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Nonces:
    """Remembers the nonces in use, so that no request is answered twice.

    Memory is bounded: what is forgotten, because its time is over or there are too many, moves the time before which
    no request is taken any more.
    """

    def __init__(self, limit: int = 1_000_000) -> None:
        self._limit = limit
        self._times: dict[str, int] = {}
        self._floor = 0

    def take(self, nonce: str, time_ms: int, now_ms: int) -> None:
        """Use up a nonce.

        Raises:
            RefusedError: it was used before, or its time is not now.
        """
        if abs(time_ms - now_ms) > WINDOW_MS or time_ms <= self._floor:
            msg = f"{esauth.HEADER_TIMESTAMP} is more than {WINDOW_MS // 60_000} minutes off this service's clock"
            raise RefusedError(401, msg)
        if nonce in self._times:
            msg = f"{esauth.HEADER_NONCE} was used before"
            raise RefusedError(401, msg)
        self._times[nonce] = time_ms
        self._forget(now_ms)

    def give_back(self, nonce: str) -> None:
        """Let a nonce be used after all: who used it could not prove to be the application."""
        self._times.pop(nonce, None)

    def _forget(self, now_ms: int) -> None:
        """Forget the oldest, a few at a time: one nonce comes, so two going is fast enough."""
        for _ in range(2):
            oldest = next(iter(self._times))
            time_ms = self._times[oldest]
            if time_ms >= now_ms - WINDOW_MS and len(self._times) <= self._limit:
                return
            del self._times[oldest]
            self._floor = max(self._floor, time_ms)

    def __len__(self) -> int:
        return len(self._times)


class RequestCheck:
    """One request whose body comes in pieces; memory does not grow with it.

    Attributes:
        size: bytes of content so far.
        nonce: the request's.
    """

    def __init__(self, headers: Mapping[str, str], signer: esauth.RequestSigner, app_key: str) -> None:
        """Begin with the headers.

        Raises:
            RefusedError: they are not those of the application.
        """
        try:
            key, self.nonce, self._timestamp, self._claimed = (
                headers[name]
                for name in (esauth.HEADER_KEY, esauth.HEADER_NONCE, esauth.HEADER_TIMESTAMP, esauth.HEADER_SIGN)
            )
        except KeyError as error:
            msg = f"{error.args[0]} is missing"
            raise RefusedError(401, msg) from None
        if not _same(key, app_key):
            msg = f"{esauth.HEADER_KEY} is unknown"
            raise RefusedError(401, msg)
        if not _NONCE.fullmatch(self.nonce):
            msg = f"{esauth.HEADER_NONCE} is not 16 characters of [a-zA-Z0-9]"
            raise RefusedError(401, msg)
        if not _DECIMAL.fullmatch(self._timestamp):
            msg = f"{esauth.HEADER_TIMESTAMP} is not milliseconds in decimal"
            raise RefusedError(401, msg)
        self._hash = signer.begin(self.nonce, self._timestamp)
        self._content = hashlib.sha256()
        self.size = 0
        self._pending = b""
        self._headless = False
        self._padded = False

    @property
    def time_ms(self) -> int:
        """The request's timestamp."""
        return int(self._timestamp)

    def feed(self, piece: bytes) -> None:
        """Add the next piece of the body.

        Raises:
            RefusedError: it is not `{"data":"<base64>"}`.
        """
        text = self._pending + piece if self._pending else piece
        if not self._headless:
            if len(text) < len(esauth.BODY_HEAD):
                self._pending = text
                return
            if not text.startswith(esauth.BODY_HEAD):
                raise _malformed()
            text = text[len(esauth.BODY_HEAD) :]
            self._headless = True
        # What may be the tail is held back, and so is what does not fill a group of four.
        end = max(0, len(text) - _TAIL) // _QUAD * _QUAD
        self._pending = text[end:]
        if not end:
            return
        whole = text[:end]
        try:
            content = pybase64.b64decode(whole, validate=True)
        except (binascii.Error, ValueError):
            raise _malformed() from None
        if self._padded:
            raise _malformed()
        self._padded = whole.endswith(b"=")
        self._hash.feed(whole)
        self._content.update(content)
        self.size += len(content)

    def finish(self) -> bytes:
        """Return the SHA-256 of the content, once the whole body was fed.

        Raises:
            RefusedError: the body is not whole, or the signature does not fit.
        """
        if not self._headless or self._pending != esauth.BODY_TAIL:
            raise _malformed()
        if not _same(self._hash.finish(), self._claimed):
            msg = f"{esauth.HEADER_SIGN} does not fit"
            raise RefusedError(401, msg)
        return self._content.digest()


def _same(left: str, right: str) -> bool:
    return hmac.compare_digest(left.encode("utf-8", "surrogateescape"), right.encode("utf-8", "surrogateescape"))


def _malformed() -> RefusedError:
    return RefusedError(400, 'the body is not {"data":"<base64>"}, without spaces')
