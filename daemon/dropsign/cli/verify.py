"""The verb `verify`: checks FILE.sign files against a public key, without a daemon."""

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dropsign.cli import console
from dropsign.errors import ConfigurationError, ExitCode

if TYPE_CHECKING:
    from dropsign.config import Configuration

_COLOURS = {"ok": "green", "unsigned": "yellow", "stale": "yellow"}


def verify(
    context: typer.Context,
    paths: Annotated[list[str], typer.Argument(metavar="PATH", help="Files (or their FILE.sign) and directories.")],
    key: Annotated[
        Path | None, typer.Option(help="Public key or certificate of the service, PEM; else verify.key is used.")
    ] = None,
    scheme: Annotated[
        Literal["ecdsa-sha256", "rsa-pss-sha256", "rsa-pkcs1v15-sha256", "ed25519"] | None,
        typer.Option(help="How signatures are made; else verify.scheme, else ecdsa-sha256."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line instead, for each file.")] = False,
) -> int:
    """Check signatures against a public key or certificate."""
    from dropsign.config import Outbox
    from dropsign.filters import Filters
    from dropsign.verifier import Verifier
    from dropsign.verifying import Finding, Verification

    configuration = _configuration(context.obj)
    outbox = configuration.outbox if configuration else None
    if key is None and configuration is not None:
        key = configuration.verify.key
    if key is None:
        msg = "there is no key to verify with; give --key FILE, or set verify.key in the configuration"
        raise ConfigurationError(msg)
    scheme = scheme or (configuration.verify.scheme if configuration else "ecdsa-sha256")
    defaults = Outbox.model_fields
    verification = Verification(
        Verifier.load(key, scheme).proves,
        Filters(outbox.include, outbox.exclude)
        if outbox
        else Filters(defaults["include"].default, defaults["exclude"].default),
        recursive=outbox.recursive if outbox else True,
        root=os.fsencode(outbox.path) if outbox else None,
    )
    counts: Counter[Finding] = Counter()
    for verdict in verification.verify(map(os.fsencode, paths)):
        counts[verdict.finding] += 1
        if json:
            console.print_json(
                {"path": os.fsdecode(verdict.path), "verdict": verdict.finding, "detail": verdict.detail or None}
            )
        elif verdict.finding is not Finding.OK:
            _print(console.name(verdict.path), verdict.finding, verdict.detail)
    if not json:
        summary = ", ".join(f"{count} {finding}" for finding, count in sorted(counts.items()))
        console.out.print(summary or "there is nothing to verify", markup=False)
    return ExitCode.SOME_FAILED if counts.total() > counts[Finding.OK] else ExitCode.DONE


def _configuration(given: Path | None) -> "Configuration | None":
    """Return the configuration; None if there is none, or only the system's and this user may not read it."""
    from dropsign import config

    path = config.find(given, os.environ)
    if path == config.DEFAULT_PATH and given is None and not os.access(path, os.R_OK):
        return None
    return config.load(path, os.environ)


def _print(name: str, finding: str, detail: str) -> None:
    from rich.text import Text

    line = Text(f"{finding:<10} ", style=_COLOURS.get(finding, "red"))
    console.out.print(line.append(name, style="default").append(f"  ({detail})" if detail else "", style="dim"))
