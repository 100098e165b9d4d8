"""The chain from the intake to the pool, wired to real doors: that a part of it that ends does not end unseen."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dropsign import config, credentials, log
from dropsign.gate import Closed
from dropsign.journal import Journal
from dropsign.metrics import Metrics
from dropsign.model import Drop, Fingerprint
from dropsign.outbox import Outbox
from dropsign.pipeline import Doors, Listeners, Pipeline
from dropsign.report import Report
from dropsign.rescan import Finished
from dropsign.signer import Signer
from tests.support.sandbox import SLOWNESS, Sandbox


async def _nothing() -> None:
    pass


def _ignore(*_: Closed | Finished | float) -> None:
    pass


@contextmanager
def wired(box: Sandbox, journal: Journal) -> Iterator[Pipeline]:
    """Wire a pipeline for a sandbox's outbox."""
    configuration = config.load(box.config, os.environ)
    signer = Signer(configuration.service, credentials.load(configuration, os.environ))
    observer = Report(log.configure("json", "info", box.directory / "log"), Metrics("test"))
    outbox = Outbox(box.outbox)
    try:
        listeners = Listeners(observer, _ignore, _ignore, _nothing, _ignore)
        yield Pipeline(configuration, Doors(outbox, journal, signer, None), listeners)
    finally:
        outbox.close()


def _backlog(path: Path, file: Path) -> None:
    """Have a file wait in a journal."""
    journal = Journal(path)
    name = os.fsencode(file.name)
    journal.queue(Drop(name, Fingerprint.of(file.stat()), ticket=journal.next_ticket()))
    journal.close()


def test_a_worker_does_not_die_unseen(idle_box: Sandbox) -> None:
    """A worker that cannot go on, here because the journal ended, tells so; nobody else would miss it."""
    _backlog(idle_box.journal, idle_box.drop("file"))

    async def main() -> None:
        journal = Journal(idle_box.journal)
        with wired(idle_box, journal) as pipeline:
            ended: asyncio.Queue[asyncio.Task[None]] = asyncio.Queue()
            journal.close()
            pipeline.pool.start(ended.put_nowait)
            async with asyncio.timeout(20 * SLOWNESS):
                worker = await ended.get()
            assert "the journal is closed" in str(worker.exception())
            await pipeline.pool.stop(0)

    asyncio.run(main())
