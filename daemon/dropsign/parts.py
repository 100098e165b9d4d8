"""What the intake and the pool share: the doors they go through, and whom they tell."""

import asyncio
from dataclasses import dataclass
from typing import Final, Protocol

from dropsign.contention import Contention
from dropsign.gate import Gate
from dropsign.journal import Journal
from dropsign.localqueue import LocalQueue
from dropsign.model import Drop, Fingerprint, Signature
from dropsign.outbox import Outbox
from dropsign.publishing import Publisher
from dropsign.signer import Signer
from dropsign.verifier import Verifier

CHANGED: Final = "changed"
"""Why a drop rests whose file moved on while it was read."""


MISSING: Final = "missing"
"""Why a FILE.sign was put back: there was none."""

OVERWRITTEN: Final = "overwritten"
"""Why a FILE.sign was put back: what had its name was not what had been published."""


class Observer(Protocol):
    """Who is told what becomes of files: logs, metrics, a progress bar."""

    def queued(self, drop: Drop, *, found: bool) -> None:
        """A settled drop waits for its signature; only a scan found it, or an event told."""

    def signed(self, drop: Drop, signature: Signature, request_seconds: float) -> None:
        """FILE.sign lies beside the drop."""

    def adopted(self, path: bytes, signature: Signature) -> None:
        """A FILE.sign that the journal did not know is kept."""

    def republished(self, path: bytes, reason: str) -> None:
        """A FILE.sign was put back from the journal: it was `MISSING`, or `OVERWRITTEN`."""

    def deferred(self, drop: Drop, reason: str, error: str, seconds: float) -> None:
        """The drop rests for some seconds."""

    def failed(self, drop: Drop, reason: str, error: str) -> None:
        """The drop is given up."""

    def refused(self, path: bytes, reason: str) -> None:
        """The file can't be signed for what it is."""

    def unseen(self, path: bytes) -> None:
        """A path could not be looked at, as its directory cannot be searched; nothing is concluded from that."""

    def changed(self, path: bytes) -> None:
        """A file changed that is signed or being signed."""

    def withdrawn(self, path: bytes) -> None:
        """A stale FILE.sign was removed."""

    def gone(self, path: bytes) -> None:
        """A known file is no longer there."""

    def unsettled(self, path: bytes, seconds: float) -> None:
        """A file never rests."""

    def unchanged(self, path: bytes, refusal: str | None = None) -> None:
        """A file came to rest and nothing was to be done about it; why it stays refused, if it does."""

    def requested(self, result: str, seconds: float) -> None:
        """A request ended."""

    def defect(self, error: Exception) -> None:
        """Something happened that the program should not let happen."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The doors, built and closed by who wires the program."""

    outbox: Outbox
    journal: Journal
    queue: LocalQueue
    signer: Signer
    gate: Gate
    publish: Publisher
    verifier: Verifier | None
    contention: Contention
    observer: Observer

    async def proves(self, path: bytes, fingerprint: Fingerprint, signature: Signature) -> bool:
        """Tell whether a signature verifies with the configured key; true where there is none.

        Raises:
            MovedOnError: the file is not that version any more.
            OSError: it cannot be read.
        """
        verifier, outbox = self.verifier, self.outbox
        if verifier is None:
            return True

        def check() -> bool:
            if not verifier.needs_content:
                return verifier.verify_digest(signature.text, signature.sha256)
            with outbox.open(path, fingerprint) as opened:
                return verifier.verify_content(signature.text, opened.read_at(0, fingerprint.size))

        return await asyncio.to_thread(check)
