"""The folder that everybody uses.

Conventions: names are checked here, once, for all back ends; the back end does the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

from e2i.errors import ConfigError
from e2i.storage.locations import READ_ONLY, Location, check_name, locate
from e2i.storage.store import FileInfo, Store


class Folder:
    """A folder on any fsspec file system.

    Equal folders have equal URLs. A folder can be pickled (its storage options go along) and used
    from many threads at once. The methods that take a name raise `ConfigError` for one that is not
    relative, and those of the `StorageError` tree: `StorageUnavailableError` for an outage,
    `StoragePermissionError` for missing rights or credentials, `StorageFullError`.
    """

    def __init__(
        self, url: str | Path, storage_options: Mapping[str, object] | None = None
    ) -> None:
        """Point at a folder; nothing is touched until it is used.

        Args:
            url: a local path, or any fsspec URL. A relative path is relative to the working
                directory of this moment.
            storage_options: what fsspec's file system takes (for `s3://`: `key`, `secret`,
                `endpoint_url`, `profile`, `client_kwargs`, `config_kwargs`, ...). Without them
                S3 is configured as for every AWS tool, by its environment variables and files.

        Raises:
            ConfigError: the protocol is unknown, its package is missing, or the URL is malformed.
        """
        location, found = locate(url)
        self._location = location
        self._options: dict[str, object] = {**found, **(storage_options or {})}
        self._store = _open_store(location, self._options)

    @property
    def url(self) -> str:
        """Its location, without credentials: absolute path or URL."""
        return self._location.url

    @property
    def local_path(self) -> Path | None:
        """The folder on the local disk, or None."""
        return Path(self._location.path) if self._location.protocol == "file" else None

    def folder(self, name: str) -> Folder:
        """The folder below this one."""
        check_name(name)
        below = Folder.__new__(Folder)
        below.__setstate__((self._location.below(name), self._options))
        return below

    def read(self, name: str) -> bytes:
        """All bytes.

        Raises:
            StorageNotFoundError: there is no such object.
        """
        check_name(name)
        return self._store.read(name)

    def read_versioned(self, name: str) -> tuple[bytes, str]:
        """All bytes, and the version to give to `replace`.

        Raises:
            StorageNotFoundError: there is no such object.
        """
        check_name(name)
        return self._store.read_versioned(name)

    def open(self, name: str) -> BinaryIO:
        """A seekable reader; close it, or use it in a `with`.

        It reads the bytes of the version that it found, however large, without holding all of
        them; where a store cannot promise that, a change in between is an error.

        Raises:
            StorageNotFoundError: there is no such object.
        """
        check_name(name)
        return self._store.open(name)

    def write(self, name: str, data: bytes | memoryview, *, durable: bool = True) -> None:
        """Write, replacing what is there, in one step.

        Args:
            name: of the object.
            data: its bytes.
            durable: whether it survives a power cut once this returns. Without it, that takes a
                `flush` after the last of many small writes, each of which is much quicker on a
                disk; a killed process loses nothing either way.
        """
        self._check_writable(name)
        self._store.write(name, data, durable=durable)

    def flush(self) -> None:
        """Make all that was written survive a power cut."""
        self._store.flush()

    def create(self, name: str, data: bytes | memoryview) -> bool:
        """Write if the name is free, in one step; False if it was taken (and nothing is written).

        Of many who create one name at once, exactly one gets True.
        """
        self._check_writable(name)
        return self._store.create(name, data)

    def replace(self, name: str, data: bytes | memoryview, version: str | None) -> str:
        """Write if the object still is `version` (None: does not exist); the new version.

        Raises:
            StaleWriteError: somebody else wrote in between.
        """
        self._check_writable(name)
        return self._store.replace(name, data, version)

    def delete(self, name: str) -> None:
        """Delete; no error if it is gone."""
        self._check_writable(name)
        self._store.delete(name)

    def sweep(self, older_than_s: float) -> int:
        """Delete what writes that were broken off have left in the folder; how much that was.

        It is in no listing and in nobody's way, but takes space.

        Args:
            older_than_s: seconds; what is younger may be of a write that is going on.
        """
        return self._store.sweep(older_than_s)

    def info(self, name: str) -> FileInfo | None:
        """The object, or None."""
        check_name(name)
        return self._store.info(name)

    def infos(self, names: Iterable[str]) -> dict[str, FileInfo]:
        """The objects under these names, by name; those that do not exist are left out."""
        wanted = list(names)
        for name in wanted:
            if "/" in name or "\0" in name or name.startswith(".") or not name:
                check_name(name)
        return self._store.infos(wanted)

    def files(self, below: str = "") -> list[FileInfo]:
        """All objects in the folder `below`, at any depth, sorted by name; empty if there are none.

        Names are relative to this folder, not to `below`.
        """
        if below:
            check_name(below)
        return sorted(self._store.files(below), key=lambda file: file.name)

    def _check_writable(self, name: str) -> None:
        check_name(name)
        if self._location.protocol in READ_ONLY:
            hub = self._location.protocol == "hf"
            raise ConfigError(
                f"{self._location.protocol}:// is for reading: got {self.url} to write to, "
                "expected a local path, memory:// or s3://. "
                + ("Use the option --hf-dataset." if hub else "Write to another folder.")
            )

    def __repr__(self) -> str:
        return f"Folder({self.url!r})"

    def __eq__(self, other: object) -> bool:
        return self.url == other.url if isinstance(other, Folder) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.url)

    def __getstate__(self) -> tuple[Location, dict[str, object]]:
        return self._location, self._options

    def __setstate__(self, state: tuple[Location, dict[str, object]]) -> None:
        self._location, self._options = state
        self._store = _open_store(self._location, self._options)


def _open_store(location: Location, options: dict[str, object]) -> Store:
    """The back end; each is imported when it is first asked for, since some take a second."""
    if location.protocol == "file":
        from e2i.storage.local import LocalStore  # noqa: PLC0415

        return LocalStore(location)
    if location.protocol == "memory":
        from e2i.storage.memory import MemoryStore  # noqa: PLC0415

        return MemoryStore(location)
    if location.protocol == "s3":
        from e2i.storage.s3 import S3Store  # noqa: PLC0415

        return S3Store(location, options)
    from e2i.storage.generic import GenericStore  # noqa: PLC0415

    return GenericStore(location, options)
