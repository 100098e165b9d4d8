"""The nouns: what a drop, its fingerprint, its signature and its journal entry are. Plain values, no behaviour."""

import os
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

SIGN_SUFFIX = b".sign"
"""What is added to a drop's name to give the name of its signature (contract, section 2)."""

ERROR_SUFFIX = b".sign-error"
"""The name of the note for people beside a failed drop (contract, section 3)."""

NAME_MAX = 255
"""Bytes in a file name, on every Linux file system of note (limits.h)."""

_INTEGER_MAX = 2**63 - 1
"""The journal holds no larger number. Some file systems' inodes and times far from now are."""


class Fingerprint(NamedTuple):
    """Identifies one version of a file's content without reading it.

    The times are nanoseconds since the epoch. ctime is the one no user can set.
    """

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Fingerprint":
        """Take the fingerprint from a stat result."""
        inode, mtime_ns = status.st_ino & _INTEGER_MAX, status.st_mtime_ns
        if not -_INTEGER_MAX <= mtime_ns <= _INTEGER_MAX:  # anyone may set it; ctime_ns tells such versions apart
            mtime_ns = max(-_INTEGER_MAX, min(mtime_ns, _INTEGER_MAX))
        return cls(status.st_dev, inode, status.st_size, mtime_ns, status.st_ctime_ns)


class Stamp(NamedTuple):
    """Tells a FILE.sign from whatever else somebody puts in its place: no user can set either.

    ctime_ns is nanoseconds since the epoch.
    """

    inode: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Stamp":
        """Take the stamp from a stat result."""
        return cls(status.st_ino & _INTEGER_MAX, status.st_ctime_ns)


class State(StrEnum):
    """What the journal knows of a drop; the legal moves are in states.py."""

    QUEUED = "queued"
    DEFERRED = "deferred"
    SIGNED = "signed"
    FAILED = "failed"
    REFUSED = "refused"


class Notice(StrEnum):
    """Why someone says 'look at this path'."""

    CREATED = "created"
    MODIFIED = "modified"
    CLOSED = "closed"
    MOVED = "moved"
    FOUND = "found"
    """Found by a scan."""
    ASKED = "asked"
    """Asked for by an operator."""
    BESIDE = "beside"
    """Somebody else wrote its FILE.sign."""


class Look(NamedTuple):
    """How a path looked at one instant.

    Attributes:
        path: relative to the outbox, as bytes.
        fingerprint: of the file; None when it is gone (or never was a file).
        refusal: why it can't be signed for what it is, if so.
        writer: whether a process holds it open for writing; None when the kernel can't tell.
        sign_mtime_ns: modification time of its FILE.sign, if there is one; a directory of that name is none.
        stamp: of whatever has the name FILE.sign.
    """

    path: bytes
    fingerprint: Fingerprint | None = None
    refusal: str | None = None
    writer: bool | None = None
    sign_mtime_ns: int | None = None
    stamp: Stamp | None = None


@dataclass(slots=True)
class Drop:
    """One settled version of one file on its way to a signature.

    Attributes:
        path: relative to the outbox, as bytes.
        fingerprint: the version.
        attempts: charged so far.
        settled_at: seconds since the epoch when it came to rest, or when somebody asked for it anew; 0 where unknown.
        ticket: its place in the queue; a lower one goes first.
        failures: how often it was not signed, to whoever's account that was put; known to this process alone.
    """

    path: bytes
    fingerprint: Fingerprint
    attempts: int = 0
    settled_at: float = 0.0
    ticket: int = 0
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Signature:
    """What the service gave for some content.

    Attributes:
        text: exactly the bytes that belong into FILE.sign.
        sha256: digest of the content that it signs.
        size: of that content, in bytes.
        proof: the SHA-256 of the certificate that the service showed, and the serial number (in hexadecimal) of the
            one that we did; None for a signature that was not asked for by us.
    """

    text: bytes
    sha256: bytes
    size: int
    proof: tuple[bytes, str] | None = None


class SignFile(NamedTuple):
    """A FILE.sign that was read: its content, and its stamp before that."""

    text: bytes
    stamp: Stamp


@dataclass(slots=True)
class Entry:
    """What the journal knows of one path.

    Attributes:
        path: relative to the outbox, as bytes.
        state: see `State`.
        fingerprint: the version that the state speaks of.
        sha256: digest of the content last signed under this path.
        signature_id: the journal's number of that signature.
        attempts: charged to this version.
        not_before: seconds since the epoch; a deferred drop rests until then.
        since: seconds since the epoch when it came into this state; or, queued or deferred, when it came to rest.
        reason: short name of the last error.
        error: its text.
        signed_size: size in bytes of the content last signed under this path.
        text: that signature's.
        signed_at: seconds since the epoch when that was.
        service: SHA-256 of the certificate that the service showed then.
        client: serial number of ours, in hex.
        stamp: of the FILE.sign that was published or kept for this version; None where it is not known.
    """

    path: bytes
    state: State
    fingerprint: Fingerprint
    sha256: bytes | None = None
    signature_id: int | None = None
    attempts: int = 0
    not_before: float = 0.0
    since: float = 0.0
    reason: str | None = None
    error: str | None = None
    signed_size: int | None = None
    text: bytes | None = None
    signed_at: float | None = None
    service: bytes | None = None
    client: str | None = None
    stamp: Stamp | None = None


class Known(NamedTuple):
    """What the journal knows of one name in a directory, as far as a scan needs it."""

    name: bytes
    state: State
    fingerprint: Fingerprint
    stamp: Stamp | None = None
