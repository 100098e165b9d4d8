"""A daemon that finds `dropsign sign` at work on its outbox waits for its turn; one that finds a daemon does not."""

import asyncio
import os
import signal
import time
from typing import Final

from dropsign import claim, root
from dropsign.config import Configuration
from dropsign.log import Log
from dropsign.notify import Notifier

_LOOK_SECONDS: Final = 0.2

_UNKNOWN_SECONDS: Final = 1.0
"""A one-shot takes the outbox a moment before it says who it is."""


async def come(configuration: Configuration, log: Log, notifier: Notifier) -> bool:
    """Wait while a one-shot works on the outbox; systemd is told that this takes its time.

    Returns:
        Whether to start now; False if SIGTERM came meanwhile, which nobody hears before the start.
    """
    began, is_said = time.monotonic(), False
    while root.is_locked(configuration.outbox.path):
        holder = claim.holder(configuration.journal.path)
        if holder is None or holder.purpose != "sign" or not _lives(holder.process):
            if time.monotonic() - began > _UNKNOWN_SECONDS or (holder is not None and _lives(holder.process)):
                return True  # the start says what is wrong
        elif not is_said:
            is_said = True
            text = f"dropsign sign, process {holder.process}, works on {configuration.outbox.path}"
            log.warning("daemon.waiting", error=text, remedy="nothing: the daemon starts when that is over")
        notifier.waiting("waiting for dropsign sign", 10 * _LOOK_SECONDS)
        if signal.SIGTERM in signal.sigpending():
            return False
        await asyncio.sleep(_LOOK_SECONDS)
    return True


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
