"""A signing service that misbehaves with some files on purpose, in ways that the embedded one does not know."""

import base64
import json
import re
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from typing import Final

from tests.support.sandbox import Sandbox, sha256

Misbehaviour = Callable[["RudePeer", ssl.SSLSocket, bytes], None]
"""Answers the request that carried some content, or does not; what it leaves unanswered is closed."""


def reply(connection: ssl.SSLSocket, status: str, body: bytes, *headers: str) -> None:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    connection.sendall("\r\n".join(head).encode() + b"\r\n\r\n" + body)


def sign(peer: "RudePeer", connection: ssl.SSLSocket, content: bytes) -> None:
    peer.signed[sha256(content)] += 1
    reply(connection, "200 OK", json.dumps({"signData": peer.box.sign(content).decode()}).encode())


def hang(peer: "RudePeer", _: ssl.SSLSocket, __: bytes) -> None:
    peer.over.wait()


def hang_in_the_answer(peer: "RudePeer", connection: ssl.SSLSocket, _: bytes) -> None:
    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n{"signData":"MEUCIQ')
    peer.over.wait()


def close_in_the_answer(_: "RudePeer", connection: ssl.SSLSocket, __: bytes) -> None:
    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n{"signData":"MEUCIQ')
    raise ConnectionAbortedError


def reset(_: "RudePeer", connection: ssl.SSLSocket, __: bytes) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise ConnectionAbortedError


def no_http(_: "RudePeer", connection: ssl.SSLSocket, __: bytes) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
    raise ConnectionAbortedError


def unavailable(_: "RudePeer", connection: ssl.SSLSocket, __: bytes) -> None:
    reply(connection, "503 Service Unavailable", b"")


def clock_off(_: "RudePeer", connection: ssl.SSLSocket, __: bytes) -> None:
    reply(connection, "401 Unauthorized", b"timestamp", f"Date: {formatdate(time.time() + 3600, usegmt=True)}")


def empty(_: "RudePeer", connection: ssl.SSLSocket, __: bytes) -> None:
    reply(connection, "200 OK", b'{"signData":""}')


WRONG: Final[dict[str, tuple[Misbehaviour, str, str]]] = {
    "hang": (hang, "unreachable", "no answer within 1 s"),
    "hang in the answer": (hang_in_the_answer, "unreachable", "no answer within 1 s"),
    "close in the answer": (close_in_the_answer, "unreachable", "in the middle of its answer"),
    "reset": (reset, "unreachable", "the service c[a-z]+ the connection"),
    "no HTTP": (no_http, "unreachable", "does not speak HTTP"),
    "503": (unavailable, "overloaded", "answered 503"),
    "clock": (clock_off, "clock_skew", "this machine's clock is -3[56][0-9][0-9] s off"),
}
"""Misbehaviours that are the service's fault: what they do, the gate's reason, and what its line says."""


class RudePeer:
    """Listens where a sandbox's configuration looks for the service; a thread for each connection."""

    def __init__(self, box: Sandbox, behave: Callable[[bytes], Misbehaviour], *, cuts_idle: bool) -> None:
        self.box = box
        self.behave = behave
        self.signed: Counter[str] = Counter()
        self.cut = 0
        self.over = threading.Event()
        self._cuts_idle = cuts_idle
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(box.server.certificate, box.server.private_key)
        self._context.load_verify_locations(box.authority.certificate)
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._listening = socket.create_server(("127.0.0.1", box.port), backlog=128)
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self.over.set()
        self.refuse()
        for thread in self._threads:
            thread.join(20)

    def refuse(self) -> None:
        """Take no more connections; those that there are go on."""
        with suppress(OSError):  # as it did before
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(20)
            with self._context.wrap_socket(connection, server_side=True) as wrapped:
                wrapped.settimeout(0.2)
                while (content := self._receive(wrapped)) is not None:
                    self.behave(content)(self, wrapped, content)
                    if self._cuts_idle:  # as it looks when the next request crosses the end of the idle time
                        self._receive(wrapped)
                        self.cut += 1
                        reset(self, wrapped, b"")

    def _receive(self, connection: ssl.SSLSocket) -> bytes | None:
        """Return the content of the next request; None at the end."""
        received = b""
        while not self.over.is_set():
            head, found, body = received.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head) if found else None
            if length is not None and len(body) >= int(length[1]):
                return base64.b64decode(json.loads(body)["data"])
            try:
                piece = connection.recv(65536)
            except TimeoutError:
                continue
            if not piece:
                return None
            received += piece
        return None


@contextmanager
def rude_peer(box: Sandbox, behave: Callable[[bytes], Misbehaviour], *, cuts_idle: bool = False) -> Iterator[RudePeer]:
    """Run one instead of the embedded service.

    Args:
        box: whose service it takes the place of.
        behave: says how each content is answered.
        cuts_idle: every connection is reset as soon as its second request comes.
    """
    box.stop_service()
    peer = RudePeer(box, behave, cuts_idle=cuts_idle)
    try:
        yield peer
    finally:
        peer.close()
