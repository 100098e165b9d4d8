"""Takes a stale FILE.sign away as soon as its file is seen to change, before the new version rests.

That needs what the journal knows, and nothing written there. So while the journal cannot be written, and decisions
wait for it, signatures are withdrawn by what is committed. If the process dies, whenever that is, the row says
`signed` about another version than lies there: the scan sees it, as after any withdrawal.

A write that waits might know better: that the FILE.sign beside the file is the one of a later version. So only one
that is not newer than its file's last change goes. Should that change have been a mere touch, the decision that waits
finds another fingerprint, compares the content, and puts the signature back from the history.

While the journal cannot be read either, nothing is withdrawn: a FILE.sign older than its file's last change is stale,
or its file was only touched, and nobody knows the digest that could tell; what is taken from a thousand files that
somebody changed the mode of could be put back by nobody. The gate is shut and says so, and `verify` tells which is so.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Final

from dropsign.admission import is_stale, precedes_change
from dropsign.directory import MovedOnError
from dropsign.errors import JournalError
from dropsign.model import Entry, Look
from dropsign.parts import Parts
from dropsign.settle import Settling
from dropsign.survey import Surveyor

GROUP: Final = 256
"""Paths looked at in one go."""

_SOON_BYTES: Final = 4 * 1024 * 1024
"""A file up to this size is read at once to tell whether its FILE.sign is stale, not only when it rests."""

_SOON_SECONDS: Final = 0.1
"""A path due within this time needs no look before."""

_PATIENCE_SECONDS: Final = 0.5
"""How long the journal is waited for between two looks at what changes meanwhile."""


class Withdrawal:
    """Looks at paths that are not at rest, for signatures that are stale already."""

    def __init__(self, parts: Parts, settling: Settling, surveyor: Surveyor) -> None:
        """Begin with nothing to look at.

        Args:
            parts: what it works with.
            settling: what is restless.
            surveyor: who looks.
        """
        self._parts = parts
        self._settling = settling
        self._surveyor = surveyor
        self._fresh: dict[bytes, None] = {}  # in the order of the first notice, each once

    @property
    def is_due(self) -> bool:
        """Tell whether there is something to look at."""
        return bool(self._fresh)

    def notice(self, path: bytes) -> None:
        """Have a restless path looked at."""
        self._fresh[path] = None

    async def look(self) -> None:
        """Look at what is new, but for what is due soon anyway."""
        soon = time.monotonic() + _SOON_SECONDS
        restlesses = {path: self._settling.get(path) for path in self._next()}
        waiting = [path for path, restless in restlesses.items() if restless is not None and restless.due > soon]
        if waiting:
            looks = await self._surveyor.look(waiting, closely=False)
            await self._withdraw_stale(looks, await self.lookup(waiting))

    async def lookup(self, paths: Sequence[bytes]) -> dict[bytes, Entry]:
        """Return what the journal knows of paths, all that was written before included (see Journal.lookup).

        While that must wait, as the journal cannot be written, signatures of what changes are withdrawn.
        """
        lookup = asyncio.create_task(self._parts.journal.lookup(paths))
        looked = False
        try:
            while not (await asyncio.wait({lookup}, timeout=_PATIENCE_SECONDS))[0]:
                if not self._parts.gate.holds("journal"):
                    continue
                if not looked:  # what was due soon, or is due, was not looked at
                    self._fresh = dict.fromkeys(self._settling.paths())
                    looked = True
                while self._fresh and not lookup.done():
                    await self._look_meanwhile(self._next())
            return lookup.result()
        finally:
            lookup.cancel()

    async def _look_meanwhile(self, paths: Sequence[bytes]) -> None:
        """Look at some paths, and go by what is committed."""
        looks = await self._surveyor.look(paths, closely=False)
        try:
            known = await self._parts.journal.lookup(paths, at_once=True)
        except JournalError:
            return
        await self._withdraw_stale([look for look in looks if precedes_change(look)], known)

    def _next(self) -> list[bytes]:
        some = list(islice(self._fresh, GROUP))
        for path in some:
            del self._fresh[path]
        return some

    async def _withdraw_stale(self, looks: Sequence[Look], known: Mapping[bytes, Entry]) -> None:
        stale: list[Look] = []
        doubtful: list[Look] = []
        for look in looks:
            restless = self._settling.get(look.path)
            if restless is None or look.fingerprint is None:
                continue
            self._settling.observe(look.path, look.fingerprint, time.monotonic())
            is_known_stale = is_stale(look, known.get(look.path), written=restless.written)
            (stale if is_known_stale else doubtful).append(look)
        await self._withdraw_changed(stale)
        for look in doubtful:
            if await self._is_other_content(look, known.get(look.path)):
                await self._withdraw_changed([look])

    async def _is_other_content(self, look: Look, entry: Entry | None) -> bool:
        """Tell, of a file that looks touched, whether its content is another; a large one's is read once it rests."""
        if not is_stale(look, entry, written=True) or look.fingerprint is None or entry is None:
            return False
        if look.fingerprint.size > _SOON_BYTES:
            return False
        digest = partial(self._parts.outbox.digest, look.path, look.fingerprint)
        try:
            return await self._surveyor.run(digest) != entry.sha256
        except (MovedOnError, OSError):
            return False

    async def _withdraw_changed(self, looks: Sequence[Look]) -> None:
        for look in looks:
            self._parts.observer.changed(look.path)
        await self.withdraw([look.path for look in looks])

    async def withdraw(self, paths: Sequence[bytes]) -> None:
        """Remove each FILE.sign."""
        withdraw = partial(self._parts.outbox.withdraw, paths)
        for path in await self._surveyor.run(withdraw) if paths else ():
            self._parts.observer.withdrawn(path)
