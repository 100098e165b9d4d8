"""What must hold whenever the daemon has come to rest: disk, journal, the service's log and the daemon's, as one."""

import os
import sqlite3
import stat
from collections.abc import Iterator
from typing import Final

from dropsign.model import Fingerprint
from tests.support.sandbox import Sandbox, sha256
from tests.support.tree import Tree

_QUERY: Final = (
    "SELECT p.path, d.name, d.state, d.device, d.inode, d.size, d.mtime_ns, d.ctime_ns, s.text FROM drops d"
    " JOIN directories p ON p.id = d.directory LEFT JOIN signatures s ON s.id = d.signature"
)


class Model:
    """Holds an outbox against the tree that it should be."""

    def __init__(self, box: Sandbox, tree: Tree) -> None:
        self._box = box
        self._tree = tree

    def problems(self) -> list[str]:
        """Return what is not as it should be."""
        return [*self._on_disk(), *self._in_journal(), *self._signed_too_often(), *self._in_log()]

    def _on_disk(self) -> Iterator[str]:
        """Every drop is as it was left, with one signature that matches; nothing of the daemon's own lies about."""
        box, tree = self._box, self._tree
        found = {os.fsdecode(path) for path in box.files()}
        drops = {path for path in found if not path.endswith((".sign", ".sign-error")) and path not in tree.specials}
        for path in sorted(drops ^ tree.files.keys()):
            yield f"{path!r} {'should not be there' if path in drops else 'is missing'}"
        for path in sorted(drops & tree.files.keys()):
            content = (box.outbox / path).read_bytes()
            if sha256(content) != tree.files[path].version.digest:
                yield f"{path!r} has other content than was written"
            elif not box.is_signed(box.outbox / path) and not self._was_adopted(path, sha256(content)):
                yield f"{path!r} {'has a wrong signature' if f'{path}.sign' in found else 'is not signed'}"
            if f"{path}.sign-error" in found:
                yield f"{path!r} has a note of a failure that no longer holds"

    def _was_adopted(self, path: str, digest: str) -> bool:
        """Tell whether a FILE.sign came from elsewhere and could not be checked, which the contract allows."""
        if "key" in self._box.settings.get("verify", {}) or not self._box.sign_of(self._box.outbox / path).exists():
            return False
        lines = [line for line in self._box.log() if line["event"] in {"file.adopted", "file.signed"}]
        last = next((line for line in reversed(lines) if os.fsencode(line["path"]) == os.fsencode(path)), None)
        return last is not None and last["event"] == "file.adopted" and last["sha256"] == digest

    def _in_journal(self) -> Iterator[str]:
        """Each drop has one row, which speaks of this version and of the signature beside it; there are no others."""
        box, tree = self._box, self._tree
        connection = sqlite3.connect(f"{box.journal.as_uri()}?mode=ro", uri=True)
        try:
            rows = connection.execute(_QUERY).fetchall()
        finally:
            connection.close()
        known = {os.fsdecode(row[0] + b"/" + row[1] if row[0] else row[1]): row[2:] for row in rows}
        for path in sorted(known.keys() ^ (tree.files.keys() | tree.specials)):
            yield f"{path!r} {'has a row and should not' if path in known else 'has no row'}"
        for path, (state, *fingerprint, text) in sorted(known.items()):
            try:
                status = (box.outbox / path).lstat()
            except OSError:
                continue
            wanted = "signed" if stat.S_ISREG(status.st_mode) else "refused"
            if state != wanted:
                yield f"{path!r} is {state} and should be {wanted}"
            if Fingerprint(*fingerprint) != Fingerprint.of(status):
                yield f"{path!r} has a row about another version"
            sign = box.sign_of(box.outbox / path)
            if wanted == "signed" and sign.exists() and sign.read_bytes() != text:
                yield f"{path!r} has another signature in its row than beside it"

    def _signed_too_often(self) -> Iterator[str]:
        """No version is signed more often than it has places, and interruptions since it was written."""
        tree = self._tree
        signed: dict[str, int] = {}
        for request in self._box.requests():
            if request["result"] == "signed":
                signed[request["sha256"]] = signed.get(request["sha256"], 0) + 1
        for digest, number in signed.items():
            version = tree.versions.get(digest)
            if version is None:
                yield f"{digest} was signed, which nobody wrote"
            elif version.is_half:
                yield f"{version} was signed while its writer held it open"
            elif number > (most := version.places + tree.interruptions - version.interruptions):
                yield f"{version} was signed {number} times, and {most} would be explained"

    def _in_log(self) -> Iterator[str]:
        for line in self._box.events("daemon.defect"):
            yield f"daemon.defect: {line['error']}"
