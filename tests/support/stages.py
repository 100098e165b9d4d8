"""An outbox with files at every stage of their way, beside a journal as an earlier run of the daemon left it."""

import os
import time
from pathlib import Path
from typing import Final

from dropsign.journal import Journal
from dropsign.model import Drop, Fingerprint, Signature
from tests.support.sandbox import Sandbox, sha256

LARGEST_MIB: Final = 1
"""What the service takes; larger files fail at once."""

_LEFTOVER: Final = ".dropsign-0123456789ab-{}.tmp"


class Stages:
    """Files for which something different is to be done each, and what must have become of them in the end."""

    def __init__(self, box: Sandbox) -> None:
        """Make what an earlier run left, two of each kind, and change it since."""
        self._box = box
        self.signed: set[Path] = set()
        """Files that must end with a signature."""
        self.failed: set[Path] = set()
        self.refused: set[Path] = set()
        self.picked_up: set[Path] = set()
        """Files that are gone, and left their signatures."""
        self.unsent: set[str] = set()
        """SHA-256 of contents that need no request."""
        self.republished: set[Path] = set()
        self._rounds = 0
        journal = Journal(box.journal)
        names = ("rewritten", "touched", "bare", "gone", "linked")
        known = {name: [self._known(journal, f"{name}{number}") for number in range(2)] for name in names}
        mended = [self._given_up(journal, f"mended{number}") for number in range(2)]
        self._given_up(journal, "unmended")
        for number in range(2):
            self._rested(journal, f"rested{number}")
        journal.close()
        for path in known["rewritten"]:
            path.write_bytes(path.read_bytes().upper())
        for path in known["touched"]:
            os.utime(path)
            self.unsent.add(sha256(path.read_bytes()))
        for path in known["bare"]:
            box.sign_of(path).unlink()
            self.republished.add(path)
        self.unsent |= {sha256(path.read_bytes()) for path in self.republished}
        for path in known["gone"]:
            self._pick_up(path)
        for path in known["linked"]:
            path.unlink()
            path.symlink_to(box.config)
            self._now(path, self.refused)
        for path in mended:
            path.write_bytes(b"mended " + os.fsencode(path.name))
            path.with_name(path.name + ".sign-error").write_text("http_400: for some reason\n")
            self._now(path, self.signed)
        for number in range(2):
            foreign = box.drop(f"foreign{number}", b"foreign %d" % number)
            box.sign_of(foreign).write_bytes(box.sign(foreign.read_bytes()))
            self.signed.add(foreign)
            self.unsent.add(sha256(foreign.read_bytes()))
            (box.outbox / _LEFTOVER.format(number)).write_bytes(b"half a sign")

    def go_on(self) -> None:
        """Do to the outbox once more what people do: drop, rewrite, pick up; takes a good tenth of a second."""
        box, number = self._box, self._rounds
        self._rounds += 1
        moving = box.drop(f"moving{number}", b"moving %d" % number)
        fresh = [box.drop(f"nested/fresh{number}-{index}", b"fresh %d %d" % (number, index)) for index in range(4)]
        large = box.drop(f"large{number}", number.to_bytes(4, "big") * 100_000)
        too_large = box.drop(f"too-large{number}", number.to_bytes(4, "big") * (LARGEST_MIB * 300_000))
        unreadable = box.outbox / f"unreadable{number}"
        with open(unreadable, "wb", opener=lambda path, flags: os.open(path, flags, 0)) as file:
            file.write(b"unreadable %d" % number)
        self.signed |= {moving, *fresh, large, unreadable}
        self.failed.add(too_large)
        if number:  # by now it is signed, or on its way
            (box.outbox / f"nested/fresh{number - 1}-0").write_bytes(b"fresh %d again" % number)
        time.sleep(0.12)
        moving.write_bytes(b"moving %d, moved" % number)  # while its signature is on its way, if we are lucky

    def mend(self) -> None:
        """Make readable what was not."""
        for number in range(self._rounds):
            (self._box.outbox / f"unreadable{number}").chmod(0o644)

    def files(self) -> set[Path]:
        """Return all that must lie in the outbox in the end."""
        drops = self.signed | self.failed | self.refused
        notes = {path.with_name(path.name + ".sign-error") for path in self.failed}
        return drops | notes | {self._box.sign_of(path) for path in self.signed | self.picked_up}

    def _known(self, journal: Journal, name: str) -> Path:
        """Make a file that is signed."""
        path = self._box.drop(name, b"known: " + name.encode())
        content = path.read_bytes()
        text = self._box.sign(content)
        self._box.sign_of(path).write_bytes(text)
        signature = Signature(text, bytes.fromhex(sha256(content)), len(content))
        journal.sign(self._drop(journal, path), signature)
        self.signed.add(path)
        return path

    def _given_up(self, journal: Journal, name: str) -> Path:
        """Make a file that failed, without the note that belongs beside it."""
        path = self._box.drop(name, b"given up: " + name.encode())
        drop = self._drop(journal, path)
        journal.queue(drop)
        journal.fail(drop, "http_400", "for some reason")
        self.failed.add(path)
        return path

    def _rested(self, journal: Journal, name: str) -> None:
        """Make a file that has rested long enough."""
        path = self._box.drop(name, b"rested: " + name.encode())
        drop = self._drop(journal, path)
        journal.queue(drop)
        journal.defer(drop, 0.0, "null", "no signature in the answer")
        self.signed.add(path)

    def _drop(self, journal: Journal, path: Path) -> Drop:
        relative = os.fsencode(path.relative_to(self._box.outbox))
        return Drop(relative, Fingerprint.of(path.lstat()), ticket=journal.next_ticket())

    def _pick_up(self, path: Path) -> None:
        path.unlink()
        self.signed.discard(path)
        self.picked_up.add(path)

    def _now(self, path: Path, kind: set[Path]) -> None:
        """Have a file end as something else than it was."""
        self.signed.discard(path)
        self.failed.discard(path)
        kind.add(path)
