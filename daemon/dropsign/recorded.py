"""Whether a signature belongs to some content, by what the journal recorded when it was made: for want of a key."""

import os
from typing import BinaryIO

from dropsign.history import Reader
from dropsign.model import Signature


class Recorded:
    """Implements verifying.Proof."""

    def __init__(self, history: Reader, root: bytes) -> None:
        """Prepare.

        Args:
            history: of the journal.
            root: the outbox that it is about, without links on the way.
        """
        self._history = history
        self._root = root

    def fits(self, path: bytes, file: BinaryIO, signature: Signature) -> bool:  # noqa: ARG002
        """Tell whether this signature was made for this path and this content.

        Raises:
            JournalError: it cannot be read.
        """
        directory, name = os.path.split(path)
        relative = os.path.relpath(os.path.join(os.path.realpath(directory or b"."), name), self._root)
        return self._history.made(relative, signature.text) == signature.sha256
