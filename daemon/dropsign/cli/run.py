"""`dropsign run`: the daemon, in the foreground."""

import os
import signal
from typing import Annotated, Final

import typer

_HEARD: Final = {signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1}


def run(
    context: typer.Context,
    rebuild_journal: Annotated[
        bool,
        typer.Option(
            "--rebuild-journal", help="Put the journal aside and make a new one; every FILE.sign that fits is kept."
        ),
    ] = False,
) -> int:
    """Run the daemon in the foreground."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)  # what comes before the daemon listens waits for it

    import asyncio

    from dropsign import config, log, schema, turn
    from dropsign.cli import console, streams
    from dropsign.daemon import Daemon
    from dropsign.errors import ExitCode
    from dropsign.notify import Notifier

    path = config.find(context.obj, os.environ)
    configuration = config.load(path, os.environ)
    if rebuild_journal and (aside := schema.set_aside(configuration.journal.path)) is not None:
        console.err.print(f"the old journal is now {console.name(aside)}", markup=False)
    logger = log.configure(configuration.log.format, configuration.log.level, configuration.log.file)

    async def serve() -> int:
        if not await turn.come(configuration, logger, Notifier(os.environ)):
            return ExitCode.DONE
        return await Daemon(path, os.environ, logger, configuration).run()

    try:
        return asyncio.run(serve())
    finally:
        streams.forgive()
