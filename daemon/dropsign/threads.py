"""Threads: their names, as `ps -L`, `top -H` and a debugger show them, and those that read whole files."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_READERS: Final = ThreadPoolExecutor(4, thread_name_prefix="read")
"""Apart from asyncio's own threads: large files on a slow disk must not keep waiting what is asked of those."""


def name_thread(name: str) -> None:
    """Give the calling thread a name, of 15 bytes at most (proc(5), comm)."""
    with suppress(OSError):  # a system without /proc has nobody who would read it
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(name, "ascii")


async def read_through(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Have a thread do what reads a whole file, however large it is, and return what comes of it."""
    return await asyncio.get_running_loop().run_in_executor(_READERS, lambda: work(*args, **kwargs))
