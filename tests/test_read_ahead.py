"""A large file's pieces are read ahead of the sending; what nobody waits for any more must not look like a defect."""

import asyncio
import gc
import os
import threading
from pathlib import Path
from typing import Any

from dropsign import config, credentials
from dropsign.directory import OpenDrop
from dropsign.model import Fingerprint
from dropsign.signer import STREAM_PIECE, Signer
from tests.support.sandbox import SLOWNESS, Sandbox


def opened(path: Path) -> OpenDrop:
    return OpenDrop(os.open(path, os.O_RDONLY), os.fsencode(path.name), Fingerprint.of(path.stat()))


def test_a_request_that_ends_early(idle_box: Sandbox) -> None:
    """Where an answer came before the last piece was read, and the file is closed, the read's error is nobody's."""
    path = idle_box.drop("large", bytes(4 * STREAM_PIECE))
    configuration = config.load(idle_box.config, os.environ)
    told: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        signer = Signer(configuration.service, credentials.load(configuration, os.environ))
        drop, is_closed, has_read = opened(path), threading.Event(), asyncio.Event()
        request = signer.prepare_stream(drop.read_at, 4 * STREAM_PIECE)
        loop = asyncio.get_running_loop()

        def read_at(offset: int, length: int) -> bytes:
            if offset:
                is_closed.wait(60 * SLOWNESS)
                loop.call_soon_threadsafe(lambda: loop.call_later(0.05, has_read.set))
            return drop.read_at(offset, length)

        request.read_at = read_at
        async with asyncio.timeout(60 * SLOWNESS) as deadline:
            body = signer._stream(request, deadline)
            await anext(body)
            await anext(body)  # the next piece is being read
            drop.close()
            is_closed.set()
            await has_read.wait()
            await body.aclose()  # type: ignore[attr-defined]
        await signer.close()
        del body
        gc.collect()

    asyncio.run(main())
    assert told == []
