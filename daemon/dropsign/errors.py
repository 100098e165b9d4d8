"""Every error that crosses a module's edge. An error's message is written for its reader: what, where, remedy."""

import errno
from enum import StrEnum
from typing import Final


class ExitCode:
    """Exit codes of the command line (contract, section 4)."""

    DONE = 0
    SOME_FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    INTERRUPTED = 130


class DropsignError(Exception):
    """Base of all errors that a user may see, as one line and an exit code."""

    exit_code: int = ExitCode.USAGE


class ConfigurationError(DropsignError):
    """The configuration cannot be used; holds every mistake found, one line each."""

    def __init__(self, *mistakes: str) -> None:
        self.mistakes = mistakes
        super().__init__("\n".join(mistakes))


class CredentialsError(ConfigurationError):
    """A key, certificate or secret is missing, unreadable, too open, expired or does not fit."""


class OutboxError(DropsignError):
    """The outbox (or the state directory) cannot be used."""


class OutboxLockedError(OutboxError):
    """Another dropsign process holds the outbox."""


class JournalError(DropsignError):
    """The journal cannot be opened or written."""


class UnreachableError(DropsignError):
    """The service or the daemon could not be reached, or a wait ran out.

    Attributes:
        is_denial: somebody is there, and refuses to answer this user, or does not answer.
    """

    exit_code = ExitCode.UNREACHABLE

    def __init__(self, message: str, *, is_denial: bool = False) -> None:
        super().__init__(message)
        self.is_denial = is_denial


class Fault(StrEnum):
    """Whose fault a failed signing was; the network's edge alone decides (contract, section 3)."""

    SERVICE = "service"
    CREDENTIALS = "credentials"
    ANSWER = "answer"
    """A 200 without a usable signature: charged to the file, tried again."""
    FILE = "file"
    """A definite refusal of this file: failed at once."""
    MACHINE = "machine"
    """This machine ran out of something, such as file descriptors."""


class SigningError(DropsignError):
    """One attempt to sign did not give a signature.

    Attributes:
        fault: whose fault it was, which decides what happens next.
        reason: a short name for it: `unreachable`, `tls`, `credentials`, `clock_skew`, `overloaded`,
            `rejecting` (a status), `resources`, or for answers `no_signature`, `bad_signature`.
        status: the HTTP status, if an answer came.
        retry_after: seconds that the service asked to wait, if it did.
        passing: it may be a matter of load or chance, and other requests may fare better meanwhile.
        stale: the connection had lain idle, and was cut before an answer began: the request never reached anybody.
    """

    exit_code = ExitCode.UNREACHABLE

    def __init__(  # noqa: PLR0913 - all that the network's edge knows
        self,
        fault: Fault,
        reason: str,
        message: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        passing: bool = False,
    ) -> None:
        super().__init__(message)
        self.fault = fault
        self.reason = reason
        self.status = status
        self.retry_after = retry_after
        self.passing = passing
        self.stale = False


_OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})

_UNWRITABLE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})


def is_shortage(error: object) -> bool:
    """Tell whether an error means that this process or machine ran out of descriptors or memory."""
    return isinstance(error, OSError) and error.errno in _OUT_OF_RESOURCES


def unwritable_reason(error: OSError) -> str | None:
    """Return the gate's reason for an error in writing: `resources`, `disk`, or None where it is one directory's."""
    if is_shortage(error):
        return "resources"
    return "disk" if error.errno in _UNWRITABLE else None
