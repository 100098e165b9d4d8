"""Which certificate the service showed on the connection that an answer came over."""

import hashlib
import ssl
from typing import Final
from weakref import WeakKeyDictionary

import aiohttp
from aiohttp.connector import Connection

_known: Final[WeakKeyDictionary[ssl.SSLObject, bytes]] = WeakKeyDictionary()
"""Computed once a connection."""


class PeerResponse(aiohttp.ClientResponse):
    """An answer that remembers whose it is."""

    peer: bytes = b""

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """Begin to read; a short answer's connection is given back before anybody could ask it."""
        if connection.transport is not None:
            self.peer = _fingerprint(connection.transport.get_extra_info("ssl_object"))
        return await super().start(connection)


def service_certificate(response: aiohttp.ClientResponse) -> bytes:
    """Return the SHA-256 fingerprint of the certificate of whoever answered."""
    assert isinstance(response, PeerResponse), "the session makes no others"
    return response.peer


def _fingerprint(tls: ssl.SSLObject | None) -> bytes:
    if tls is None:
        return b""
    found = _known.get(tls)
    if found is None:
        found = _known[tls] = hashlib.sha256(tls.getpeercert(binary_form=True) or b"").digest()
    return found
