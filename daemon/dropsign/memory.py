"""Memory: Python's cycle collector and glibc's allocator, set up for a process that lives for months."""

import ctypes
import gc
from contextlib import suppress
from typing import Final

_M_ARENA_MAX: Final = -8
_M_MMAP_THRESHOLD: Final = -3

_ARENAS: Final = 2
"""Heaps that all threads share. By default glibc gives each thread one, and each keeps what its peak took."""

_MMAP_BYTES: Final = 256 * 1024
"""From this size on, memory is given back to the kernel as soon as it is freed. Left to itself, glibc raises the
limit to the largest block that was ever freed, and requests then leave holes in heaps that never shrink."""


def economise() -> None:
    """Have large blocks go back to the kernel, and few heaps; for the start, before there are threads.

    Does nothing where the C library is not glibc.
    """
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, _ARENAS)
        mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)


def calm_collector() -> None:
    """Keep Python's collector from walking all that lives for ever, again and again, in a burst; then call `collect`.

    Measured: a quarter of the loop's time in a burst of small files, with the defaults.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def collect() -> None:
    """Free what only cycles hold; every few seconds.

    The collector goes by the number of objects. Little of it may hold much memory: an error's traceback a request,
    a connection that was cut its buffers of 256 KiB.
    """
    gc.collect()
