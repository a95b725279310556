"""The embeddings of windows that a cache may hold beside those of the clips.

Conventions: they are read shard by shard, on their own: who does not ask for them does not load
them, and who does needs memory for one shard.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from e2i.cache.manifest import ShardEntry
from e2i.cache.reader import Cache
from e2i.cache.shards import WINDOWS_COLUMN, corrupt, missing, windows_type
from e2i.errors import CacheError


def read_windows(cache: Cache) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The clips of a cache and the embeddings of their windows, in the order of the shards.

    Args:
        cache: finished, opened, made with `store_windows`.

    Yields:
        clip_id, and float32 (W, D).

    Raises:
        CacheError: it was made without.
        CacheCorruptError: a shard is missing, damaged, or not as the manifest has it.
        StorageError: the store refused.
    """
    if not cache.header.audio.store_windows:
        raise CacheError(
            f"the cache holds no embeddings of windows: got {cache.folder.url}, made without "
            "--store-windows, expected one made with it. Run `e2i cache-embeddings "
            "--store-windows --force`, or into another --cache-dir."
        )
    for entry in cache.manifest.audio.shards:
        yield from _of_shard(cache, entry)


def _of_shard(cache: Cache, entry: ShardEntry) -> Iterator[tuple[str, NDArray[np.float32]]]:
    table, dim = _table(cache, entry), cache.manifest.audio.dim
    column = table.column(WINDOWS_COLUMN).combine_chunks()
    if column.null_count or column.type != windows_type(dim):
        raise corrupt(cache.folder, entry.name, f"windows of type {column.type}", f"lists of {dim}")
    excluded = {row for start, stop in entry.excluded for row in range(start, stop)}
    ids = table.column("clip_id").to_pylist()
    bounds = column.offsets.to_numpy()
    values = column.values.flatten().to_numpy().reshape(-1, dim)
    for row, clip_id in enumerate(ids):
        if row not in excluded:
            yield clip_id, values[bounds[row] : bounds[row + 1]]


def _table(cache: Cache, entry: ShardEntry) -> pa.Table:
    try:
        data = cache.folder.read(entry.name)
    except FileNotFoundError as error:
        raise missing(cache.folder, entry.name) from error
    if (sha256 := hashlib.sha256(data).hexdigest()) != entry.sha256:
        raise corrupt(cache.folder, entry.name, f"sha256 {sha256}", entry.sha256)
    return pq.ParquetFile(pa.BufferReader(data)).read(columns=["clip_id", WINDOWS_COLUMN])
