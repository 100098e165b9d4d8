"""The verb `bundle`: packs a directory for the customer, if every signature in it matches."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dropsign.cli import console, verification
from dropsign.cli.verification import KeyOption, SchemeOption
from dropsign.errors import ConfigurationError, ExitCode

if TYPE_CHECKING:
    from dropsign.config import Configuration
    from dropsign.verifying import Proof


def bundle(
    context: typer.Context,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Whose files are to be packed.")],
    out: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="OUT.tar.gz or OUT.zip.")],
    key: KeyOption = None,
    scheme: SchemeOption = None,
) -> int:
    """Pack files, signatures and a manifest for the customer; refuse if anything is unsigned or does not match."""
    from dropsign.bundle import Survey, write

    _check(directory, out)
    configuration = verification.configuration(context.obj)
    outbox = configuration.outbox if configuration else None
    proof = verification.verifier(configuration, key, scheme) or _recorded(configuration, directory)
    survey = Survey(directory, out, proof, verification.filters(configuration))
    flaws = 0
    root = os.fsencode(outbox.path) if outbox else None
    for verdict in survey.flaws(root, recursive=outbox.recursive if outbox else True):
        flaws += 1
        verification.show(verdict)
    if flaws:
        remedy = "have each signed (dropsign explain FILE tells why it is not), or take it out"
        what = f"{flaws} of the files in {directory} cannot go into it as they are"
        console.complain(f"{out} is not made: {what}; {remedy}")
        return ExitCode.SOME_FAILED
    if not survey.members:
        console.complain(f"{out} is not made: there is nothing in {directory} to pack")
        return ExitCode.SOME_FAILED
    size = write(directory, out, survey.members)
    left_out = f"; {survey.left_out} left out by outbox.include and outbox.exclude" if survey.left_out else ""
    console.out.print(
        f"{console.name(out)}: {len(survey.members)} files with their signatures, {size} bytes{left_out}", markup=False
    )
    return ExitCode.DONE


def _check(directory: Path, out: Path) -> None:
    """Find what is wrong with the command line before anything is read.

    Raises:
        ConfigurationError: it names it.
    """
    from dropsign.archive import SUFFIXES

    mistakes = []
    if not directory.is_dir():
        mistakes.append(f"{directory}: is no directory; bundle packs one")
    if not out.name.endswith(SUFFIXES):
        mistakes.append(f"{out}: its name must end in .tar.gz or .zip, which tells what to make")
    elif out.is_dir() or not out.parent.is_dir():
        mistakes.append(f"{out}: cannot be written: its directory must be there, and no directory have its name")
    if mistakes:
        raise ConfigurationError(*mistakes)


def _recorded(configuration: "Configuration | None", directory: Path) -> "Proof":
    """Return what decides by the journal, where there is no key.

    Raises:
        ConfigurationError: the directory is not in the outbox that the journal is about.
    """
    from dropsign.inquiry import Inquiry
    from dropsign.matching import Records

    if configuration is not None:
        inquiry = Inquiry(configuration)
        if Path(os.path.realpath(directory)).is_relative_to(os.fsdecode(inquiry.root)):
            return Records(inquiry)
    msg = (
        f"{directory}: lies in no outbox whose journal could tell what was signed, and there is no key to verify with;"
        " give --key FILE, or set verify.key in the configuration"
    )
    raise ConfigurationError(msg)
