"""The local disk, with the guarantees of an object store.

Conventions: an object is written under a temporary name (`.e2i-<random>.tmp`) in its own folder,
flushed to the disk, then given its name in one step: by a hard link for `create` (which fails when
the name is taken), by a rename otherwise. That step happens under an advisory lock (flock) on the
folder, so that comparing versions and renaming are one step among all processes that use this
module. File systems without hard links (exFAT, some network mounts): `create` then looks and
renames under the same lock. File systems that cannot lock a folder (NFS) get a lock file
`.e2i-lock` in it. Temporary files that a killed process left behind are in no listing and in
nobody's way, until `sweep` deletes them.

A version is the modification time in ns and the size. The modification time is set from the clock
and raised above the one that it replaces, because file systems round it to their tick: two
versions of a name never share it.
"""

# ruff: noqa: D102 - Folder documents the methods, once.

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from e2i.errors import StorageError
from e2i.storage import translation
from e2i.storage.locations import RESERVED_PREFIX, Location, join
from e2i.storage.store import FileInfo, Store

_TEMPORARY = ".tmp"
_LOCK_NAME = RESERVED_PREFIX + "lock"
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_NO_FOLDER_LOCKS = {errno.EBADF, errno.EINVAL, errno.EISDIR, errno.ENOTSUP, errno.EOPNOTSUPP}


class LocalStore(Store):
    """A folder on the local disk."""

    def __init__(self, location: Location) -> None:
        self._root = location.path

    def read_versioned(self, name: str) -> tuple[bytes, str]:
        with self.open(name) as file, self._translated("read", name):
            return file.read(), _version(os.fstat(file.fileno()))

    def open(self, name: str) -> BinaryIO:
        try:
            with self._translated("read", name):
                return Path(self._path(name)).open("rb")
        except StorageError as error:
            if isinstance(error.__cause__, IsADirectoryError | NotADirectoryError):
                raise translation.not_found(self._path(name)) from error.__cause__
            raise

    def write(self, name: str, data: bytes | memoryview, *, durable: bool = True) -> None:
        if not durable and self.info(name) is None:  # then there is no version to rise above
            with self._translated("write", name):
                self._write_new(name, data)
            return
        staged = self._staged(name, data, durable=durable)
        with self._translated("write", name), staged as temporary:
            with _locked(temporary.parent):
                _move(temporary, self._path(name))
            if durable:
                _flush_folder(temporary.parent)

    def _write_new(self, name: str, data: bytes | memoryview) -> None:
        """Write in one step, with as few calls as can be, and without waiting for the disk."""
        target = self._path(name)
        folder, _, _ = target.rpartition("/")
        temporary = f"{folder}/{RESERVED_PREFIX}{uuid.uuid4().hex}{_TEMPORARY}"
        try:
            try:
                descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)
            except FileNotFoundError:
                Path(folder).mkdir(parents=True, exist_ok=True)
                descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)
            with open(descriptor, "wb") as file:  # noqa: PTH123
                file.write(data)
            os.rename(temporary, target)  # noqa: PTH104
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108
            raise

    def flush(self) -> None:
        os.sync()

    def create(self, name: str, data: bytes | memoryview) -> bool:
        if self.info(name) is not None:
            return False
        with self._translated("write", name), self._staged(name, data) as temporary:
            with _locked(temporary.parent):
                created = _claim(temporary, self._path(name))
            _flush_folder(temporary.parent)
            return created

    def replace(self, name: str, data: bytes | memoryview, version: str | None) -> str:
        target = self._path(name)
        with self._translated("write", name), self._staged(name, data) as temporary:
            with _locked(temporary.parent):
                stored = self.info(name)
                found = stored.version if stored else None
                if found != version:
                    raise translation.stale(target, found, version)
                if version is not None:
                    _move(temporary, target)
                elif not _claim(temporary, target):
                    raise translation.stale(target, "unknown", version)
                written = _version(os.stat(target))  # noqa: PTH116
            _flush_folder(temporary.parent)
            return written

    def delete(self, name: str) -> None:
        path = Path(self._path(name))
        with (
            self._translated("delete", name),
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
            _locked(path.parent),
        ):
            if not path.is_dir():
                path.unlink()

    def sweep(self, older_than_s: float) -> int:
        swept = 0
        with self._translated("delete", ""):
            for above, _, names in os.walk(self._root):
                for name in names:
                    if name.startswith(RESERVED_PREFIX) and name.endswith(_TEMPORARY):
                        swept += _unlink_old(os.path.join(above, name), older_than_s)  # noqa: PTH118
        return swept

    def info(self, name: str) -> FileInfo | None:
        with self._translated("read", name):
            try:
                found = os.stat(self._path(name))  # noqa: PTH116 - exact characters
            except (FileNotFoundError, NotADirectoryError):
                return None
        return _describe(name, found) if stat.S_ISREG(found.st_mode) else None

    def infos(self, names: Sequence[str]) -> dict[str, FileInfo]:
        """As `info`, with less done a name: there may be a million of them."""
        found: dict[str, FileInfo] = {}
        start = join(self._root, "x")[:-1]
        for name in names:
            try:
                status = os.stat(start + name)  # noqa: PTH116
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise translation.from_os_error(error, "read", start + name) from error
            if stat.S_ISREG(status.st_mode):
                found[name] = _describe(name, status)
        return found

    def files(self, below: str) -> list[FileInfo]:
        with self._translated("list", below):
            return list(_walk(self._path(below), below, ()))

    def _path(self, name: str) -> str:
        return join(self._root, name)

    @contextlib.contextmanager
    def _translated(self, action: str, name: str) -> Iterator[None]:
        try:
            yield
        except StorageError:
            raise
        except OSError as error:
            raise translation.from_os_error(error, action, self._path(name)) from error

    @contextlib.contextmanager
    def _staged(
        self, name: str, data: bytes | memoryview, *, durable: bool = True
    ) -> Iterator[Path]:
        """The data on the disk under a temporary name, which is gone afterwards."""
        folder = Path(self._path(name)).parent
        temporary = folder / f"{RESERVED_PREFIX}{uuid.uuid4().hex}{_TEMPORARY}"
        try:
            try:
                file = temporary.open("xb")
            except FileNotFoundError:
                folder.mkdir(parents=True, exist_ok=True)
                file = temporary.open("xb")
            with file:
                file.write(data)
                file.flush()
                now = time.time_ns()
                os.utime(file.fileno(), ns=(now, now))
                if durable:
                    os.fsync(file.fileno())
            yield temporary
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _unlink_old(path: str, older_than_s: float) -> bool:
    """Delete a file that has not been written to for so long; whether it was deleted."""
    try:
        old = time.time() - os.stat(path).st_mtime > older_than_s  # noqa: PTH116
        if old:
            os.unlink(path)  # noqa: PTH108
    except FileNotFoundError:
        return False
    return old


