"""`dropsign explain`: all that is known of one file."""

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from dropsign.cli import console
from dropsign.errors import ExitCode, OutboxError

if TYPE_CHECKING:
    from dropsign.config import Configuration
    from dropsign.explaining import Explanation, Sight


def explain(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file in the outbox, or its FILE.sign.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> int:
    """Say all that is known of one file: why it is not signed yet, and what to do about it."""
    from dropsign import config
    from dropsign.explaining import explain as explained
    from dropsign.inquiry import Inquiry
    from dropsign.model import SIGN_SUFFIX

    configuration = config.load(config.find(context.obj, os.environ), os.environ)
    inquiry = Inquiry(configuration)
    path = inquiry.relative(file)
    if path.endswith(SIGN_SUFFIX):
        path = path.removesuffix(SIGN_SUFFIX)
    absolute = os.path.join(inquiry.root, path)
    if os.path.isdir(absolute) and not os.path.islink(absolute):
        msg = f"{file}: is a directory; explain speaks of one file, dropsign status of all of them"
        raise OutboxError(msg)
    status = inquiry.status()
    (record,) = inquiry.lookup([path])
    sight = _see(path, absolute, configuration)
    now = time.time()
    explanation = explained(sight, record, status, configuration.outbox, now)
    if as_json:
        answer = {"state": explanation.state, "cause": explanation.cause, "remedy": explanation.remedy or None}
        console.print_json({"path": os.fsdecode(path), **answer, "running": status["running"], "record": record})
    else:
        for name, value in _rows(sight, record, explanation, running=status["running"]):
            console.out.print(f"[bold]{name:<14}[/] {escape(console.printable(value))}")
    return ExitCode.SOME_FAILED if explanation.state == "unknown" else ExitCode.DONE


def _see(path: bytes, absolute: bytes, configuration: "Configuration") -> "Sight":
    """Look at a file as the daemon would, with this user's rights.

    Raises:
        OutboxError: this user may not look at it.
    """
    from dropsign.admission import kind_of, refusal_of
    from dropsign.explaining import Sight
    from dropsign.filters import Filters
    from dropsign.holders import writers
    from dropsign.model import SIGN_SUFFIX, Fingerprint

    settings = configuration.outbox
    filtered = Filters(settings.include, settings.exclude).why_not(path)
    if filtered is None and b"/" in path and not settings.recursive:
        filtered = "is in a sub-directory, and outbox.recursive is false"
    try:
        status = os.lstat(absolute)
    except (FileNotFoundError, NotADirectoryError):
        return Sight(path, filtered=filtered)
    except OSError as error:
        msg = f"{os.fsdecode(absolute)}: cannot be looked at: {error.strerror}; ask as the daemon's user: sudo -u"
        raise OutboxError(msg) from None
    sign = _status(absolute + SIGN_SUFFIX)
    displaced_by = None if sign is None else kind_of(sign)
    return Sight(
        path,
        Fingerprint.of(status),
        refusal_of(status, os.path.basename(path), settings.max_file_mib * 1024 * 1024),
        filtered,
        sign is not None,
        displaced_by,
        _sign_text(absolute + SIGN_SUFFIX) if displaced_by is None else None,
        [f"{name} (pid {number})" for number, name in writers(absolute)],
        time.time() - status.st_ctime,
    )


def _status(absolute: bytes) -> os.stat_result | None:
    try:
        return os.lstat(absolute)
    except OSError:
        return None


def _sign_text(absolute: bytes) -> bytes | None:
    """Return how a FILE.sign begins, as far as one of ours could go; None where it cannot be read."""
    from dropsign.directory import READ, SIGNATURE_MAX

    try:
        with open(os.open(absolute, READ), "rb") as file:
            return file.read(SIGNATURE_MAX + 1)
    except OSError:
        return None


def _rows(
    sight: "Sight", record: dict[str, Any], explanation: "Explanation", *, running: bool
) -> list[tuple[str, str]]:
    rows = [("file", os.fsdecode(sight.path)), ("state", explanation.state), ("because", explanation.cause)]
    if explanation.remedy:
        rows.append(("next", explanation.remedy))
    if sight.fingerprint is not None:
        rows.append(("size", f"{sight.fingerprint.size:,} bytes"))
    if record["state"] is None:
        return rows
    rows.append(("known as", f"{record['state']} since {_time(record['since'])}"))
    if record["attempts"]:
        rows.append(("attempts", str(record["attempts"])))
    if record["error"] or record["reason"]:
        rows.append(("last error", ": ".join(filter(None, (record["reason"], record["error"])))))
    if record["not_before"]:
        rows.append(("next try", _time(record["not_before"])))
    if record["sha256"]:
        rows.append(("signed", f"{_time(record['signed_at'])}, SHA-256 {record['sha256']}"))
    if record["service_certificate"]:
        rows.append(("by service", f"certificate with SHA-256 {record['service_certificate']}"))
        rows.append(("asked as", f"certificate with serial {record['client_certificate']}"))
    if not running:
        rows.append(("source", "the journal, as no daemon runs"))
    return rows


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(" ", "seconds")
