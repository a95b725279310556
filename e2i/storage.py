"""One folder object over fsspec, and the only user of fsspec in e2i.

Conventions: names are relative, `/` between folders, never with `..`. A URL is any fsspec URL or a
local path (relative to the working directory, `~` expanded). Writes are atomic: a name holds the
old bytes or the new ones, never a part. Nothing is cached: a listing is what lies there now.
Errors of all back ends come as the `StorageError` tree; credentials appear in none of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One stored object.

    Attributes:
        name: relative to the folder.
        size_bytes: its size.
        version: changes when the bytes change: modification time in ns, or the ETag.
    """

    name: str
    size_bytes: int
    version: str


class Folder:
    """A folder on any fsspec file system."""

    def __init__(self, url: str | Path, storage_options: Mapping[str, object] | None = None) -> None:
        """Point at a folder; nothing is touched until it is used.

        Raises:
            ConfigError: the protocol is unknown, or the URL is malformed.
        """

    @property
    def url(self) -> str:
        """Its location, without credentials: absolute path or URL."""

    @property
    def local_path(self) -> Path | None:
        """The folder on the local disk, or None."""

    def folder(self, name: str) -> "Folder":
        """The folder below this one."""

    def read(self, name: str) -> bytes:
        """All bytes. Raises StorageNotFoundError."""

    def read_versioned(self, name: str) -> tuple[bytes, str]:
        """All bytes, and the version to give to `replace`."""

    def open(self, name: str) -> BinaryIO:
        """A seekable reader."""

    def write(self, name: str, data: bytes) -> None:
        """Write, replacing what is there."""

    def create(self, name: str, data: bytes) -> bool:
        """Write if the name is free, in one step; False if it was taken (and nothing is written)."""

    def replace(self, name: str, data: bytes, version: str | None) -> str:
        """Write if the object still is `version` (None: does not exist); the new version.

        Raises:
            StaleWriteError: somebody else wrote in between.
        """

    def delete(self, name: str) -> None:
        """Delete; no error if it is gone."""

    def info(self, name: str) -> FileInfo | None:
        """The object, or None."""

    def files(self, below: str = "") -> list[FileInfo]:
        """All objects below, at any depth, sorted by name; empty if there are none."""