def _version(found: os.stat_result) -> str:
    return f"{found.st_mtime_ns}-{found.st_size}"


def _describe(name: str, found: os.stat_result) -> FileInfo:
    return FileInfo(name=name, size_bytes=found.st_size, version=_version(found))


def _move(temporary: Path, target: str) -> None:
    """Give the temporary file its name, with a later modification time than what it replaces."""
    try:
        replaced_ns = os.stat(target).st_mtime_ns  # noqa: PTH116
    except FileNotFoundError:
        replaced_ns = 0
    if temporary.stat().st_mtime_ns <= replaced_ns:
        os.utime(temporary, ns=(replaced_ns + 1, replaced_ns + 1))
    temporary.replace(target)


def _claim(temporary: Path, target: str) -> bool:
    """Give the temporary file its name if that is free; needs the folder's lock."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        if Path(target).is_dir():
            raise IsADirectoryError(errno.EISDIR, "a folder", target) from None
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if os.path.lexists(target):
            return False
        temporary.rename(target)
    return True


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The folder's lock, which ends with the process that holds it, however that ends."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_FOLDER_LOCKS:
                raise
            os.close(descriptor)
            descriptor = os.open(folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    """Make a new name survive a power cut; file systems that cannot are let off."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _walk(path: str, name: str, above: tuple[tuple[int, int], ...]) -> Iterator[FileInfo]:
    """The files below a folder; links are followed, but not in circles. What vanishes is left."""
    try:
        here = os.stat(path)  # noqa: PTH116
        if (here.st_dev, here.st_ino) in above:
            return
        with os.scandir(path) as entries:
            found = list(entries)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        if name:
            return
        raise
    for entry in found:
        if entry.name.startswith(RESERVED_PREFIX):
            continue
        below = join(name, entry.name)
        try:
            status = entry.stat()
        except FileNotFoundError:
            continue
        if stat.S_ISDIR(status.st_mode):
            yield from _walk(entry.path, below, (*above, (here.st_dev, here.st_ino)))
        elif stat.S_ISREG(status.st_mode):
            yield _describe(below, status)
