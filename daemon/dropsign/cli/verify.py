"""The verb `verify`: checks FILE.sign files against a public key, without a daemon."""

import os
from collections import Counter
from typing import Annotated

import typer

from dropsign.cli import console, verification
from dropsign.cli.verification import KeyOption, SchemeOption
from dropsign.errors import ConfigurationError, ExitCode


def verify(
    context: typer.Context,
    paths: Annotated[list[str], typer.Argument(metavar="PATH", help="Files (or their FILE.sign) and directories.")],
    key: KeyOption = None,
    scheme: SchemeOption = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line instead, for each file.")] = False,
) -> int:
    """Check signatures against a public key or certificate."""
    from dropsign.verifying import Finding, Verification

    configuration = verification.configuration(context.obj)
    outbox = configuration.outbox if configuration else None
    verifier = verification.verifier(configuration, key, scheme)
    if verifier is None:
        msg = "there is no key to verify with; give --key FILE, or set verify.key in the configuration"
        raise ConfigurationError(msg)
    check = Verification(
        verifier,
        verification.filters(configuration),
        recursive=outbox.recursive if outbox else True,
        root=os.fsencode(outbox.path) if outbox else None,
    )
    counts: Counter[Finding] = Counter()
    for verdict in check.verify(map(os.fsencode, paths)):
        counts[verdict.finding] += 1
        if json:
            console.print_json(
                {"path": os.fsdecode(verdict.path), "verdict": verdict.finding, "detail": verdict.detail or None}
            )
        elif verdict.finding is not Finding.OK:
            verification.show(verdict)
    if not json:
        summary = ", ".join(f"{count} {finding}" for finding, count in sorted(counts.items()))
        console.out.print(summary or "there is nothing to verify", markup=False)
    if (bad := counts.total() - counts[Finding.OK]) and not json:
        console.complain(
            f"{bad} of {counts.total()} files do not verify; where they are signed, dropsign explain FILE tells why; "
            "if they were handed over, ask for them again"
        )
    return ExitCode.SOME_FAILED if bad else ExitCode.DONE
