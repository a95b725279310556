"""A file that is being fetched: its bytes so far, and what they are a part of.

`<name>.part` holds the bytes, `<name>.part.json` the address, the size and the ETag that the server
gave, and the MD5 sum that the whole file must have. A part of something else is started over.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from e2i.storage import translation

_BLOCK_BYTES = 1 << 20


class PartFile:
    """The part of one file; open while it is used as a context.

    Args:
        target: name of the whole file; the part lies beside it.
        url: where it comes from, without secrets.
        expected_md5: sum of the whole file.
        progress: told how many more bytes are there; negative when the file is started over.

    Attributes:
        position: bytes so far.
        size_bytes: of the whole file; None while unknown.
        received_bytes: appended since it was opened, started over or not.
        etag: what identifies the server's version; empty where it gave none that is strong.

    Raises:
        StorageError: the disk refused; from every method.
    """

    def __init__(
        self, target: Path, url: str, expected_md5: str, progress: Callable[[int], None]
    ) -> None:
        self.position = 0
        self.size_bytes: int | None = None
        self.received_bytes = 0
        self.etag = ""
        self._target = target
        self._path = _part_path(target)
        self._sidecar = self._path.with_name(f"{self._path.name}.json")
        self._url = url
        self._expected_md5 = expected_md5
        self._progress = progress
        self._hash = hashlib.md5(usedforsecurity=False)
        self._file: BinaryIO

    def __enter__(self) -> Self:
        """Open it, and take up what is there."""
        with self._storing():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a+b")
            try:
                self._take_up()
            except BaseException:
                self._file.close()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Keep what is there."""
        with self._storing():
            self._file.close()

    @property
    def md5(self) -> str:
        """The sum of the bytes so far."""
        return self._hash.hexdigest()

    def differs(self, size_bytes: int | None, etag: str) -> bool:
        """Whether the server's file is another one than the one this is a part of."""
        other_size = None not in {size_bytes, self.size_bytes} and size_bytes != self.size_bytes
        return other_size or bool(self.etag and _strong(etag) and etag != self.etag)

    def describe(self, size_bytes: int | None, etag: str) -> None:
        """Remember what the server says of the whole file."""
        described = (size_bytes or self.size_bytes, _strong(etag))
        if described == (self.size_bytes, self.etag):
            return
        self.size_bytes, self.etag = described
        content = {
            "url": self._url,
            "md5": self._expected_md5,
            "size_bytes": self.size_bytes,
            "etag": self.etag,
        }
        with self._storing():
            self._sidecar.write_text(json.dumps(content), encoding="utf-8")

    def append(self, block: bytes) -> None:
        """Add bytes."""
        with self._storing():
            self._file.write(block)
        self._hash.update(block)
        self.position += len(block)
        self.received_bytes += len(block)
        self._progress(len(block))

    def restart(self) -> None:
        """Forget all bytes."""
        with self._storing():
            self._file.seek(0)
            self._file.truncate()
            self._sidecar.unlink(missing_ok=True)
        self._hash = hashlib.md5(usedforsecurity=False)
        if self.position:
            self._progress(-self.position)
        self.position, self.size_bytes, self.etag = 0, None, ""

    def finish(self) -> None:
        """Give the file its name."""
        with self._storing():
            self._file.flush()
            self._path.replace(self._target)
            self._sidecar.unlink(missing_ok=True)

    def _take_up(self) -> None:
        """Read what an earlier run left, if it is a part of this file."""
        try:
            described = json.loads(self._sidecar.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            described = {}
        if not isinstance(described, dict) or described.get("md5") != self._expected_md5:
            self.restart()
            return
        size_bytes = described.get("size_bytes")
        self.size_bytes = size_bytes if isinstance(size_bytes, int) else None
        if described.get("url") == self._url:
            self.etag = str(described.get("etag", ""))
        self._file.seek(0)
        while block := self._file.read(_BLOCK_BYTES):
            self._hash.update(block)
            self.position += len(block)
            self._progress(len(block))
        if self.size_bytes is not None and self.position > self.size_bytes:
            self.restart()

    @contextlib.contextmanager
    def _storing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise translation.from_os_error(error, "write", str(self._path)) from error


def part_size_bytes(target: Path) -> int:
    """Bytes of a file that are there before it is whole."""
    try:
        return _part_path(target).stat().st_size
    except OSError:
        return 0


def drop_part(target: Path) -> None:
    """Forget what was fetched of a file.

    Raises:
        StorageError: the disk refused.
    """
    path = _part_path(target)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise translation.from_os_error(error, "delete", str(path)) from error


def _part_path(target: Path) -> Path:
    """Where the bytes of a file lie before they are all there."""
    return target.with_name(f"{target.name}.part")


def _strong(etag: str) -> str:
    """The ETag, if a range may be guarded by it."""
    return "" if etag.startswith("W/") else etag
