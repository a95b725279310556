"""What a back end has to do.

Conventions: names are checked before they come here; `Folder` documents the methods.
"""

# ruff: noqa: D102 - Folder documents the methods, once.

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One stored object.

    Attributes:
        name: relative to the folder.
        size_bytes: its size.
        version: changes when the bytes change: from the modification time in ns, or the ETag.
    """

    name: str
    size_bytes: int
    version: str


class Store(ABC):
    """One folder on one back end."""

    def read(self, name: str) -> bytes:
        return self.read_versioned(name)[0]

    @abstractmethod
    def read_versioned(self, name: str) -> tuple[bytes, str]: ...

    @abstractmethod
    def open(self, name: str) -> BinaryIO: ...

    @abstractmethod
    def write(self, name: str, data: bytes | memoryview, *, durable: bool = True) -> None: ...

    def flush(self) -> None:  # noqa: B027 - most stores have nothing to do
        """Nothing to do where a write is durable anyway, or never."""

    @abstractmethod
    def create(self, name: str, data: bytes | memoryview) -> bool: ...

    @abstractmethod
    def replace(self, name: str, data: bytes | memoryview, version: str | None) -> str: ...

    @abstractmethod
    def delete(self, name: str) -> None: ...

    def sweep(self, older_than_s: float) -> int:  # noqa: ARG002
        """Nothing to do where a write that was broken off leaves nothing behind."""
        return 0

    @abstractmethod
    def info(self, name: str) -> FileInfo | None: ...

    def infos(self, names: Sequence[str]) -> dict[str, FileInfo]:
        found = {name: self.info(name) for name in names}
        return {name: info for name, info in found.items() if info is not None}

    @abstractmethod
    def files(self, below: str) -> list[FileInfo]:
        """In any order."""
