"""`dropsign wait`: returns when everything given is signed and matches."""

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from dropsign.cli import console
from dropsign.errors import ConfigurationError, DropsignError, ExitCode, UnreachableError

if TYPE_CHECKING:
    from dropsign.inquiry import Inquiry
    from dropsign.waiting import Round, Waiting

_FIRST_PAUSE_SECONDS: Final = 0.05
_LONGEST_PAUSE_SECONDS: Final = 1.0

_SAY_SECONDS: Final = 60.0
"""How often it is said what is waited for."""

_NAMED_MOST: Final = 20


def wait(
    context: typer.Context,
    paths: Annotated[list[Path] | None, typer.Argument(metavar="PATH", help="Files and directories.")] = None,
    timeout: Annotated[float | None, typer.Option(min=0, metavar="S", help="Give up after so many seconds.")] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="A file of paths, one a line, or of lines of sha256sum; - for standard input.")
    ] = None,
) -> int:
    """Wait until every file has a FILE.sign that matches its present content."""
    from dropsign import config
    from dropsign.inquiry import Inquiry
    from dropsign.waiting import prepare

    named = [os.fsencode(path) for path in paths or []] + (_read(manifest) if manifest is not None else [])
    if not named:
        msg = "there is nothing to wait for; name files or directories, or a --manifest that does"
        raise ConfigurationError(msg)
    configuration = config.load(config.find(context.obj, os.environ), os.environ)
    inquiry = Inquiry(configuration)
    waiting = prepare(named, configuration, inquiry)
    end = None if timeout is None else time.monotonic() + timeout
    result = _wait(waiting, inquiry, end)
    if not result.waiting:
        console.out.print(f"{result.matching} signed and matching, {len(result.given_up)} not", markup=False)
        return ExitCode.SOME_FAILED if result.given_up else ExitCode.DONE
    for path, finding in list(result.waiting.items())[:_NAMED_MOST]:
        console.complain(f"{os.fsdecode(path)}: {finding}")
    msg = f"the wait ran out after {timeout:g} s with {len(result.waiting)} to go; {_cause(inquiry)}"
    raise UnreachableError(msg)


def _read(path: Path) -> list[bytes]:
    """Read a manifest.

    Raises:
        ConfigurationError: it cannot be read.
    """
    from dropsign.waiting import paths_in

    try:
        if str(path) == "-":
            return list(paths_in(sys.stdin.buffer))
        with path.open("rb") as file:
            return list(paths_in(file))
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror}"
        raise ConfigurationError(msg) from None


def _wait(waiting: "Waiting", inquiry: "Inquiry", end: float | None) -> "Round":
    """Look until nothing is waited for, or the time is over; name what is not waited for as soon as that is known."""
    pause, said = _FIRST_PAUSE_SECONDS, time.monotonic()
    told: dict[bytes, str] = {}
    while True:
        result = waiting.look()
        for path, reason in result.given_up.items() - told.items():
            console.complain(f"{os.fsdecode(path)}: {reason}; dropsign explain tells more")
        told |= result.given_up
        now = time.monotonic()
        if not result.waiting or (end is not None and now >= end):
            return result
        if now - said >= _SAY_SECONDS:
            console.complain(f"waiting for {len(result.waiting)} files; {_cause(inquiry)}")
            said = now
        time.sleep(pause if end is None else min(pause, max(0.0, end - now)))
        pause = min(pause * 1.5, _LONGEST_PAUSE_SECONDS)


def _cause(inquiry: "Inquiry") -> str:
    """Say what keeps all files back, if something does."""
    from dropsign.explaining import gate_remedy

    try:
        status = inquiry.status()
    except DropsignError as error:
        return str(error)
    if not status["running"]:
        return f"no daemon runs; start it: systemctl start {status['unit']}"
    gate = status["gate"]
    if gate["closed"]:
        return f"the gate is closed: {gate['reason']}: {gate['detail']}; {gate_remedy(gate['reason'])}"
    if status["not_ready_reasons"]:
        return f"the daemon is not ready: {'; '.join(status['not_ready_reasons'])}"
    return "the daemon is at work: dropsign status, dropsign explain FILE"
