"""Names of threads, as the system shows them: `ps -L`, `top -H`, a debugger."""

import threading
from contextlib import suppress
from pathlib import Path


def name_thread(name: str) -> None:
    """Give the calling thread a name, of 15 bytes at most (proc(5), comm)."""
    with suppress(OSError):  # a system without /proc has nobody who would read it
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(name, "ascii")
