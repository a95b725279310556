"""Unpacking 7z archives of recordings: whole or not at all, and never out of their folder.

Conventions: a member is a plain file with a relative name. One folder that all files share (Clotho
names it after the split) is left out, so `development/rain.wav` lands as `rain.wav`. What is
refused is refused before anything is written: absolute names, drive letters, `..`, links, devices,
one name twice. Members are written one by one in blocks, so memory does not grow with the archive,
and each is checked against the CRC in the archive.

Source of the format: https://www.7-zip.org/7z.html, read by py7zr.
"""

from __future__ import annotations

import contextlib
import lzma
import re
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import py7zr
from py7zr.exceptions import ArchiveError, PasswordRequired
from py7zr.io import Py7zIO, WriterFactory

from e2i.errors import DatasetError, StorageError
from e2i.storage import translation

_DRIVE = re.compile(r"[A-Za-z]:")
_BLOCK_BYTES = 1 << 20
# What py7zr raises for bytes that are no sound archive.
_BROKEN = (
    ArchiveError,
    PasswordRequired,
    lzma.LZMAError,
    zlib.error,
    struct.error,
    EOFError,
    UnicodeDecodeError,
)
_STEP = "Fetch the archive again, or another one."


@dataclass(frozen=True, slots=True)
class Member:
    """One recording in an archive.

    Attributes:
        archived_name: as the archive has it.
        name: relative to the folder that the recordings are unpacked into, with `/`.
        size_bytes: unpacked.
        crc32: of the unpacked bytes; None where the archive has none.
    """

    archived_name: str
    name: str
    size_bytes: int
    crc32: int | None


def read_members(archive: Path) -> list[Member]:
    """What an archive holds, from its header.

    Raises:
        DatasetError: it is no 7z archive, is encrypted, holds no files, or a member is one that
            is refused; the message names it.
        StorageError: it cannot be read.
    """
    with _opened(archive) as content:
        entries = list(content.files)
    names = [entry.filename for entry in entries]
    above = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    files = []
    for entry in entries:
        _check_name(entry.filename, archive)
        folder_by_use = entry.emptystream and entry.filename.rstrip("/") in above
        if entry.is_directory or folder_by_use:
            continue
        if entry.is_symlink or entry.is_junction or not entry.is_file:
            kind = "a link" if entry.is_symlink or entry.is_junction else "a special file"
            raise DatasetError(
                f"{archive.name} holds what is no recording: got {kind}, member "
                f"{entry.filename!r}, expected plain files only. {_STEP}"
            )
        files.append(entry)
    if not files:
        raise DatasetError(
            f"{archive.name} holds no files: got {len(entries)} members that are folders, "
            f"expected recordings. {_STEP}"
        )
    relative = _without_shared_folder([PurePosixPath(entry.filename) for entry in files])
    members = [
        Member(entry.filename, str(name), entry.uncompressed, entry.crc32)
        for entry, name in zip(files, relative, strict=True)
    ]
    _check_distinct(members, archive)
    return members


def unpack(
    archive: Path,
    members: Sequence[Member],
    folder: Path,
    progress: Callable[[int], None],
) -> None:
    """Unpack all members into an empty folder.

    Args:
        archive: a 7z archive.
        members: what `read_members` found in it.
        folder: made if it is not there.
        progress: told how many more bytes are written; may raise to stop.

    Raises:
        DatasetError: the archive is broken, or a member is not what its header says.
        StorageError: the folder cannot be written.
    """
    writers = _Writers(folder, members, progress)
    with contextlib.closing(writers), _opened(archive) as content:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            content.extractall(folder.absolute(), factory=writers)
        except _BROKEN as error:
            raise _broken(archive, error) from error
        except StorageError:
            raise
        except OSError as error:
            raise translation.from_os_error(error, "unpack recordings", str(folder)) from error
    for member in members:
        path = folder / member.name
        found = path.stat().st_size if path.is_file() else None
        if found != member.size_bytes:
            raise DatasetError(
                f"{archive.name} did not unpack whole: got {found} bytes of "
                f"{member.archived_name!r}, expected {member.size_bytes}. {_STEP}"
            )


def holds_all(folder: Path, members: Sequence[Member]) -> bool:
    """Whether a folder already holds every member with the archive's size and CRC."""
    try:
        if any((folder / member.name).stat().st_size != member.size_bytes for member in members):
            return False
        return all(
            member.crc32 is not None and _crc32(folder / member.name) == member.crc32
            for member in members
        )
    except OSError:
        return False


