"""Tells by a file's content whether a signature that exists already is its own: somebody's, or the journal's."""

import asyncio
import time
from typing import Final

from dropsign.admission import UNPUBLISHABLE, UNREADABLE, is_adoptable
from dropsign.failpoints import reach
from dropsign.model import Drop, Entry, Look, Signature, Stamp, State
from dropsign.outbox import Publication
from dropsign.parts import MISSING, OVERWRITTEN, Parts

RETRY_SECONDS: Final = 30.0
"""After this time, a signature that could not be written, or a file that could not be read, is tried again."""


class Examiner:
    """Reads content, and keeps signatures that fit it."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def adopt(self, look: Look) -> bool:
        """Keep a FILE.sign that somebody else made, if it may be the file's; return whether it was kept.

        Raises:
            MovedOnError: the file is not that version any more.
            OSError: it cannot be read.
        """
        parts, fingerprint = self._parts, look.fingerprint
        assert fingerprint is not None, "what is examined is there"
        found = await asyncio.to_thread(parts.outbox.read_sign, look.path, fingerprint)
        if found is None:
            return False
        text, stamp = found
        made = await parts.journal.made(look.path, text)
        if made is None and not is_adoptable(look):
            return False
        sha256 = await asyncio.to_thread(parts.outbox.digest, look.path, fingerprint)
        reach("examined")
        if made is not None:  # ours, and left behind by a pickup: it speaks of that content alone, of whatever age
            number, digest = made
            if digest == sha256:
                parts.journal.keep(look.path, fingerprint, number, stamp)
                parts.observer.unchanged(look.path)
            return digest == sha256
        signature = Signature(text, sha256, fingerprint.size)
        if not await parts.proves(look.path, fingerprint, signature):
            return False
        drop = Drop(look.path, fingerprint)
        parts.journal.sign(drop, signature, stamp)
        reach("adopted")
        parts.observer.adopted(look.path, signature)
        return True

    async def keep(self, look: Look, entry: Entry) -> bool:
        """Leave a version signed whose content is what was signed last, with the FILE.sign that was made for it.

        One that is missing, or was written over, is put back from the journal.

        Returns:
            Whether nothing is left to be done; else the file must be signed.

        Raises:
            MovedOnError: the file is not that version any more.
            OSError: it cannot be read.
        """
        parts, fingerprint = self._parts, look.fingerprint
        if entry.signature_id is None or fingerprint is None:
            return False
        is_version_signed = entry.fingerprint == fingerprint and entry.state is State.SIGNED
        if not is_version_signed:
            sha256 = await asyncio.to_thread(parts.outbox.digest, look.path, fingerprint)
            reach("examined")
            if sha256 != entry.sha256:
                return False
        signature = await parts.journal.signature(entry.signature_id)
        if signature is None:
            return False
        found = await asyncio.to_thread(parts.outbox.read_sign, look.path, fingerprint)
        if found is not None and found.text == signature.text:
            stamp: Stamp | None = found.stamp
            parts.observer.unchanged(look.path)
        else:
            try:
                stamp = await parts.publish(Publication(look.path, fingerprint, signature.text))
            except OSError as error:
                self._defer(look, UNPUBLISHABLE, f"cannot write beside it: {error.strerror}")
                return True
            reach("republished")
            self._tell_republished(look)
        parts.journal.keep(look.path, fingerprint, entry.signature_id, stamp)
        return True

    def _tell_republished(self, look: Look) -> None:
        if look.stamp is None:
            self._parts.observer.republished(look.path, MISSING)
        else:
            self._parts.contention.mended(look.path, time.monotonic())
            self._parts.observer.republished(look.path, OVERWRITTEN)

    def defer_reading(self, look: Look, error: OSError) -> None:
        """Leave a file that cannot be read, and the FILE.sign that may be its own, to a later time."""
        self._defer(look, UNREADABLE, f"cannot be read: {error.strerror or error}")

    def _defer(self, look: Look, reason: str, text: str) -> None:
        """Have a file rest.

        Should the process die between the two records, the drop is queued, and signed again at worst.
        """
        assert look.fingerprint is not None, "what is examined is there"
        drop = Drop(look.path, look.fingerprint, ticket=self._parts.journal.next_ticket())
        self._parts.journal.queue(drop)  # whatever it was before: only what is queued can be deferred
        self._parts.journal.defer(drop, time.time() + RETRY_SECONDS, reason, text)
        self._parts.observer.deferred(drop, reason, text, RETRY_SECONDS)
