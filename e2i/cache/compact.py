"""Merging many small shards into few, while readers go on.

Conventions: the merged shards are written first and named by a new manifest last, in one step; the
small ones stay for whoever has opened an earlier manifest, until `prune_cache` deletes them. So a
kill at any instant leaves the old manifest with the old shards, or the new one with the new.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from e2i.cache.layout import MANIFEST_NAME, SIDES, Side
from e2i.cache.manifest import Manifest, ShardEntry
from e2i.cache.merge import Group, with_merged
from e2i.cache.reader import read_whole
from e2i.cache.snapshot import carry_over
from e2i.errors import StaleWriteError
from e2i.storage import Folder

MERGED_BYTES = 64 * 2**20
"""About what a merged shard holds; shards of half of that and more are left as they are."""

MANY_SHARDS = 1_000
"""A side with more shards than this is compacted at the end of a run."""

MANY_MIRRORED_SHARDS = 5_000
"""The same where the cache is mirrored to the Hub, which has the rows by then and would be sent
them again: half of what it takes in a folder."""

_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class CompactSummary:
    """What compacting came to.

    Attributes:
        url: where the cache lies, without credentials.
        merged: small shards that are no longer named.
        written: shards that hold their rows.
        shards: that the manifest names now, of both sides together.
        shard_bytes: their size.
        released: shards that `prune_cache` would delete.
    """

    url: str
    merged: int
    written: int
    shards: int
    shard_bytes: int
    released: int


def compact_cache(folder: Folder, *, above: int = 1) -> CompactSummary:
    """Merge the small shards of a finished cache under a new manifest.

    Args:
        folder: the cache.
        above: leave sides with at most this many shards alone.

    Raises:
        CacheNotFoundError: there is no cache.
        CacheIncompleteError: it is not finished.
        CacheCorruptError: a shard is missing or damaged.
        StaleWriteError: runs keep replacing the manifest.
        StorageError: the store refused.
    """
    for _ in range(_ATTEMPTS):
        whole = read_whole(folder)
        groups = {
            side: _small_groups(whole.manifest, side)
            for side in SIDES
            if len(whole.manifest.side(side).shards) > above
        }
        if not any(groups.values()):
            return _summary(folder, whole.manifest, groups)
        manifest = with_merged(folder, whole.header, whole.manifest, groups)
        data = manifest.as_bytes()
        try:
            folder.replace(MANIFEST_NAME, data, whole.version)
        except StaleWriteError:
            continue
        carry_over(folder, whole.sha256, hashlib.sha256(data).hexdigest())
        return _summary(folder, manifest, groups)
    raise StaleWriteError(
        f"{folder.url}/{MANIFEST_NAME} keeps changing: got {_ATTEMPTS} writes by runs, expected "
        "one that lasts while shards are merged. Compact when no run is going on."
    )


def _small_groups(manifest: Manifest, side: Side) -> list[Group]:
    """The small shards, as many together as one shard is to hold."""

    def size_of(entry: ShardEntry) -> int:
        return entry.bytes * entry.counted // entry.rows

    small = [entry for entry in manifest.side(side).shards if size_of(entry) < MERGED_BYTES // 2]
    groups: list[list[ShardEntry]] = []
    held = MERGED_BYTES
    for entry in small:
        size = size_of(entry)
        if held + size > MERGED_BYTES:
            groups.append([])
            held = 0
        groups[-1].append(entry)
        held += size
    return [group for group in groups if len(group) > 1]


def _summary(
    folder: Folder, manifest: Manifest, groups: Mapping[Side, Sequence[Group]]
) -> CompactSummary:
    shards = [entry for side in SIDES for entry in manifest.side(side).shards]
    merged = [group for some in groups.values() for group in some]
    return CompactSummary(
        url=folder.url,
        merged=sum(len(group) for group in merged),
        written=len(merged),
        shards=len(shards),
        shard_bytes=sum(entry.bytes for entry in shards),
        released=sum(len(manifest.side(side).released) for side in SIDES),
    )
