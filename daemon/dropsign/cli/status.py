"""`dropsign status`: how things are, from the running daemon or from the journal."""

import os
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from dropsign.cli import console, streams
from dropsign.errors import ExitCode

if TYPE_CHECKING:
    from dropsign.inquiry import Inquiry

GIVEN_UP_SHOWN: Final = 5
"""Deferred files, failed and refused ones that are named; /api/files lists more."""

_NAMED: Final = {
    "deferred": "they are tried again by themselves; dropsign explain FILE tells when, and what to do before that",
    "failed": "dropsign explain FILE tells more; dropsign retry FILE, or --all, puts it back",
    "refused": "dropsign explain FILE tells more; what is no drop can be moved away, or excluded by outbox.exclude",
}
"""States whose files somebody may have to look after, and what to do."""

_TOLD: Final = ("path", "reason", "error")

_SECONDS: Final = 1.0
"""Between two looks of --watch."""


def status(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every second, until Ctrl-C.")] = False,
) -> int:
    """Show backlog, counts, the gate and its reason."""
    from dropsign import config
    from dropsign.inquiry import Inquiry

    inquiry = Inquiry(config.load(config.find(context.obj, os.environ), os.environ))
    if watch and console.out.is_terminal and not as_json:
        _redraw(inquiry)
    while True:
        if as_json:
            console.print_json(inquiry.status())
        else:
            console.out.print(_text(inquiry))
        if not watch or streams.is_output_lost():
            return ExitCode.DONE
        time.sleep(_SECONDS)


def _redraw(inquiry: "Inquiry") -> None:
    """Show it in place, for ever."""
    from rich.live import Live

    with Live(_text(inquiry), console=console.out, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(_SECONDS)
            live.update(_text(inquiry), refresh=True)


def _text(inquiry: "Inquiry") -> Any:
    """Return how things are, a line each, as rich's Text."""
    from rich.text import Text

    current = inquiry.status()
    rows = _rows(current)
    labels = {"deferred": "deferred, next first"}
    for state, remedy in _NAMED.items():
        if current[state]:
            rows += [
                ("" if number else labels.get(state, f"{state} of late"), ": ".join(filter(None, map(file.get, _TOLD))))
                for number, file in enumerate(inquiry.files(state, GIVEN_UP_SHOWN))
            ]
            rows.append(("next", remedy))
    text = Text(no_wrap=True, overflow="ellipsis")
    for number, (name, value) in enumerate(rows):
        text.append("\n" if number else "").append(f"{name:<22} ", style="bold")
        text.append(console.printable(value), style=_STYLES.get(value.split(" ", 1)[0], ""))
    return text


_STYLES: Final = {"ready": "green", "open": "green", "not": "bold red", "closed": "bold red"}


def _rows(current: dict[str, Any]) -> list[tuple[str, str]]:
    from dropsign.explaining import gate_remedy, start_remedy

    rows: list[tuple[str, str]] = []

    def row(name: str, value: object) -> None:
        rows.append((name, str(value)))

    if current["running"]:
        row("daemon", "ready" if current["ready"] else f"not ready: {'; '.join(current['not_ready_reasons'])}")
    else:
        row("daemon", "not running; what follows is from its journal")
        row("next", start_remedy(current["unit"]))
    row("outbox", current["outbox"])
    gate = current["gate"]
    if gate["closed"]:
        row("gate", f"closed for {gate['closed_seconds']:.0f} s: {gate['reason']}: {gate['detail']}")
        row("next", gate_remedy(gate["reason"]))
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
        days = (datetime.fromisoformat(ends) - datetime.now(UTC)).days
        row(f"{which} certificate", f"until {ends[:10]}, for {days} days" if days >= 0 else f"expired on {ends[:10]}")
    if (refused := current["credentials_refused"]) is not None:
        since = datetime.fromtimestamp(refused["since"], UTC)
        row("new credentials", f"refused since {since:%Y-%m-%d %H:%M} UTC, those of before stay: {refused['error']}")
        row("next", "put right what lies on disk; it is taken up by itself")
    return rows
