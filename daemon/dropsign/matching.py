"""Whether a FILE.sign is the one of its file's present content, by what the journal recorded of it."""

import os
from collections.abc import Sequence
from typing import Any, BinaryIO

from dropsign.inquiry import Inquiry
from dropsign.model import SIGN_SUFFIX, Fingerprint, Signature, State


class Records:
    """What is known of files that are asked about; implements verifying.Proof, for want of a key."""

    def __init__(self, inquiry: Inquiry) -> None:
        self._inquiry = inquiry
        self._records: dict[bytes, dict[str, Any]] = {}

    def expect(self, paths: Sequence[bytes]) -> None:
        """Ask about some files, and forget all others; those outside of the outbox are never known.

        Raises:
            UnreachableError: no daemon answers, and there is no journal.
            JournalError: no daemon answers, and the journal cannot be read.
        """
        prefix = self._inquiry.root.rstrip(b"/") + b"/"
        real: dict[bytes, bytes] = {}
        inside: dict[bytes, bytes] = {}
        for path in paths:
            directory, name = os.path.split(path)
            if directory not in real:
                real[directory] = os.path.realpath(directory or b".")
            absolute = os.path.join(real[directory], name)
            if absolute.startswith(prefix):
                inside[path] = absolute.removeprefix(prefix)
        self._records = {}
        if inside:
            self._records = dict(zip(inside, self._inquiry.lookup(list(inside.values())), strict=True))

    def given_up(self, path: bytes) -> str | None:
        """Say why a file will not be signed unless somebody does something; None if it may be."""
        record = self._of_this_version(path)
        if record is None or record["state"] not in {State.FAILED, State.REFUSED}:
            return None
        return f"{record['state']}: {': '.join(filter(None, (record['reason'], record['error'])))}"

    def cause(self, path: bytes) -> str | None:
        """Say why a file that waits has no signature that matches; None where nothing more is known than that."""
        record = self._of_this_version(path)
        if record is None or record["state"] not in {State.DEFERRED, State.SIGNED}:
            return None
        if record["state"] == State.DEFERRED:
            return f"deferred: {record['reason']}: {record['error']}"
        sign = path + SIGN_SUFFIX
        if os.path.isdir(sign) and not os.path.islink(sign):
            return "a directory has the name of its FILE.sign; move it away"
        if os.path.lexists(sign):
            return "somebody wrote over its FILE.sign, which a scan puts back; at once: dropsign sign FILE"
        return None

    def _of_this_version(self, path: bytes) -> dict[str, Any] | None:
        """Return what is known of a file that rests, if that is about its present version."""
        record = self._records.get(path)
        if record is None or record["state"] is None or record["settling"]:
            return None
        return record if record["fingerprint"] == _fingerprint(path) else None

    def fits(self, path: bytes, file: BinaryIO, signature: Signature) -> bool:  # noqa: ARG002 - as for a key
        """Tell whether a signature is the recorded one, and made for just this content."""
        record = self._records.get(path)
        return (
            record is not None
            and record["state"] == State.SIGNED
            and os.fsencode(record["signature"] or "") == signature.text
            and record["sha256"] == signature.sha256.hex()
        )


def _fingerprint(path: bytes) -> list[int] | None:
    try:
        return list(Fingerprint.of(os.lstat(path)))
    except OSError:
        return None
