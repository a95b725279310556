"""The stored rows of one side of a finished cache, in one array.

Conventions: a shard's bytes are read once, held against the manifest's sha256 unless that is
switched off, and its embeddings copied from there to where they belong. Rows come in the order of
the metadata; only those that the manifest counts are read, each exactly once, all finite.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from e2i.cache.layout import Side
from e2i.cache.manifest import ShardEntry, SideManifest
from e2i.cache.pages import copy_values
from e2i.cache.shards import (
    EMBEDDING_COLUMN,
    ID_COLUMN,
    corrupt,
    embedding_type,
    missing,
    readable,
)
from e2i.errors import CacheCorruptError
from e2i.storage import Folder

_READERS = 4
_FINITE_ROWS = 1_024
_VALUE_COLUMN: dict[Side, str] = {"audio": "duration_s", "text": "caption"}

Rows = NDArray[np.int64] | slice
"""Where rows go: ascending neighbors as a slice, which is copied to in one go."""


@dataclass(frozen=True, slots=True)
class SideRows:
    """The stored rows of one side, in the order of the metadata.

    Attributes:
        ids: of the rows.
        embeddings: float32 (N, D).
        values: durations (audio) or captions (text).
        clip_rows: int64 (N,), for each caption the row of its clip, -1 where that has failed;
            empty for clips.
    """

    ids: list[str]
    embeddings: NDArray[np.float32]
    values: NDArray[Any]
    clip_rows: NDArray[np.int64]


def read_side(
    folder: Folder,
    side: Side,
    manifest: SideManifest,
    row_of_clip: Mapping[str, int] | None = None,
    *,
    verify: bool,
) -> SideRows:
    """All rows of a side, from several shards at once.

    Args:
        folder: the cache.
        side: which.
        manifest: of that side.
        row_of_clip: of the audio side, for captions; -1 for clips that have failed.
        verify: hold each shard's bytes against the manifest's sha256.

    Raises:
        CacheCorruptError: a shard is missing, damaged, or not as the manifest has it.
        StorageError: the store refused.
    """
    failed = set(manifest.failed)
    ids = [name for name in manifest.wanted if name not in failed] if failed else manifest.wanted
    rows = SideRows(
        ids=list(ids),
        embeddings=np.empty((len(ids), manifest.dim), np.float32),
        values=np.empty(len(ids), np.float64 if side == "audio" else np.object_),
        clip_rows=np.empty(0 if row_of_clip is None else len(ids), np.int64),
    )
    reading = _Reading(folder, side, rows, row_of_clip or {}, verify=verify)
    with ThreadPoolExecutor(_READERS) as pool:
        counted = sum(pool.map(reading.read, manifest.shards))
    if counted != len(ids) or not reading.filled.all():
        found = int(reading.filled.sum())
        raise CacheCorruptError(
            f"the shards do not hold what the manifest says: got {found} {side} ids in {counted} "
            f"rows in {folder.url}, expected {len(ids)}, once each. Run `e2i cache-embeddings` "
            "again as before."
        )
    return rows


class _Reading:
    """Copies shards to where their rows belong; for several threads at once."""

    def __init__(
        self,
        folder: Folder,
        side: Side,
        into: SideRows,
        row_of_clip: Mapping[str, int],
        *,
        verify: bool,
    ) -> None:
        self.filled = np.zeros(len(into.ids), np.bool_)
        self._folder, self._side, self._into = folder, side, into
        self._row_of_clip = row_of_clip
        self._verify = verify
        self._ids = pa.array(into.ids, pa.string())
        self._row_of_id = {name: row for row, name in enumerate(into.ids)}

    def read(self, entry: ShardEntry) -> int:
        """Copy the rows of a shard that count; how many these are."""
        data = shard_bytes(self._folder, entry)
        if len(data) != entry.bytes:
            raise self._corrupt(entry, f"{len(data)} bytes", f"{entry.bytes} bytes")
        if self._verify and (sha256 := hashlib.sha256(data).hexdigest()) != entry.sha256:
            raise self._corrupt(entry, f"sha256 {sha256}", entry.sha256)
        keep = _counted(entry)
        start = 0
        with readable(self._folder, entry.name):
            file = pq.ParquetFile(pa.BufferReader(data))
            if file.metadata.num_rows != entry.rows:
                got = f"{file.metadata.num_rows} rows"
                raise self._corrupt(entry, got, f"{entry.rows} rows")
            for group in range(file.num_row_groups):
                stop = start + file.metadata.row_group(group).num_rows
                kept = None if keep is None else keep[start:stop]
                self._copy_group(_Group(entry, file, group, stop - start, data), kept)
                start = stop
        return entry.counted

    def _copy_group(self, group: _Group, keep: NDArray[np.bool_] | None) -> None:
        columns = [ID_COLUMN[self._side], _VALUE_COLUMN[self._side]]
        columns += ["clip_id"] if self._side == "text" else []
        table = group.file.read_row_group(group.number, columns, use_threads=False)
        table = table if keep is None else table.filter(pa.array(keep))
        rows = self._places(group.entry, table.column(ID_COLUMN[self._side]))
        self._copy_embeddings(group, keep, rows)
        self._into.values[rows] = table.column(_VALUE_COLUMN[self._side]).to_numpy()
        if self._side == "text":
            self._into.clip_rows[rows] = self._clip_rows(group.entry, table.column("clip_id"))
        self.filled[rows] = True

    def _places(self, entry: ShardEntry, names: pa.ChunkedArray) -> Rows:
        """Where rows of these ids belong."""
        if not len(names):
            return slice(0, 0)
        first = self._row_of_id.get(names[0].as_py(), -1)
        here = self._ids.slice(max(first, 0), len(names))
        if first >= 0 and pa.chunked_array([here]).equals(names):
            return slice(first, first + len(names))
        found = names.to_pylist()
        rows = np.fromiter((self._row_of_id.get(one, -1) for one in found), np.int64, len(found))
        if rows.min() < 0:
            stranger = found[int(np.argmin(rows))]
            raise self._corrupt(entry, f"the id {stranger!r}", "ids that the manifest wants")
        return rows

    def _copy_embeddings(self, group: _Group, keep: NDArray[np.bool_] | None, rows: Rows) -> None:
        embeddings, dim = self._into.embeddings, self._into.embeddings.shape[1]
        if keep is None and isinstance(rows, slice):
            target = embeddings[rows]
            self._fill(group, target)
            self._check_finite(group.entry, target, rows)
            return
        held = np.empty((group.rows, dim), np.float32)
        self._fill(group, held)
        held = held if keep is None else held[keep]
        self._check_finite(group.entry, held, rows)
        embeddings[rows] = held

    def _fill(self, group: _Group, out: NDArray[np.float32]) -> None:
        """The embeddings of a row group, in the quick way where their pages allow it."""
        dim, name = out.shape[1], group.entry.name
        kind = group.file.schema_arrow.field(EMBEDDING_COLUMN).type
        if kind != embedding_type(dim):
            raise corrupt(self._folder, name, f"embeddings of type {kind}", f"{dim} floats")
        paths = [group.file.schema.column(n).path for n in range(len(group.file.schema))]
        column = next(n for n, path in enumerate(paths) if path.startswith(f"{EMBEDDING_COLUMN}."))
        if copy_values(group.file, group.number, column, group.data, out):
            return
        table = group.file.read_row_group(group.number, [EMBEDDING_COLUMN], use_threads=False)
        out[:] = embedding_rows(self._folder, name, table, dim)

    def _check_finite(self, entry: ShardEntry, values: NDArray[np.float32], rows: Rows) -> None:
        for start in range(0, len(values), _FINITE_ROWS):
            finite = np.isfinite(values[start : start + _FINITE_ROWS])
            if finite.all():
                continue
            row = start + int(np.argmin(finite.all(axis=1)))
            row = rows.start + row if isinstance(rows, slice) else int(rows[row])
            got = f"values that are not finite for {self._into.ids[row]!r}"
            raise self._corrupt(entry, got, "numbers")

    def _clip_rows(self, entry: ShardEntry, names: pa.ChunkedArray) -> NDArray[np.int64]:
        """For each caption the row of its clip; each clip is looked up once."""
        coded = names.combine_chunks().dictionary_encode()
        clips = coded.dictionary.to_pylist()
        stranger = next((clip for clip in clips if clip not in self._row_of_clip), None)
        if stranger is not None:
            got = f"captions of the clip {stranger!r}"
            raise self._corrupt(entry, got, "captions of clips that the manifest knows")
        found = [self._row_of_clip[clip] for clip in clips]
        rows: NDArray[np.int64] = np.array(found, np.int64)[coded.indices.to_numpy()]
        return rows

    def _corrupt(self, entry: ShardEntry, got: str, expected: str) -> CacheCorruptError:
        return corrupt(self._folder, entry.name, got, expected)


@dataclass(frozen=True, slots=True)
class _Group:
    """A row group of a shard."""

    entry: ShardEntry
    file: pq.ParquetFile
    number: int
    rows: int
    data: pa.Buffer


def _counted(entry: ShardEntry) -> NDArray[np.bool_] | None:
    """Selects the rows that count; None where all do."""
    if not entry.excluded:
        return None
    keep = np.ones(entry.rows, np.bool_)
    for start, stop in entry.excluded:
        keep[start:stop] = False
    return keep


def shard_bytes(folder: Folder, entry: ShardEntry) -> pa.Buffer:
    """The file, mapped where it lies on the local disk.

    Raises:
        CacheCorruptError: it is missing.
    """
    try:
        if folder.local_path is None or entry.bytes == 0:
            return pa.py_buffer(folder.read(entry.name))
        with pa.memory_map(f"{folder.local_path}/{entry.name}") as file:
            return file.read_buffer()
    except FileNotFoundError as error:
        raise missing(folder, entry.name) from error


def embedding_rows(folder: Folder, name: str, table: pa.Table, dim: int) -> NDArray[np.float32]:
    """The embedding column as (rows, D), without a copy where it is in one block."""
    column = table.column("embedding")
    if column.null_count or column.type != embedding_type(dim):
        raise corrupt(folder, name, f"embeddings of type {column.type}", f"{dim} floats")
    if not column.num_chunks:
        return np.empty((0, dim), np.float32)
    blocks = [block.flatten().to_numpy().reshape(-1, dim) for block in column.chunks]
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
