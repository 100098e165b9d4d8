"""The systemd unit that serves an outbox, for advice; pure."""

from pathlib import Path
from typing import Final

_RUNTIME: Final = Path("/run/dropsign")
"""RuntimeDirectory= of dropsign.service; an instance of dropsign@.service has a directory of its name in there."""


def unit_of(socket: Path | None) -> str:
    """Return the name of the unit whose daemon has this control socket."""
    if socket is not None and socket.parent.parent == _RUNTIME:
        return f"dropsign@{socket.parent.name}"
    return "dropsign"
