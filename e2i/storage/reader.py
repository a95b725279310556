"""A seekable reader over ranges of an object, for `io.BufferedReader` to sit on.

Conventions: whoever fetches makes sure that all ranges are of one version.
"""

# ruff: noqa: D102 - io.RawIOBase documents the methods.

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BLOCK_BYTES = 4 * 2**20
"""What one small read fetches; objects up to this size are fetched whole."""


class RangeReader(io.RawIOBase):
    """Reads `[start, stop)` through a function; not for use by several threads at once."""

    def __init__(self, fetch: Callable[[int, int], bytes], size_bytes: int) -> None:
        super().__init__()
        self._fetch = fetch
        self._size_bytes = size_bytes
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        if base + offset < 0:
            raise ValueError(f"seek before the start: got {base + offset}, expected 0 or more.")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        part = self._read(len(view))
        view[: len(part)] = part
        return len(part)

    def readall(self) -> bytes:
        return self._read(self._size_bytes)

    def _read(self, count: int) -> bytes:
        stop = min(self._position + count, self._size_bytes)
        if stop <= self._position:
            return b""
        part = self._fetch(self._position, stop)
        self._position += len(part)
        return part
