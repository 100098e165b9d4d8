"""What must be right before the daemon can work: each check looks at one thing, and none stops another.

The messages of configuration, credentials and outbox are theirs; here they only become findings.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from dropsign import config
from dropsign.errors import ConfigurationError
from dropsign.preflight import directories, identity, inotify, service
from dropsign.preflight.finding import Finding, Level, Setup, exit_code, fail, mistake, ok

__all__ = ["Finding", "Level", "examine", "exit_code"]

CHECKS: Final[dict[str, Callable[[Setup], Iterator[Finding]]]] = {
    "user": identity.user,
    "credentials": identity.credentials,
    "certificates": identity.certificates,
    "verify": identity.verification,
    "outbox": directories.outbox,
    "inotify": inotify.tree,
    "journal": directories.state,
    "http": directories.others,
}


def examine(path: Path, environment: Mapping[str, str], *, probe: bool) -> Iterator[Finding]:
    """Carry out all checks, one after the other.

    Args:
        path: the configuration file.
        environment: its overrides, and where systemd put credentials.
        probe: also ask the service for a signature.
    """
    try:
        setup = Setup(config.load(path, environment), environment)
    except ConfigurationError as error:
        yield from map(mistake, error.mistakes)
        return
    yield ok("configuration", f"{path} is valid")
    for name, check in (*CHECKS.items(), *([("service.url", service.check)] if probe else [])):
        try:
            yield from check(setup)
        except OSError as error:
            yield fail(name, f"could not be checked: {error}", "run it as the daemon's user")
