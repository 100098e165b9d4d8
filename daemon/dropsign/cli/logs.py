"""`dropsign logs`: the log for people, from a file, from standard input or from systemd's journal."""

import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dropsign.cli import console
from dropsign.errors import ConfigurationError, ExitCode, UnreachableError

if TYPE_CHECKING:
    from dropsign.logview import Piece


def logs(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="A log; standard input, or with -f the journal, by default.")
    ] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what is written from now on.")] = False,
    path: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Only lines of files of this name or path, such as '*.pdf'."),
    ] = None,
    event: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this event, or pattern such as 'gate.*'.")
    ] = None,
    level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option(help="Only lines of this level or a higher one.")
    ] = "debug",
    unit: Annotated[str, typer.Option(help="With -f and no FILE: the unit whose journal is read.")] = "dropsign",
) -> int:
    """Show a log in columns; names in it cannot act on the terminal."""
    from dropsign.logview import Wanted, columns, parse, plain

    wanted = Wanted(path or (), event or (), level)
    for line in _lines(file, unit, follow=follow):
        record = parse(line)
        if wanted.accepts(record):
            _print(columns(record)) if record is not None else console.out.print(plain(line), markup=False)
    return ExitCode.DONE


def _lines(file: Path | None, unit: str, *, follow: bool) -> Iterable[bytes]:
    """Return where lines come from.

    Raises:
        ConfigurationError: from nowhere.
    """
    if file is not None:
        return _of_file(file, follow=follow)
    if follow:
        return _of_journal(unit)
    if sys.stdin.isatty():
        msg = "logs: name a FILE, pipe a log in, or follow the journal with -f"
        raise ConfigurationError(msg)
    return sys.stdin.buffer


def _of_file(file: Path, *, follow: bool) -> Iterator[bytes]:
    from dropsign import following

    try:
        if follow:
            yield from following.follow(file)
        else:
            with file.open("rb") as lines:
                yield from lines
    except BrokenPipeError:
        raise
    except OSError as error:
        msg = f"{file}: cannot be read: {error.strerror}"
        raise ConfigurationError(msg) from None


def _of_journal(unit: str) -> Iterator[bytes]:
    command = ["journalctl", "--output=json", "--lines=100", "--follow", f"--unit={unit}"]
    try:
        journal = subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: S603 - no shell; it judges the name itself
    except OSError as error:
        msg = f"journalctl cannot be run: {error.strerror}; without systemd, name the log's FILE (log.file)"
        raise ConfigurationError(msg) from None
    with journal:
        assert journal.stdout is not None, "a pipe"
        try:
            yield from journal.stdout
            journal.wait()
        finally:
            journal.terminate()
    if journal.returncode:
        msg = f"journalctl ended with {journal.returncode}; is this user in group systemd-journal?"
        raise UnreachableError(msg)


def _print(pieces: "list[Piece]") -> None:
    if console.out.is_terminal:
        from rich.text import Text

        console.out.print(Text.assemble(*pieces))
    else:
        sys.stdout.write("".join(piece.text for piece in pieces) + "\n")
        sys.stdout.flush()
