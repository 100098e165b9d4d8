"""`dropsign audit`: the history of signatures, exported or verified, beside the daemon or without it."""

import os
import sys
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dropsign.cli import console
from dropsign.errors import ConfigurationError, ExitCode

if TYPE_CHECKING:
    from dropsign.chain import Flaw
    from dropsign.history import Reader

_FLAWS_SHOWN = 100
_HASH_BYTES = 32

_NEXT = (
    "next: somebody wrote to the journal, or its disk is damaged: keep a copy of it, compare it with a backup or an "
    "earlier export, and find out who may write there; signatures beside their files are not touched: dropsign verify"
)


def audit(
    context: typer.Context,
    action: Annotated[
        Literal["export", "verify"],
        typer.Argument(metavar="export|verify", help="Print the records as JSON lines, or check that they are whole."),
    ],
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="With export: records from 2026-07-01 or 2026-07-01T08:30Z on.")
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(metavar="HASH", help="With verify: a hash that audit.head told once; the chain must hold it."),
    ] = None,
) -> int:
    """Export or verify the history of signatures, each record chained to the one before by its hash."""
    from dropsign import config
    from dropsign.history import Reader

    if (since if action == "verify" else head) is not None:
        msg = f"audit {action} knows no {'--since' if action == 'verify' else '--head'}; see dropsign audit --help"
        raise ConfigurationError(msg)
    beginning = _time(since) if since is not None else None
    wanted = _hash(head) if head is not None else None
    configuration = config.load(config.find(context.obj, os.environ), os.environ)
    with closing(Reader(configuration.journal.path)) as history:
        return _export(history, beginning) if action == "export" else _verify(history, wanted)


def _export(history: "Reader", beginning: float | None) -> int:
    from dropsign import chain

    for link in history.links():
        if beginning is None or link.record.at >= beginning:
            sys.stdout.write(chain.line(link) + "\n")
    return ExitCode.DONE


def _verify(history: "Reader", wanted: bytes | None) -> int:
    from dropsign import chain

    anchor = history.anchor()
    check = chain.Audit(anchor, wanted)
    found = 0
    for found, flaw in enumerate(check.flaws(history.links()), 1):
        if found <= _FLAWS_SHOWN:
            console.out.print(_sentence(flaw), markup=False)
    if found > _FLAWS_SHOWN:
        console.out.print(f"and {found - _FLAWS_SHOWN} more")
    if not check.is_held:
        found += 1
        console.out.print("the chain does not hold the hash given: records at its end were removed or written anew")
    forgotten = f" (those up to {anchor.number} were forgotten, see journal.keep_days)" if anchor.number else ""
    console.out.print(f"{check.count} records{forgotten}, {'no flaw' if not found else f'{found} flaws'}")
    console.out.print(f"head: {check.head.number} {check.head.hash.hex()}")
    if found:
        console.out.print(_NEXT, markup=False, soft_wrap=True)
    return ExitCode.SOME_FAILED if found else ExitCode.DONE


def _sentence(flaw: "Flaw") -> str:
    if flaw.path is None:
        return f"record {flaw.number} {flaw.problem}"
    return f"record {flaw.number} ({console.name(flaw.path)}) {flaw.problem}"


def _time(text: str) -> float:
    """Return a time in seconds since the epoch; one without a zone is UTC, as in the log."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        msg = f"--since: {text!r} is no time; give one such as 2026-07-01 or 2026-07-01T08:30:00Z"
        raise ConfigurationError(msg) from None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _hash(text: str) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != _HASH_BYTES:
        msg = f"--head: {text!r} is no hash; give the 64 digits that audit.head told in the log"
        raise ConfigurationError(msg)
    return value
