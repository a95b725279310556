"""Objects in the memory of this process, shared by all `memory://` folders in it.

Conventions: they lie in fsspec's own memory file system, so that other libraries see them too. A
version is a hash of the bytes. One lock makes each operation one step.
"""

# ruff: noqa: D102 - Folder documents the methods, once.

from __future__ import annotations

import hashlib
import io
import threading
from typing import BinaryIO

from fsspec.implementations.memory import MemoryFileSystem

from e2i.errors import StorageNotFoundError
from e2i.storage import translation
from e2i.storage.locations import Location, join
from e2i.storage.store import FileInfo, Store

_lock = threading.RLock()


class MemoryStore(Store):
    """A folder in memory."""

    def __init__(self, location: Location) -> None:
        self._root = location.path
        self._url = location.url
        self._files = MemoryFileSystem()

    def read_versioned(self, name: str) -> tuple[bytes, str]:
        with _lock:
            try:
                data = bytes(self._files.cat_file(join(self._root, name)))
            except (FileNotFoundError, IsADirectoryError) as error:
                raise translation.not_found(join(self._url, name)) from error
        return data, _version(data)

    def open(self, name: str) -> BinaryIO:
        return io.BytesIO(self.read_versioned(name)[0])

    def write(self, name: str, data: bytes | memoryview, *, durable: bool = True) -> None:  # noqa: ARG002
        with _lock:
            try:
                self._files.pipe_file(join(self._root, name), bytes(data))
            except OSError as error:
                raise translation.from_os_error(error, "write", join(self._url, name)) from error

    def create(self, name: str, data: bytes | memoryview) -> bool:
        with _lock:
            if self._files.isfile(join(self._root, name)):
                return False
            self.write(name, data)
            return True

    def replace(self, name: str, data: bytes | memoryview, version: str | None) -> str:
        with _lock:
            stored = self.info(name)
            found = stored.version if stored else None
            if found != version:
                raise translation.stale(join(self._url, name), found, version)
            self.write(name, data)
        return _version(data)

    def delete(self, name: str) -> None:
        with _lock:
            if self._files.isfile(join(self._root, name)):
                self._files.rm_file(join(self._root, name))

    def info(self, name: str) -> FileInfo | None:
        try:
            data, version = self.read_versioned(name)
        except StorageNotFoundError:
            return None
        return FileInfo(name, len(data), version)

    def files(self, below: str) -> list[FileInfo]:
        folder = join(self._root, below).rstrip("/") + "/"
        start = len(self._root.rstrip("/")) + 1
        with _lock:
            names = [path[start:] for path in self._files.store if path.startswith(folder)]
            found = [self.info(name) for name in names]
        return [file for file in found if file is not None]


def _version(data: bytes | memoryview) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
