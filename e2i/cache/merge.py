"""Shards written anew from others: merged, or without the rows that do not count.

Conventions: rows are copied with all their columns, never embedded again, in the order of the
metadata. A shard is held against its sha256 before its rows are copied, so that damage is not
given a new checksum. New shards lie there before a manifest names them.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from e2i.cache.header import CacheHeader
from e2i.cache.layout import Side, shard_name
from e2i.cache.manifest import Manifest, ShardEntry, SideManifest
from e2i.cache.shards import (
    ID_COLUMN,
    ShardStamp,
    caption_digest,
    corrupt,
    shard_file,
    shard_key,
)
from e2i.cache.stored_rows import shard_bytes
from e2i.storage import Folder

Group = Sequence[ShardEntry]


def with_merged(
    folder: Folder, header: CacheHeader, manifest: Manifest, groups: Mapping[Side, Sequence[Group]]
) -> Manifest:
    """Write each group of shards as one, and give the manifest that names these; it is not stored.

    The shards that were merged are released.

    Raises:
        CacheCorruptError: a shard is missing or damaged.
        StorageError: the store refused.
    """
    sides: dict[str, object] = {}
    for side, some in groups.items():
        listed = manifest.side(side)
        stamp = ShardStamp.of(header, side, manifest.revision)
        place = {name: row for row, name in enumerate(listed.wanted)}
        written = [
            _stored(folder, stamp, listed, _in_order(table, stamp, place))
            for group in some
            for table in _alike([_counting_rows(folder, side, entry) for entry in group])
        ]
        replaced = {entry.name for group in some for entry in group}
        shards = [entry for entry in listed.shards if entry.name not in replaced] + written
        names = {entry.name for entry in written}
        sides[side] = listed.model_copy(
            update={
                "shards": tuple(sorted(shards, key=lambda entry: entry.name)),
                "released": tuple(sorted({*listed.released, *replaced} - names)),
            }
        )
    return manifest.model_copy(update=sides)


def _alike(tables: Sequence[pa.Table]) -> list[pa.Table]:
    """Tables of the same columns and origin as one each."""
    kinds: list[list[pa.Table]] = []
    for table in tables:
        same = (kind for kind in kinds if kind[0].schema.equals(table.schema, check_metadata=True))
        kind = next(same, None)
        if kind is None:
            kinds.append([table])
        else:
            kind.append(table)
    return [pa.concat_tables(kind) for kind in kinds]


def _in_order(table: pa.Table, stamp: ShardStamp, place: Mapping[str, int]) -> pa.Table:
    """The rows in the order of the metadata."""
    ids = table.column(ID_COLUMN[stamp.side]).to_pylist()
    order = np.argsort([place.get(name, len(place)) for name in ids], kind="stable")
    return table.take(pa.array(order)).combine_chunks()


def _stored(folder: Folder, stamp: ShardStamp, listed: SideManifest, table: pa.Table) -> ShardEntry:
    """The rows, written as one shard."""
    data = shard_file(table, stamp.side)
    sha256 = hashlib.sha256(data).hexdigest()
    names = (name for name in _names(stamp, table) if name not in listed.discarded)
    name = next(n for n in names if folder.create(n, data) or _holds(folder, n, sha256))
    return ShardEntry(name=name, rows=table.num_rows, bytes=len(data), sha256=sha256)


def _holds(folder: Folder, name: str, sha256: str) -> bool:
    """Whether an earlier attempt, or another process, has stored the same bytes."""
    return hashlib.sha256(folder.read(name)).hexdigest() == sha256


def _names(stamp: ShardStamp, table: pa.Table) -> Iterator[str]:
    """Names for the shard of these rows, in the order in which they are to be tried."""
    ids = table.column(ID_COLUMN[stamp.side]).to_pylist()
    if stamp.side == "audio":
        contents = table.column("content_sha256").to_pylist()
    else:
        contents = [caption_digest(text) for text in table.column("caption").to_pylist()]
    pairs = list(zip(ids, contents, strict=True))
    for attempt in itertools.count():
        yield shard_name(stamp.side, shard_key(stamp, [("merged", str(attempt)), *pairs]))


def _counting_rows(folder: Folder, side: Side, entry: ShardEntry) -> pa.Table:
    """All columns of the rows of a shard that count."""
    data = shard_bytes(folder, entry)
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != entry.sha256:
        raise corrupt(folder, entry.name, f"sha256 {sha256}", entry.sha256)
    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read()
    except (pa.ArrowException, OSError) as error:
        raise corrupt(folder, entry.name, str(error), "a whole Parquet file") from error
    if ID_COLUMN[side] not in table.column_names or table.num_rows != entry.rows:
        raise corrupt(folder, entry.name, f"{table.num_rows} rows", f"{entry.rows} rows")
    if not entry.excluded:
        return table
    keep = np.ones(entry.rows, np.bool_)
    for start, stop in entry.excluded:
        keep[start:stop] = False
    return table.filter(pa.array(keep))
