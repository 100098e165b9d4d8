"""What a check says: a finding, and what all findings together mean for the exit code."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from dropsign.config import Configuration
from dropsign.errors import ExitCode


@dataclass(frozen=True, slots=True)
class Setup:
    """What is checked."""

    configuration: Configuration
    environment: Mapping[str, str]


class Level(StrEnum):
    """How bad a finding is."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        level: see `Level`.
        subject: what was looked at, by its configuration key where it has one.
        message: how it is.
        remedy: what to do about it.
        unreachable: the failure is that the service does not answer, and nothing of this machine's.
    """

    level: Level
    subject: str
    message: str
    remedy: str = ""
    unreachable: bool = False


def ok(subject: str, message: str) -> Finding:
    """Make a finding that all is well."""
    return Finding(Level.OK, subject, message)


def warn(subject: str, message: str, remedy: str) -> Finding:
    """Make a finding that can be lived with."""
    return Finding(Level.WARN, subject, message, remedy)


def fail(subject: str, message: str, remedy: str) -> Finding:
    """Make a finding that keeps the daemon from its work."""
    return Finding(Level.FAIL, subject, message, remedy)


def mistake(text: str, remedy: str = "correct it, as config.toml.example says") -> Finding:
    """Make a finding of an error's line, which by custom reads `key: what; remedy`.

    Args:
        text: the line.
        remedy: for a line that names none.
    """
    subject, _, rest = text.partition(": ")
    message, _, named = rest.partition("; ")
    return fail(subject, message, named or remedy)


def exit_code(findings: Iterable[Finding]) -> int:
    """Return 0 if nothing failed, 3 if only the service does not answer, else 2."""
    failures = [finding for finding in findings if finding.level is Level.FAIL]
    if not failures:
        return ExitCode.DONE
    return ExitCode.UNREACHABLE if all(finding.unreachable for finding in failures) else ExitCode.USAGE
