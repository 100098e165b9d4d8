"""The audit chain: the record of each signature made, whose hash covers the record before it."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from hashlib import sha256
from json.encoder import encode_basestring_ascii as quoted
from typing import Final, NamedTuple


class Record(NamedTuple):
    """One signature made.

    Attributes:
        number: its place in the chain, from 1 on without gaps.
        at: when it was recorded, in seconds since the epoch.
        path: of the file, relative to the outbox.
        size: of the content, in bytes.
        sha256: digest of the content.
        signature: what FILE.sign holds.
        service: SHA-256 of the certificate that the service showed; None for a FILE.sign of somebody else's.
        client: serial number of the certificate that we showed, in hexadecimal; None as above.
        attempt: which one it was, from 1 on; 0 as above.
    """

    number: int
    at: float
    path: bytes
    size: int
    sha256: bytes
    signature: bytes
    service: bytes | None
    client: str | None
    attempt: int


class Head(NamedTuple):
    """An end of the chain: the number and the hash of a record."""

    number: int
    hash: bytes


GENESIS: Final = Head(0, bytes(32))
"""What the first record takes for the one before it."""


class Link(NamedTuple):
    """A record as it is stored: with its hash, and what stands before it."""

    record: Record
    hash: bytes
    before: Head


class Flaw(NamedTuple):
    """What is wrong with one place in the chain.

    Attributes:
        number: of the record.
        path: of its file; None where the record is missing.
        problem: what is wrong, for people.
    """

    number: int
    path: bytes | None
    problem: str


def text(record: Record, before: bytes) -> str:
    """Return what a record's hash covers: its exported line of JSON, without the hash."""
    number, at, path, size, content, signature, service, client, attempt = record
    # Written out, as this is paid for each signature: a general encoder takes three times as long.
    return (
        f'{{"number":{number},"time":"{_time(at)}","path":{quoted(path.decode("utf-8", "surrogateescape"))},'
        f'"size":{size},"sha256":"{content.hex()}",'
        f'"signature":{quoted(signature.decode("utf-8", "surrogateescape"))},'
        f'"service_certificate":{"null" if service is None else quoted(service.hex())},'
        f'"client_certificate":{"null" if client is None else quoted(client)},'
        f'"attempt":{attempt},"previous":"{before.hex()}"}}'
    )


def digest(record: Record, before: bytes) -> bytes:
    """Return a record's hash.

    Args:
        record: which.
        before: the hash of the record before it.
    """
    return sha256(text(record, before).encode("ascii")).digest()


def line(link: Link) -> str:
    """Return a link as its line of an export: `text` with the hash as last member."""
    return f'{text(link.record, link.before.hash)[:-1]},"hash":"{link.hash.hex()}"}}'


class Audit:
    """Verifies a chain as it passes.

    Attributes:
        count: how many records passed.
        head: the last of them.
        is_held: whether the hash that was asked for belongs to one of them (or is where they begin).
    """

    def __init__(self, anchor: Head, wanted: bytes | None = None) -> None:
        """Begin.

        Args:
            anchor: what the first record follows.
            wanted: a hash that the chain must hold.
        """
        self.count = 0
        self.head = anchor
        self._wanted = wanted
        self.is_held = wanted in {None, anchor.hash, GENESIS.hash}

    def flaws(self, links: Iterable[Link]) -> Iterator[Flaw]:
        """Yield what is wrong; each record is held against the stored hash of the one before."""
        for record, stored, before in links:
            expected = before.number + 1
            if record.number > expected:
                last = record.number - 1
                yield Flaw(expected, None, "is missing" if last == expected else f"to {last} are missing")
            elif digest(record, before.hash) != stored:
                problem = "does not fit its hash: it, or the one before it, was changed or moved"
                yield Flaw(record.number, record.path, problem)
            self.count += 1
            self.head = Head(record.number, stored)
            self.is_held = self.is_held or stored == self._wanted


def _time(at: float) -> str:
    """Return a time in UTC, as RFC 3339; any number has a text, as a tampered one must have a hash."""
    try:
        return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return repr(at)