def move_into(unpacked: Path, folder: Path) -> None:
    """Give an unpacked folder its name; where one of that name exists, replace file by file.

    Files of the existing folder that the archive does not hold stay.

    Raises:
        StorageError: the file system refused.
    """
    try:
        if not folder.exists():
            unpacked.rename(folder)
            return
        for path in sorted(unpacked.rglob("*")):
            target = folder / path.relative_to(unpacked)
            if path.is_dir():
                target.mkdir(exist_ok=True)
            else:
                path.replace(target)
        shutil.rmtree(unpacked)
    except OSError as error:
        raise translation.from_os_error(error, "move recordings", str(folder)) from error


class _Writer(Py7zIO):
    """The file that one member is written to."""

    def __init__(self, file: BinaryIO, progress: Callable[[int], None]) -> None:
        self._file = file
        self._progress = progress
        self._size_bytes = 0

    def write(self, s: bytes | bytearray) -> int:
        self._file.write(s)
        self._size_bytes += len(s)
        self._progress(len(s))
        return len(s)

    def read(self, size: int | None = None) -> bytes:  # noqa: ARG002 - py7zr's interface
        return b""

    def seekable(self) -> bool:
        return False

    def seek(self, offset: int, whence: int = 0) -> int:  # noqa: ARG002 - py7zr's interface
        return 0

    def flush(self) -> None:
        self._file.flush()

    def size(self) -> int:
        return self._size_bytes

    def close(self) -> None:
        self._file.close()


class _Writers(WriterFactory):
    """Opens a member's file when its turn comes; at most one is open at a time."""

    def __init__(
        self, folder: Path, members: Sequence[Member], progress: Callable[[int], None]
    ) -> None:
        self._folder = folder
        self._names = {PurePosixPath(member.archived_name): member.name for member in members}
        self._progress = progress
        self._open: BinaryIO | None = None

    def create(self, filename: str) -> Py7zIO:
        """The writer of a member, which py7zr names by its path below the folder."""
        self.close()
        archived = PurePosixPath(filename).relative_to(self._folder.absolute().as_posix())
        path = self._folder / self._names[archived]
        path.parent.mkdir(parents=True, exist_ok=True)
        self._open = path.open("wb")
        return _Writer(self._open, self._progress)

    def close(self) -> None:
        """Close what a failed extraction left open."""
        if self._open is not None:
            self._open.close()
            self._open = None


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[py7zr.SevenZipFile]:
    """The archive; py7zr extracts in this thread when it is handed an open file."""
    try:
        file = archive.open("rb")
    except OSError as error:
        raise translation.from_os_error(error, "read the archive", str(archive)) from error
    with file:
        try:
            content = py7zr.SevenZipFile(file, "r")
        except (*_BROKEN, ValueError, TypeError, IndexError, KeyError) as error:
            raise _broken(archive, error) from error
        with content:
            yield content


def _broken(archive: Path, error: Exception) -> DatasetError:
    reason = str(error) or type(error).__name__
    return DatasetError(
        f"cannot unpack {archive}: got {type(error).__name__} ({reason}), expected a sound 7z "
        f"archive without a password. {_STEP}"
    )


def _check_name(name: str, archive: Path) -> None:
    """Refuse names that could lead out of the folder, on any system."""
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or _DRIVE.match(name) or ".." in parts or not name.strip("./"):
        raise DatasetError(
            f"{archive.name} reaches out of its folder: got member {name!r}, expected relative "
            "names without '..'. Nothing of it was unpacked; use the published archive."
        )


def _check_distinct(members: Sequence[Member], archive: Path) -> None:
    seen: dict[str, Member] = {}
    for member in members:
        if (first := seen.setdefault(member.name, member)) is not member:
            raise DatasetError(
                f"{archive.name} holds one recording twice: got members {first.archived_name!r} "
                f"and {member.archived_name!r}, expected each name once. {_STEP}"
            )


def _without_shared_folder(names: list[PurePosixPath]) -> list[PurePosixPath]:
    """The names below the one folder that holds them all, if there is one."""
    tops = {name.parts[0] for name in names}
    if len(tops) > 1 or any(len(name.parts) == 1 for name in names):
        return names
    return [PurePosixPath(*name.parts[1:]) for name in names]


def _crc32(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            crc = zlib.crc32(block, crc)
    return crc
