"""Reading a finished cache.

Conventions: rows come in the order of the metadata, one a clip and one a caption; clips that
failed, and captions that lost their clip, are not in it. Only rows that the manifest counts are
read. Each shard's bytes are held against the manifest's sha256, unless that is switched off.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from e2i.cache.embeddings import CachedEmbeddings
from e2i.cache.header import CacheHeader, read_header
from e2i.cache.layout import FAILURES_NAME, HEADER_NAME, MANIFEST_NAME, Side
from e2i.cache.manifest import Manifest, ShardEntry, read_manifest
from e2i.cache.original import read_original
from e2i.cache.shards import ID_COLUMN, corrupt, embedding_type, missing, read_blocks
from e2i.errors import (
    CacheCorruptError,
    CacheError,
    CacheIncompleteError,
    CacheNotFoundError,
)
from e2i.storage import Folder

_READERS = 4
_MOVED_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class Cache:
    """A finished cache, opened.

    Attributes:
        folder: where it lies.
        header: its `cache.json`.
        manifest: its `manifest.json`.
        manifest_sha256: names this state of the cache.
        read: its embeddings, where they are the original's files, which opening has read.
    """

    folder: Folder
    header: CacheHeader
    manifest: Manifest
    manifest_sha256: str
    read: CachedEmbeddings | None = None

    def load(self, *, verify: bool = True) -> CachedEmbeddings:
        """All embeddings, in memory once.

        Args:
            verify: hold each shard's bytes against the manifest's sha256.

        Raises:
            CacheCorruptError: a shard is missing, damaged, or not as the manifest has it.
            CacheError: no clip with a caption is stored.
            StorageError: the store refused.
        """
        if self.read is not None:
            return self.read
        manifest = self.manifest
        audio = _read_side(self, "audio", verify=verify)
        text = _read_side(self, "text", verify=verify)
        index_of_clip = {clip_id: row for row, clip_id in enumerate(audio.ids)}
        caption_clip = np.fromiter(
            (index_of_clip.get(clip_id, -1) for clip_id in text.clip_ids), np.int64, len(text.ids)
        )
        captions_kept = np.flatnonzero(caption_clip >= 0)
        clips_kept = np.unique(caption_clip[captions_kept])
        if not len(clips_kept):
            failed = manifest.audio.failed or manifest.text.failed
            step = (
                f"See {FAILURES_NAME} there for the reasons."
                if failed
                else "Embed the metadata again into another --cache-dir."
            )
            raise CacheError(
                f"the cache holds nothing to use: got {len(audio.ids)} clips and {len(text.ids)} "
                f"captions that do not join in {self.folder.url}, expected a clip with a caption. "
                f"{step}"
            )
        new_index = np.full(len(audio.ids), -1, np.int64)
        new_index[clips_kept] = np.arange(len(clips_kept))
        return CachedEmbeddings(
            dataset=manifest.dataset,
            split=manifest.split,
            clip_ids=tuple(audio.ids[row] for row in clips_kept),
            audio=_rows(audio.embeddings, clips_kept),
            duration_s=_rows(audio.values, clips_kept),
            caption_ids=tuple(text.ids[row] for row in captions_kept),
            captions=tuple(_rows(text.values, captions_kept).tolist()),
            caption_clip=new_index[caption_clip[captions_kept]],
            text=_rows(text.embeddings, captions_kept),
            audio_fingerprint=manifest.audio.fingerprint,
            text_fingerprint=manifest.text.fingerprint,
            url=self.folder.url,
        )


def open_cache(folder: Folder) -> Cache:
    """A finished cache, or the original's own files.

    Raises:
        CacheNotFoundError: there is neither.
        CacheIncompleteError: it is not finished.
        CacheCorruptError: `cache.json`, `manifest.json` or the original's files cannot be read.
        SchemaVersionError: another version of e2i wrote it.
    """
    try:
        header = read_header(folder)
    except CacheNotFoundError:
        files = read_original(folder)
        if files is None:
            raise
        return Cache(folder, files.header, files.manifest, files.sha256, files.embeddings)
    found = read_manifest(folder)
    fault = incomplete_because(header, found[0] if found else None)
    if found is None or fault:
        raise _incomplete(folder, fault)
    return Cache(folder, header, found[0], hashlib.sha256(found[1]).hexdigest())


@dataclass(frozen=True, slots=True)
class WholeCache:
    """What whoever changes the manifest of a finished cache has to know.

    Attributes:
        header: its `cache.json`.
        manifest: its `manifest.json`.
        sha256: of the manifest.
        version: of the manifest, to replace it.
    """

    header: CacheHeader
    manifest: Manifest
    sha256: str
    version: str


def read_whole(folder: Folder) -> WholeCache:
    """Header and manifest of a finished cache, to change the latter.

    Raises:
        CacheNotFoundError: there is no cache.
        CacheIncompleteError: it is not finished.
        CacheCorruptError, SchemaVersionError: as `open_cache`.
    """
    header = read_header(folder)
    found = read_manifest(folder)
    fault = incomplete_because(header, found[0] if found else None)
    if found is None or fault:
        raise _incomplete(folder, fault)
    manifest, data, version = found
    return WholeCache(header, manifest, hashlib.sha256(data).hexdigest(), version)


def _incomplete(folder: Folder, fault: str) -> CacheIncompleteError:
    return CacheIncompleteError(
        f"the cache is not whole: got {fault} in {folder.url}, expected a complete "
        f"{MANIFEST_NAME}. Run the same `e2i cache-embeddings` again, without --force: what is "
        "stored is kept."
    )


def incomplete_because(header: CacheHeader, manifest: Manifest | None) -> str:
    """What keeps a cache from being whole; empty if it is."""
    if manifest is None:
        return f"no {MANIFEST_NAME}"
    if not manifest.belongs_to(header) or (manifest.dataset, manifest.split) != (
        header.dataset,
        header.split,
    ):
        return f"a {MANIFEST_NAME} of other embeddings than {HEADER_NAME} asks for"
    if not manifest.complete:
        return "clips or captions that are still to be embedded"
    return ""


@dataclass(frozen=True, slots=True)
class _Side:
    """The stored rows of one side, in the order of the metadata.

    `values` are durations (audio) or captions (text); `clip_ids` are each row's clip.
    """

    ids: list[str]
    embeddings: NDArray[np.float32]
    values: NDArray[Any]
    clip_ids: NDArray[np.object_]


_VALUE_COLUMN: dict[Side, str] = {"audio": "duration_s", "text": "caption"}


def _read_side(cache: Cache, side: Side, *, verify: bool) -> _Side:
    """The shards of a side, several at once, into one array."""
    manifest = cache.manifest.side(side)
    failed = set(manifest.failed)
    ids = [name for name in manifest.wanted if name not in failed]
    found = _Side(
        ids=ids,
        embeddings=np.empty((len(ids), manifest.dim), np.float32),
        values=np.empty(len(ids), np.float64 if side == "audio" else np.object_),
        clip_ids=np.empty(len(ids), np.object_),
    )
    place = {name: row for row, name in enumerate(ids)}
    filled = np.zeros(len(ids), np.bool_)

    def read(entry: ShardEntry) -> int:
        rows = _read_shard(cache.folder, side, entry, place, found, verify=verify)
        filled[rows] = True
        return entry.counted

    with ThreadPoolExecutor(_READERS) as pool:
        counted = sum(pool.map(read, manifest.shards))
    if counted != len(ids) or not filled.all():
        raise CacheCorruptError(
            f"the shards do not hold what the manifest says: got {int(filled.sum())} {side} ids in "
            f"{counted} rows in {cache.folder.url}, expected {len(ids)}, once each. Run "
            "`e2i cache-embeddings` again as before."
        )
    return found


def _read_shard(
    folder: Folder,
    side: Side,
    entry: ShardEntry,
    place: Mapping[str, int],
    into: _Side,
    *,
    verify: bool,
) -> NDArray[np.int64]:
    """Copy the rows of a shard that count to their places, which are returned."""
    data = shard_bytes(folder, entry)
    if len(data) != entry.bytes:
        raise corrupt(folder, entry.name, f"{len(data)} bytes", f"{entry.bytes} bytes")
    if verify and (sha256 := hashlib.sha256(data).hexdigest()) != entry.sha256:
        raise corrupt(folder, entry.name, f"sha256 {sha256}", entry.sha256)
    keep = _counted(entry)
    target = _Target(folder, side, entry, place, into)
    places: list[NDArray[np.int64]] = []
    start = 0
    for block in read_blocks(folder, entry.name, side, data):
        stop = start + block.num_rows
        if stop > entry.rows:
            raise corrupt(folder, entry.name, f"{stop} rows or more", f"{entry.rows} rows")
        kept = slice(None) if keep is None else keep[start:stop]
        places.append(_copy_block(block, kept, target))
        start = stop
    if start != entry.rows:
        raise corrupt(folder, entry.name, f"{start} rows", f"{entry.rows} rows")
    return np.concatenate(places)


@dataclass(frozen=True, slots=True)
class _Target:
    """Where the rows of a shard go."""

    folder: Folder
    side: Side
    entry: ShardEntry
    place: Mapping[str, int]
    into: _Side


def _copy_block(
    block: pa.Table, keep: NDArray[np.bool_] | slice, target: _Target
) -> NDArray[np.int64]:
    """Copy the rows of a block that count to their places, which are returned."""
    folder, side, name, into = target.folder, target.side, target.entry.name, target.into
    names = block.column(ID_COLUMN[side]).to_numpy()[keep]
    rows = np.fromiter((target.place.get(one, -1) for one in names), np.int64, len(names))
    if len(rows) and rows.min() < 0:
        stranger = names[int(np.argmin(rows))]
        raise corrupt(folder, name, f"the id {stranger!r}", "ids that the manifest wants")
    embeddings = embedding_rows(folder, name, block, into.embeddings.shape[1])[keep]
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.all():
        broken = names[int(np.argmin(finite))]
        raise corrupt(folder, name, f"values that are not finite for {broken!r}", "numbers")
    into.embeddings[_as_slice(rows)] = embeddings
    into.values[rows] = block.column(_VALUE_COLUMN[side]).to_numpy()[keep]
    into.clip_ids[rows] = block.column("clip_id").to_numpy()[keep]
    return rows


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


def _as_slice(rows: NDArray[np.int64]) -> NDArray[np.int64] | slice:
    """Ascending neighbors as a slice, which copies in one go."""
    if len(rows) and (np.diff(rows) == 1).all():
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def _rows(values: NDArray[Any], kept: NDArray[np.int64]) -> NDArray[Any]:
    """The rows `kept` (ascending), moved up in place: no second copy of a large array."""
    if len(kept) == len(values):
        return values
    for start in range(0, len(kept), _MOVED_ROWS):
        block = kept[start : start + _MOVED_ROWS]
        values[start : start + len(block)] = values[block]
    return values[: len(kept)]
