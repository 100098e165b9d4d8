"""Whether a FILE.sign is the one of its file's present content, by what the journal recorded of it."""

import hashlib
import io
import os
from collections.abc import Sequence
from typing import Any

from dropsign.inquiry import Inquiry
from dropsign.model import Fingerprint, State


class Records:
    """What is known of files that are asked about; proves without a key (verifying.Proof)."""

    def __init__(self, inquiry: Inquiry) -> None:
        self._inquiry = inquiry
        self._records: dict[bytes, dict[str, Any]] = {}

    def learn(self, paths: Sequence[bytes]) -> None:
        """Ask about some files of the outbox, absolute and without a link on the way, and forget all others.

        Raises:
            UnreachableError: no daemon answers, and there is no journal.
            JournalError: no daemon answers, and the journal cannot be read.
        """
        prefix = self._inquiry.root.rstrip(b"/") + b"/"
        inside = [path for path in paths if path.startswith(prefix)]
        self._records = {}
        if inside:
            records = self._inquiry.lookup([path.removeprefix(prefix) for path in inside])
            self._records = dict(zip(inside, records, strict=True))

    def given_up(self, path: bytes) -> str | None:
        """Say why a file will not be signed unless somebody does something; None if it may be."""
        record = self._records.get(path)
        if record is None or record["settling"] or record["state"] not in {State.FAILED, State.REFUSED}:
            return None
        if record["fingerprint"] != _fingerprint(path):
            return None
        return f"{record['state']}: {': '.join(filter(None, (record['reason'], record['error'])))}"

    def proves(self, path: bytes, file: io.BufferedReader, text: bytes) -> bool:
        """Tell whether a signature is the recorded one, and made for just this content.

        Raises:
            OSError: the file cannot be read.
        """
        record = self._records.get(path)
        if record is None or record["state"] != State.SIGNED or os.fsencode(record["signature"] or "") != text:
            return False
        return hashlib.file_digest(file, "sha256").hexdigest() == str(record["sha256"])


def _fingerprint(path: bytes) -> list[int] | None:
    try:
        return list(Fingerprint.of(os.lstat(path)))
    except OSError:
        return None
