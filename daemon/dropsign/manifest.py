"""The lines of `SHA256SUMS`, as sha256sum(1) writes and checks them."""

import re
from collections.abc import Iterable
from typing import Final

from dropsign.model import SIGN_SUFFIX

NAME: Final = b"SHA256SUMS"

_ESCAPES: Final = {b"\\": b"\\\\", b"\n": b"\\n", b"\r": b"\\r"}
_UNESCAPES: Final = {escape: plain for plain, escape in _ESCAPES.items()}
_LINE: Final = re.compile(rb"(\\?)([0-9a-f]{64}) [ *](.+)\n", re.DOTALL)


def line(sha256: bytes, name: bytes) -> bytes:
    """Return the line for a file; one whose name would break the line begins with a backslash, and is escaped."""
    escaped = re.sub(rb"[\\\n\r]", lambda match: _ESCAPES[match[0]], name)
    mark = b"\\" if escaped != name else b""
    return mark + sha256.hex().encode() + b"  " + escaped + b"\n"


def name_in(text: bytes) -> bytes | None:
    """Return the name in a line; None if it is no such line."""
    match = _LINE.fullmatch(text)
    if match is None:
        return None
    return re.sub(rb"\\[\\nr]", lambda escape: _UNESCAPES[escape[0]], match[3]) if match[1] else match[3]


def drops_in(lines: Iterable[bytes]) -> list[bytes] | None:
    """Return the files that a bundle's manifest speaks of; None for a manifest that is no bundle's.

    A bundle's names each file and, in the next line, its signature.
    """
    names = []
    pairs = iter(lines)
    for text in pairs:
        name, sign = name_in(text), name_in(next(pairs, b""))
        if name is None or sign != name + SIGN_SUFFIX:
            return None
        names.append(name)
    return names or None
