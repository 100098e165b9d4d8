"""The standard streams: there, whatever the caller closed, and written without an error in the middle of the work.

What cannot be written is said once, at the end: a full disk behind `> FILE` must not end a verb half-way.
"""

import errno
import io
import os
import sys
from typing import Final, TextIO, cast

from dropsign.cli import console
from dropsign.errors import ExitCode

_NAMES: Final = ("stdin", "stdout", "stderr")


class _Output(io.FileIO):
    """A descriptor to write to, that keeps the first error instead of raising it."""

    error: OSError | None = None

    def write(self, data: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        """Write, or lose it."""
        try:
            return super().write(data)
        except OSError as error:
            self.error = self.error or error
            return len(data)


_outputs: dict[str, _Output] = {}


def secure() -> None:
    """Open what is closed of the descriptors 0 to 2, before a socket or a file takes their place; guard 1 and 2.

    What is closed is opened for reading alone, so that what is written there fails as it would have.
    """
    for descriptor, name in enumerate(_NAMES):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDONLY)  # gets the lowest number that is free: this one
            os.set_inheritable(opened, True)
        if name == "stdin":
            sys.stdin = sys.stdin or os.fdopen(descriptor, closefd=False)
        else:
            setattr(sys, name, _guarded(descriptor, name, getattr(sys, name)))


def _guarded(descriptor: int, name: str, stream: TextIO | None) -> TextIO:
    output = _outputs[name] = _Output(descriptor, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(cast("io.RawIOBase", output)),
        encoding=getattr(stream, "encoding", None) or "utf-8",
        errors=getattr(stream, "errors", None) or "backslashreplace",
        line_buffering=output.isatty() or name == "stderr",
    )


def is_output_lost() -> bool:
    """Tell whether something could not be written to standard output, so that nobody sees what follows."""
    sys.stdout.flush()
    return "stdout" in _outputs and _outputs["stdout"].error is not None


def forgive() -> None:
    """Leave unsaid what could not be written so far: a log that fails costs log lines, and nothing else."""
    sys.stdout.flush()
    if "stdout" in _outputs:
        _outputs["stdout"].error = None


def conclude(code: int) -> int:
    """Write out what is left; say what could not be written, unless its reader had seen enough.

    Args:
        code: the exit code so far.

    Returns:
        The exit code.
    """
    sys.stdout.flush()
    error = _outputs["stdout"].error
    if error is not None and error.errno != errno.EPIPE:
        console.complain(f"standard output cannot be written: {error.strerror}")
        code = code or ExitCode.USAGE
    sys.stderr.flush()
    return code
