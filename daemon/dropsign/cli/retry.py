"""`dropsign retry`: puts failed files back."""

import os
from pathlib import Path
from typing import Annotated

import typer

from dropsign.cli import console
from dropsign.errors import ConfigurationError, ExitCode


def retry(
    context: typer.Context,
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="PATH", help="Failed files, or directories with such.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every failed file of the outbox.")] = False,
) -> int:
    """Put failed files back into the queue, and have deferred ones tried at once."""
    from dropsign import config
    from dropsign.control import Control
    from dropsign.inquiry import Inquiry
    from dropsign.model import State

    if bool(paths) == everything:
        msg = "name files or directories, or give --all for every failed file"
        raise ConfigurationError(msg)
    configuration = config.load(config.find(context.obj, os.environ), os.environ)
    if configuration.http.socket is None:
        msg = "http.socket: is not set, and only the running daemon can put files back"
        raise ConfigurationError(msg)
    inquiry, control = Inquiry(configuration), Control(configuration.http.socket)
    given = {inquiry.relative(path): path.is_dir() and not path.is_symlink() for path in paths or []}
    directories = [b""] if everything else [path for path, is_directory in given.items() if is_directory]
    control.status()  # retrying takes the daemon; its journal would not do
    again, others = [], 0
    for record in inquiry.lookup([path for path, is_directory in given.items() if not is_directory]):
        path = os.fsencode(record["path"])
        if record["state"] in {State.FAILED, State.DEFERRED, State.REFUSED}:
            again.append(path)
        else:
            others += 1
            console.complain(f"{record['path']}: is not failed but {record['state'] or 'unknown'}: dropsign explain")
    if again:
        control.retry(again)
    number = len(again) + (control.retry_failed(directories) if directories else 0)
    console.out.print(f"{number} put back" if number else "nothing has failed", markup=False)
    return ExitCode.SOME_FAILED if others else ExitCode.DONE
