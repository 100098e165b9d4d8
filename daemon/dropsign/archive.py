"""Archives that are the same bytes whenever they hold the same: `.tar.gz` and `.zip`, written as a stream."""

import gzip
import tarfile
import zipfile
from collections.abc import Iterable
from typing import BinaryIO, Final, Protocol

SUFFIXES: Final = (".tar.gz", ".tgz", ".zip")

_TIME: Final = 315_532_800
"""1980-01-01 UTC, seconds since the epoch: the first time that a zip can hold, and no tool finds it implausible."""
_ZIP_TIME: Final = (1980, 1, 1, 0, 0, 0)
_MODE: Final = 0o644
_LEVEL: Final = 6


class Archive(Protocol):
    """What members are added to, one after the other."""

    def add(self, name: bytes, size: int, pieces: Iterable[bytes]) -> None:
        """Add a member.

        Args:
            name: its path in the archive.
            size: of its content, in bytes.
            pieces: the content.
        """

    def close(self) -> None:
        """Write the end; the file below stays open."""


def create(suffix: str, file: BinaryIO) -> Archive:
    """Begin an archive in a seekable file.

    Args:
        suffix: one of `SUFFIXES`.
        file: open for writing, empty.
    """
    return Zip(file) if suffix == ".zip" else TarGz(file)


class TarGz:
    """A tar in GNU's format, which holds any name and any size; tarfile itself would remember every member."""

    def __init__(self, file: BinaryIO) -> None:
        self._out = gzip.GzipFile("", "wb", _LEVEL, file, mtime=0)

    def add(self, name: bytes, size: int, pieces: Iterable[bytes]) -> None:
        """See Archive."""
        member = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
        member.size, member.mtime, member.mode = size, _TIME, _MODE
        self._out.write(member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape"))
        for piece in pieces:
            self._out.write(piece)
        self._out.write(bytes(-size % tarfile.BLOCKSIZE))

    def close(self) -> None:
        """See Archive."""
        self._out.write(bytes(2 * tarfile.BLOCKSIZE))
        self._out.close()


class Zip:
    """A zip, with 64-bit sizes where they are needed; its names are UTF-8."""

    def __init__(self, file: BinaryIO) -> None:
        self._out = zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL)

    def add(self, name: bytes, size: int, pieces: Iterable[bytes]) -> None:
        """See Archive.

        Raises:
            UnicodeDecodeError: the name is not UTF-8.
        """
        member = zipfile.ZipInfo(name.decode("utf-8"), _ZIP_TIME)
        member.compress_type = zipfile.ZIP_DEFLATED
        member.create_system = 3  # Unix, wherever it is made
        member.external_attr = (0o100000 | _MODE) << 16
        member.file_size = size
        with self._out.open(member, "w") as out:
            for piece in pieces:
                out.write(piece)

    def close(self) -> None:
        """See Archive."""
        self._out.close()
