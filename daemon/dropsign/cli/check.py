"""The verb check: what would keep the daemon from its work, found before it starts."""

import os
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
    return preflight.exit_code(list(_shown(findings)))


def _shown(findings: "Iterable[Finding]") -> "Iterator[Finding]":
    """Print each finding as it comes."""
    for finding in findings:
        text = f"{finding.subject}: {finding.message}{'; ' if finding.remedy else ''}{finding.remedy}"
        colour = _COLOURS[finding.level]
        console.out.print(f"[{colour}]{finding.level:<4}[/] {escape(console.printable(text))}")
        yield finding
