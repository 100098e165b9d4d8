"""`dropsign run`: the daemon, in the foreground."""

import asyncio
import os

import typer


def run(context: typer.Context) -> int:
    """Run the daemon in the foreground."""
    from dropsign import config, log
    from dropsign.daemon import Daemon

    path = config.find(context.obj, os.environ)
    configuration = config.load(path, os.environ)
    logger = log.configure(configuration.log.format, configuration.log.level, configuration.log.file)

    async def serve() -> int:
        return await Daemon(path, os.environ, logger, configuration).run()

    return asyncio.run(serve())
