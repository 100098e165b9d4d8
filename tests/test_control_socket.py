"""The control socket: who may use it, that it comes back without leaving anything behind, and goes at the end."""

import asyncio
import gc
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from dropsign.api import Api, Sources
from dropsign.errors import ConfigurationError
from dropsign.socketfile import SocketFile
from tests.support.sandbox import SLOWNESS, Sandbox, powerless


def test_its_directory_is_made_for_who_is_not_root(idle_box: Sandbox) -> None:
    """Where the directory is missing the daemon makes it, with the right for itself and its group to enter."""
    directory = idle_box.directory / "run" / "dropsign"
    idle_box.socket = directory / "control.sock"
    idle_box.configure("http", socket=str(idle_box.socket))
    idle_box.start_daemon(prefix=powerless())
    assert idle_box.status()["running"]
    assert stat.S_IMODE(directory.stat().st_mode) == 0o750
    assert stat.S_IMODE(idle_box.socket.stat().st_mode) == 0o660
    assert idle_box.stop_daemon() == 0
    assert not idle_box.socket.exists()


async def _nothing(*_: object) -> Any:
    return b""


def _raise(error: Exception) -> None:
    raise error


def _sources() -> Sources:
    return Sources(
        status=_nothing, healthy=lambda: True, not_ready_reasons=list, throughput=dict, exposition=_nothing,
        files=_nothing, lookup=_nothing, retry=_nothing, rescan=lambda: None, defect=_raise,
    )  # fmt: skip


def _held() -> tuple[int, int]:
    """Count what a server could leave behind: descriptors and aiohttp's servers."""
    gc.collect()
    return len(os.listdir("/proc/self/fd")), sum(isinstance(each, web.Server) for each in gc.get_objects())


def test_mending_leaves_nothing_behind(tmp_path: Path) -> None:
    """However often the socket is removed, or its directory cannot be made, one server is there and one socket."""

    async def main() -> None:
        api, path = Api(_sources()), tmp_path / "run" / "control.sock"
        await api.start(path, "")
        before = _held()
        for _ in range(5):
            path.unlink()
            assert await api.mend()
            assert not await api.mend()
            _, writer = await asyncio.open_unix_connection(path)
            writer.close()
            await writer.wait_closed()
        shutil.rmtree(path.parent)
        path.parent.write_text("in the way")
        for _ in range(5):
            assert not await api.mend()
        path.parent.unlink()
        assert await api.mend()
        assert path.is_socket()
        async with asyncio.timeout(60 * SLOWNESS):
            while _held() != before:  # noqa: ASYNC110 - connections of before end in turns of their own
                await asyncio.sleep(0.01)
        await api.close()
        assert not path.exists()

    asyncio.run(main())


def _other_file(path: Path) -> None:
    path.unlink()
    path.write_text("another's")


def _other_socket(path: Path) -> None:
    path.unlink()
    SocketFile(path).bind().close()


@pytest.mark.parametrize("replace", [_other_file, _other_socket])
def test_what_is_anothers_stays(tmp_path: Path, replace: Callable[[Path], object]) -> None:
    """What somebody put in the socket's place is not removed at the end."""
    mine = SocketFile(tmp_path / "control.sock")
    with mine.bind():
        mine.path.rename(tmp_path / "moved")  # keeps its number from being given to the other
        shutil.copyfile("/dev/null", mine.path)
        replace(mine.path)
        assert not mine.is_there
        mine.remove()
        assert mine.path.exists()


def test_another_daemons_socket_is_left_alone(tmp_path: Path) -> None:
    """Where a process answers, no socket is made, and the error says what to do."""
    path = tmp_path / "control.sock"
    with SocketFile(path).bind() as living:
        living.listen()
        with pytest.raises(ConfigurationError, match="give each outbox a socket of its own"):
            SocketFile(path).bind()
        assert path.is_socket()
