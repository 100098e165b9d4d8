"""What of this machine they may see who ask over the network: no path but those of files in the outbox."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from dropsign.config import Configuration

_PATH: Final = re.compile(r"(?<![\w/:.<])/(?:[^\s/:;,'\"()]+/)*[^\s/:;,'\"()]*")
"""An absolute path in a text; a URL's is none."""

_FREE: Final = frozenset({"path", "sha256", "state"})
"""Keys whose values are shown as they are."""


def discreet(value: Any, known: Collection[Path]) -> Any:
    """Return a JSON answer with each absolute path in its texts cut down to its last name.

    Args:
        value: the answer.
        known: paths that may be in it; those with blanks would not be recognised by their look.
    """
    match value:
        case dict():
            return {key: each if key in _FREE else discreet(each, known) for key, each in value.items()}
        case list():
            return [discreet(each, known) for each in value]
        case str():
            for path in known:
                if not _PATH.fullmatch(str(path)):
                    value = value.replace(str(path), path.name)
            return _PATH.sub(lambda found: found[0].rstrip("/").rpartition("/")[2], value)
        case _:
            return value


def named_paths(configuration: Configuration) -> set[Path]:
    """Return every path that a configuration names."""
    sections = (getattr(configuration, name) for name in type(configuration).model_fields)
    values = (getattr(section, key) for section in sections for key in type(section).model_fields)
    return {value for value in values if isinstance(value, Path)}
