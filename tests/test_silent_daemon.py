"""A daemon that is there and does not answer is not said to be down."""

import socket
from pathlib import Path

import pytest

from dropsign.control import Control
from dropsign.errors import UnreachableError


def test_a_silent_daemon_is_not_a_dead_one(tmp_path: Path) -> None:
    """Where somebody listens and says nothing, the advice is to look and to restart, not to start."""
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(
            UnreachableError, match=r"is there, but does not answer.*systemctl restart dropsign"
        ) as caught:
            Control(path, seconds=0.1).status()
    assert caught.value.is_denial
