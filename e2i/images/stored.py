"""The folder of one side's pseudo-images, `<cache>/<images_dir>/<side>`, and threads to work on it.

Conventions: PNGs lie in it directly, named by `names.png_name`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from types import TracebackType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from e2i.errors import ImageError, StorageNotFoundError
from e2i.images.config import ImagesConfig
from e2i.images.names import Side
from e2i.images.png import StoredImage, decode_png
from e2i.storage import FileInfo, Folder

# Threads wait for the disk or the network most of the time; isal compresses without the GIL.
_LOCAL_WORKERS = 4
_REMOTE_WORKERS = 16

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def embedding_digest(embedding: NDArray[np.float32]) -> str:
    """Short hash of one embedding (D,): 16 hexadecimal digits."""
    stored = np.ascontiguousarray(embedding, dtype="<f4")
    return hashlib.sha256(stored.tobytes()).hexdigest()[:16]


class StoredImages:
    """The images of one side. Use it in a `with`, which ends its threads.

    Attributes:
        folder: where the PNGs lie.
        workers: how many threads there are.
    """

    def __init__(self, cache: Folder, side: Side, config: ImagesConfig) -> None:
        self.folder = cache.folder(f"{config.images_dir}/{side}")
        self.workers = _REMOTE_WORKERS if self.folder.local_path is None else _LOCAL_WORKERS
        self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="e2i-images")

    def __enter__(self) -> StoredImages:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def listing(self) -> dict[str, FileInfo]:
        """What lies there now, by file name."""
        return {file.name: file for file in self.folder.files() if "/" not in file.name}

    def read(self, name: str) -> StoredImage:
        """One image.

        Raises:
            StorageNotFoundError: there is none of this name.
            ImageError: it is broken, or e2i did not write it.
        """
        return decode_png(self.folder.read(name), name)

    def read_if_whole(self, name: str) -> StoredImage | None:
        """One image, or None where there is none that e2i wrote."""
        try:
            return self.read(name)
        except (StorageNotFoundError, ImageError):
            return None

    def each(
        self, function: Callable[[_Item], _Result], items: Iterable[_Item]
    ) -> Iterator[tuple[_Item, _Result]]:
        """Call `function` in threads: items with their results, as they are done.

        The first error ends it; calls that have not begun are dropped when the `with` is left.
        """
        futures = {self._pool.submit(function, item): item for item in items}
        for future in as_completed(futures):
            yield futures[future], future.result()
