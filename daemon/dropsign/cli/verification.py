"""What the verbs that verify signatures share: key and scheme, filters, and how a verdict is shown."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dropsign.cli import console

if TYPE_CHECKING:
    from dropsign.config import Configuration
    from dropsign.filters import Filters
    from dropsign.verifier import Verifier
    from dropsign.verifying import Verdict

KeyOption = Annotated[
    Path | None, typer.Option(help="Public key or certificate of the service, PEM; else verify.key is used.")
]
SchemeOption = Annotated[
    Literal["ecdsa-sha256", "rsa-pss-sha256", "rsa-pkcs1v15-sha256", "ed25519"] | None,
    typer.Option(help="How signatures are made; else verify.scheme, else ecdsa-sha256."),
]

_COLOURS = {"ok": "green", "unsigned": "yellow", "stale": "yellow"}


def configuration(given: Path | None) -> "Configuration | None":
    """Return the configuration; None if there is none, or only the system's and this user may not read it."""
    from dropsign import config

    path = config.find(given, os.environ)
    if path == config.DEFAULT_PATH and given is None and not os.access(path, os.R_OK):
        return None
    return config.load(path, os.environ)


def verifier(settings: "Configuration | None", key: Path | None, scheme: str | None) -> "Verifier | None":
    """Return what verifies by the key that is given, or else configured; None if there is none.

    Raises:
        CredentialsError: it cannot be used.
    """
    from dropsign.verifier import Verifier

    if key is None and settings is not None:
        key = settings.verify.key
    if key is None:
        return None
    return Verifier.load(key, scheme or (settings.verify.scheme if settings else "ecdsa-sha256"))


def filters(settings: "Configuration | None") -> "Filters":
    """Return the outbox's filters, or those of an outbox for which nothing is set."""
    from dropsign.config import Outbox
    from dropsign.filters import Filters

    if settings is not None:
        return Filters(settings.outbox.include, settings.outbox.exclude)
    defaults = Outbox.model_fields
    return Filters(defaults["include"].default, defaults["exclude"].default)


def show(verdict: "Verdict") -> None:
    """Print what is to be said of one file, on one line."""
    from rich.text import Text

    line = Text(f"{verdict.finding:<10} ", style=_COLOURS.get(verdict.finding, "red"))
    line.append(console.name(verdict.path), style="default")
    console.out.print(line.append(f"  ({verdict.detail})" if verdict.detail else "", style="dim"))
