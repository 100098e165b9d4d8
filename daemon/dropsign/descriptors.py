"""File descriptors: as many as this process may have, whether they have run out, and what they are enough for."""

import os
import resource
from typing import Final

from dropsign.errors import ConfigurationError, is_shortage

RESERVED: Final = 44
"""Descriptors for all but requests: loop, journal, watcher, control socket and who asks there, directories."""

SHORTAGE: Final = "too many open files; raise the limit: LimitNOFILE= in the unit, or ulimit -n"

_EACH: Final = 4
"""Descriptors a request may take: its connection, a large file; and for its signature a temporary, its directory."""


def raise_limit() -> int:
    """Raise the soft limit of open files to the hard one, as far as that is allowed; return what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return soft
    return hard


def requests_borne(limit: int) -> int:
    """Return how many requests at a time a limit of open files is enough for.

    Raises:
        ConfigurationError: for none.
    """
    if limit == resource.RLIM_INFINITY:
        limit = 2**30
    if limit < RESERVED + _EACH:
        msg = (
            f"the limit of open files is {limit}, and dropsign needs {RESERVED + _EACH} at least; "
            "raise it: LimitNOFILE= in the unit, or ulimit -n"
        )
        raise ConfigurationError(msg)
    return (limit - RESERVED) // _EACH


def are_exhausted() -> bool:
    """Tell whether this process can open nothing more just now."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return is_shortage(error)
    return False


def have_run_out(error: Exception) -> bool:
    """Tell whether an error comes of too few descriptors, even where it does not say so, as in looking names up."""
    return is_shortage(error) or are_exhausted()
