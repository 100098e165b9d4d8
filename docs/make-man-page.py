"""Writes dropsign.1, beside this file, from what --help shows."""  # noqa: INP001 - a script

import re
from pathlib import Path
from typing import Any

import typer

from dropsign.cli import app

FILES = (
    ("/etc/dropsign/config.toml", "The configuration, unless --config or $DROPSIGN_CONFIG names another."),
    ("/var/lib/dropsign/journal.sqlite3", "What is known of each file, and the history of signatures."),
    ("/run/dropsign/control.sock", "Where the running daemon answers the other verbs."),
)

VARIABLES = (
    ("DROPSIGN_CONFIG", "The configuration file."),
    ("DROPSIGN_SECTION__KEY", "Overrides a key, as DROPSIGN_SERVICE__URL does service.url."),
    ("CREDENTIALS_DIRECTORY", "Where systemd puts app_key, app_secret, client_key, client_certificate, authority."),
)

CODES = (
    ("0", "Done."),
    ("1", "Some files failed, or do not verify."),
    ("2", "Usage or configuration."),
    ("3", "The service or the daemon could not be reached, or a wait ran out."),
    ("130", "Interrupted."),
)


def escape(text: str) -> str:
    """Make text safe for roff: backslashes, hyphens that are to be typed, dots and quotes that begin a line."""
    return re.sub(r"^(?=[.'])", r"\\&", text.replace("\\", r"\e").replace("-", r"\-"), flags=re.MULTILINE)


def item(term: str, text: str) -> list[str]:
    """Return one paragraph of a list."""
    return [".TP", rf"\fB{escape(term)}\fR", escape(text)]


def options(command: Any, context: Any) -> list[str]:
    """Return a command's options and arguments, as --help has them."""
    records = (parameter.get_help_record(context) for parameter in command.params if not parameter.hidden)
    return [line for record in records if record and record[1] for line in item(*record)]


def page() -> str:
    """Return the man page."""
    group: Any = typer.main.get_command(app)
    context = group.make_context("dropsign", [], resilient_parsing=True)
    lines = [
        '.\\" Made by docs/make-man-page.py from what --help shows; do not edit.',
        ".TH DROPSIGN 1",
        ".SH NAME",
        r"dropsign \- signs files as they are dropped into a folder",
        ".SH SYNOPSIS",
        r".B dropsign",
        r"[\fIOPTIONS\fR] \fIVERB\fR [\fIARGUMENTS\fR]",
        ".SH DESCRIPTION",
        "A daemon that watches an outbox directory. Moments after a file is dropped there, FILE.sign lies beside it,",
        "made by a signing service over mutual TLS. The other verbs sign once, verify, wait, pack, and tell",
        "why a file is not signed yet.",
        ".SH OPTIONS",
        *options(group, context),
        ".SH VERBS",
    ]
    for name, command in group.commands.items():
        below = command.make_context(name, [], parent=context, resilient_parsing=True)
        usage = " ".join([name, *command.collect_usage_pieces(below)])
        lines += [f".SS {escape(usage)}", escape(command.help), *options(command, below)]
    for title, entries in (("EXIT STATUS", CODES), ("FILES", FILES), ("ENVIRONMENT", VARIABLES)):
        lines.append(f".SH {title}")
        for entry in entries:
            lines += item(*entry)
    lines += [".SH SEE ALSO", "The pages in docs/, and config.toml.example, which holds every key.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    Path(__file__).with_name("dropsign.1").write_text(page(), "utf-8")
