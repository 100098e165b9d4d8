"""The one place through which verbs speak to people; logs are elsewhere."""

import json
import os
import sys
from typing import Any

from rich.console import Console
from rich.markup import escape

from dropsign import printable as _text
from dropsign.errors import ExitCode

printable = _text.printable

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def complain(message: str) -> None:
    """Print an error for a person: one line, on stderr, with the program's name before it."""
    err.print(f"[bold red]dropsign:[/] {escape(printable(message))}")


def usage_error(error: Exception) -> int:
    """Show a mistake on the command line, which typer's parser reports as its own kind of error.

    Raises:
        Exception: the error itself, where it is not one of the command line's.
    """
    show = getattr(error, "show", None)
    if show is None:
        raise error
    show()
    return int(getattr(error, "exit_code", ExitCode.USAGE))


def print_json(value: Any) -> None:
    """Print a value as one line of JSON that is ASCII, whatever file names it holds."""
    sys.stdout.write(json.dumps(value) + "\n")


def name(path: bytes | os.PathLike[str]) -> str:
    """Return a file name fit for a terminal: what cannot be shown is escaped."""
    return printable(os.fsdecode(path))
