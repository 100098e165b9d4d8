"""The verb check: what would keep the daemon from its work, found before it starts."""

import os
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from dropsign.cli import console

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dropsign.preflight import Finding

_COLOURS = {"OK": "green", "WARN": "yellow", "FAIL": "bold red"}


def check(
    context: typer.Context,
    probe: Annotated[bool, typer.Option("--probe", help="Also have the service sign a few bytes.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Check configuration, credentials, directories and limits; each line is OK, WARN or FAIL with the remedy."""
    from dropsign import config, preflight

    findings = preflight.examine(config.find(context.obj, os.environ), os.environ, probe=probe)
    if json:
        found = list(findings)
        code = preflight.exit_code(found)
        console.print_json({"exit_code": code, "findings": [asdict(finding) for finding in found]})
        return code
    found = list(_shown(findings))
    _print(_verdict(found, probe=probe))
    return preflight.exit_code(found)


def _verdict(found: "list[Finding]", *, probe: bool) -> "Finding":
    """Sum up, as one more line of the same form."""
    from dropsign.preflight.finding import fail, ok

    levels = Counter(str(finding.level) for finding in found)
    counts = ", ".join(f"{number} {level}" for level, number in levels.items())
    if levels["FAIL"]:
        return fail("all in all", counts, "put right what says FAIL, then check again")
    return ok("all in all", f"{counts}: the daemon can run{'' if probe else '; --probe asks the service too'}")


def _shown(findings: "Iterable[Finding]") -> "Iterator[Finding]":
    """Print each finding as it comes."""
    for finding in findings:
        _print(finding)
        yield finding


def _print(finding: "Finding") -> None:
    text = f"{finding.subject}: {finding.message}{'; ' if finding.remedy else ''}{finding.remedy}"
    colour = _COLOURS[finding.level]
    console.out.print(f"[{colour}]{finding.level:<4}[/] {escape(console.printable(text))}")
