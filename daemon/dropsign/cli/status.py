"""`dropsign status`: how things are, from the running daemon or from the journal."""

import os
import time
from typing import Annotated, Any

import typer
from rich.markup import escape

from dropsign.cli import console, streams
from dropsign.errors import ExitCode, UnreachableError


def status(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every second, until Ctrl-C.")] = False,
) -> int:
    """Show backlog, counts, the gate and its reason."""
    from dropsign import config

    configuration = config.load(config.find(context.obj, os.environ), os.environ)
    while True:
        current = _current(configuration)
        if watch and not as_json and console.out.is_terminal:
            console.out.clear()
        if as_json:
            console.print_json(current)
        else:
            for name, value in _rows(current):
                console.out.print(f"[bold]{name:<22}[/] {escape(console.printable(value))}")
        if not watch or streams.is_output_lost():
            return ExitCode.DONE
        time.sleep(1)


def _current(configuration: Any) -> dict[str, Any]:
    """Return the daemon's status, or what the journal tells where no daemon runs."""
    from dropsign import __version__
    from dropsign.control import Control
    from dropsign.status import from_journal

    try:
        if configuration.http.socket is not None:
            return Control(configuration.http.socket).status()
    except UnreachableError:
        if not configuration.journal.path.exists():
            raise
    outbox = str(configuration.outbox.path)
    return from_journal(configuration.journal.path, __version__, outbox, time.time()).as_dict()


def _rows(current: dict[str, Any]) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []

    def row(name: str, value: object) -> None:
        rows.append((name, str(value)))

    if current["running"]:
        row("daemon", "ready" if current["ready"] else f"not ready: {'; '.join(current['not_ready_reasons'])}")
    else:
        row("daemon", "not running; what follows is from its journal")
    row("outbox", current["outbox"])
    gate = current["gate"]
    if gate["closed"]:
        row("gate", f"closed for {gate['closed_seconds']:.0f} s: {gate['reason']}: {gate['detail']}")
    elif current["running"]:
        row("gate", "open")
    row("waiting", f"{current['backlog']} ({current['settling']} settling, {current['deferred']} deferred)")
    if current["oldest_waiting_seconds"] is not None:
        row("oldest waiting", f"{current['oldest_waiting_seconds']:.1f} s")
    if current["running"]:
        row("in flight", f"{current['in_flight']} of {current['concurrency']}")
        row("rate", f"{current['signed_per_second']:.1f} signed/s")
    row("signed", current["signed"])
    row("failed", f"{current['failed']}")
    row("refused", current["refused"])
    for which, ends in current["certificates"].items():
        row(f"{which} certificate", f"until {ends}")
    return rows
