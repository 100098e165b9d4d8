"""The verb `unit`: systemd's files for this installation, for who did not install a package."""

import shutil
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from dropsign.cli import console
from dropsign.errors import ConfigurationError


class Kind(StrEnum):
    """Which of systemd's files."""

    SERVICE = "service"
    INSTANCES = "instances"
    SYSUSERS = "sysusers"
    TMPFILES = "tmpfiles"


_FILES: Final = {
    Kind.SERVICE: "dropsign.service",
    Kind.INSTANCES: "dropsign@.service",
    Kind.SYSUSERS: "dropsign.sysusers",
    Kind.TMPFILES: "dropsign.tmpfiles",
}

_PACKAGED: Final = "/usr/bin/dropsign"
"""The program that the units in the package start."""


def unit(
    kind: Annotated[
        Kind,
        typer.Argument(
            help="The unit of one outbox; the template for several; accounts (sysusers.d); directories (tmpfiles.d)."
        ),
    ] = Kind.SERVICE,
) -> None:
    """Print the systemd unit that starts this very program."""
    from importlib import resources

    text = resources.files("dropsign").joinpath("systemd", _FILES[kind]).read_text("utf-8")
    console.out.print(text.replace(f"ExecStart={_PACKAGED} ", f"ExecStart={_program()} "), markup=False, end="")


def _program() -> Path:
    """Return where this program is, as systemd must name it.

    Raises:
        ConfigurationError: it was not started as a program that can be named.
    """
    found = shutil.which(sys.argv[0])
    if found is None or Path(found).name != "dropsign":
        msg = f"{sys.argv[0]}: is not the installed program dropsign; start it by its full path"
        raise ConfigurationError(msg)
    path = Path(found).absolute()
    if any(character.isspace() or character in "%\\\"'" for character in str(path)):
        msg = f"{path}: systemd would take this path for another; install dropsign where its path is plain"
        raise ConfigurationError(msg)
    return path
