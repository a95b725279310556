"""Deleting what no manifest counts: shards, and rows in shards that are otherwise in use.

Conventions: a shard is `discarded` by a new manifest first and deleted then. A run that had counted
on it finds another manifest than it read, takes stock again and leaves it out; so no manifest ever
names a shard that is gone. Shards that may be of a run going on stay: those of a cache that is not
whole (a run marks it so before it embeds), and those with clips or captions that failed before and
that no manifest has named yet. A kill at any instant leaves a whole cache, and the next prune goes
on. Whoever opened an earlier manifest may find a shard missing, and has to open the cache again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from e2i.cache.header import CacheHeader, read_header
from e2i.cache.layout import MANIFEST_NAME, SIDES, Side, is_shard
from e2i.cache.manifest import Manifest, read_manifest
from e2i.cache.merge import Group, with_merged
from e2i.cache.reader import WholeCache, incomplete_because
from e2i.cache.shards import ID_COLUMN, ShardKeys, ShardStamp, read_keys
from e2i.cache.snapshot import carry_over
from e2i.errors import CacheCorruptError, StaleWriteError
from e2i.storage import FileInfo, Folder

_ATTEMPTS = 5
_WORKERS = 8
_LEFTOVER_S = 24 * 3600.0
"""What a write has left alone for so long is of one that was broken off."""


@dataclass(frozen=True, slots=True)
class PruneSummary:
    """What pruning came to.

    Attributes:
        url: where the cache lies, without credentials.
        deleted: shards.
        deleted_bytes: their size.
        rewritten: shards written anew without rows that did not count.
        rows: that did not count in these.
        kept: shards that the manifest does not name and that a run may still need.
        kept_because: why, in words; empty where none is.
        swept: leftovers of writes that were broken off a day ago or earlier.
    """

    url: str
    deleted: int
    deleted_bytes: int
    rewritten: int
    rows: int
    kept: tuple[str, ...]
    kept_because: str
    swept: int = 0


@dataclass(frozen=True, slots=True)
class _Found:
    """A shard that no manifest names, and what it holds; None where that cannot be read."""

    file: FileInfo
    side: Side
    keys: ShardKeys | None


def prune_cache(folder: Folder) -> PruneSummary:
    """Delete the shards and rows that no manifest counts, and what broken-off writes have left.

    Raises:
        CacheNotFoundError: there is no cache.
        CacheCorruptError: the manifest, or a shard that it names, is damaged.
        SchemaVersionError: another version of e2i wrote the cache.
        StaleWriteError: runs keep replacing the manifest.
        StorageError: the store refused.
    """
    summary = _prune(folder)
    return replace(summary, swept=folder.sweep(_LEFTOVER_S))


def _prune(folder: Folder) -> PruneSummary:
    """Shards and rows alone, again where runs write a manifest meanwhile."""
    for _ in range(_ATTEMPTS):
        read_header(folder)  # a folder that is no cache is left alone
        # Shards are listed before the header is read: what is listed under another generation than
        # the header's is of an earlier one, never of a run that has just begun.
        files = [f for side in SIDES for f in folder.files(side) if is_shard(f.name, side)]
        header = read_header(folder)
        found = read_manifest(folder)
        reason = incomplete_because(header, found[0] if found else None)
        if found is None or reason:
            return _prune_partial(folder, header, found[0] if found else None, files, reason)
        manifest, data, version = found
        whole = WholeCache(header, manifest, hashlib.sha256(data).hexdigest(), version)
        try:
            return _prune_whole(folder, whole, files)
        except StaleWriteError:
            continue
    raise StaleWriteError(
        f"{folder.url}/{MANIFEST_NAME} keeps changing: got {_ATTEMPTS} writes by runs, expected "
        "one that lasts while shards are looked at. Prune when no run is going on."
    )


def _prune_partial(
    folder: Folder,
    header: CacheHeader,
    manifest: Manifest | None,
    files: Sequence[FileInfo],
    reason: str,
) -> PruneSummary:
    """Of a cache that is not whole, only what `--force` has replaced: rows of earlier generations.

    What else does not belong to its header stays: it may be the header that is in the wrong place.
    """
    named = {e.name for side in SIDES for e in manifest.side(side).shards} if manifest else set()
    others = _unnamed(folder, files, named if manifest and manifest.belongs_to(header) else set())
    replaced = [
        o
        for o in others
        if o.keys is not None
        and o.keys.stamp is not None
        and o.keys.stamp.generation < header.side(o.side).generation
    ]
    kept = tuple(other.file.name for other in others if other not in replaced)
    _delete(folder, [other.file.name for other in replaced])
    return PruneSummary(
        url=folder.url,
        deleted=len(replaced),
        deleted_bytes=sum(other.file.size_bytes for other in replaced),
        rewritten=0,
        rows=0,
        kept=kept,
        kept_because=f"the cache is not whole ({reason})" if kept else "",
    )


def _prune_whole(folder: Folder, whole: WholeCache, files: Sequence[FileInfo]) -> PruneSummary:
    """Discard what is not needed, delete it, and forget it.

    Raises:
        StaleWriteError: the manifest was replaced meanwhile; nothing is deleted.
    """
    groups: dict[Side, list[Group]] = {
        side: [[entry] for entry in whole.manifest.side(side).shards if entry.excluded]
        for side in SIDES
    }
    manifest = with_merged(folder, whole.header, whole.manifest, groups)
    named = {entry.name for side in SIDES for entry in manifest.side(side).shards}
    others = _unnamed(folder, files, named)
    kept = [other for other in others if _may_be_needed(other, whole.header, manifest)]
    going = {other.file.name for other in others} - {other.file.name for other in kept}
    sizes = {file.name: file.size_bytes for file in files}
    left = any(whole.manifest.side(side).discarded for side in SIDES)
    if going or left:
        _discard(folder, whole, manifest, going)
    excluded = [entry for some in groups.values() for group in some for entry in group]
    return PruneSummary(
        url=folder.url,
        deleted=len(going),
        deleted_bytes=sum(sizes[name] for name in going),
        rewritten=len(excluded),
        rows=sum(entry.rows - entry.counted for entry in excluded),
        kept=tuple(other.file.name for other in kept),
        kept_because="they hold what failed before" if kept else "",
    )


def _discard(folder: Folder, whole: WholeCache, manifest: Manifest, going: set[str]) -> None:
    marked = _marked(manifest, going)
    version = folder.replace(MANIFEST_NAME, marked.as_bytes(), whole.version)
    _delete(folder, going)
    data = _marked(manifest, ()).as_bytes()
    try:
        folder.replace(MANIFEST_NAME, data, version)
    except StaleWriteError:
        return  # a run has written a manifest since, which goes by what lies there
    carry_over(folder, whole.sha256, hashlib.sha256(data).hexdigest())


def _marked(manifest: Manifest, going: Collection[str]) -> Manifest:
    """The manifest that says of shards that they are going, and holds on to no other."""
    sides: dict[str, object] = {
        side: manifest.side(side).model_copy(
            update={
                "released": (),
                "discarded": tuple(sorted(name for name in going if is_shard(name, side))),
            }
        )
        for side in SIDES
    }
    return manifest.model_copy(update={**sides, "revision": manifest.revision + 1})


def _unnamed(folder: Folder, files: Sequence[FileInfo], named: set[str]) -> list[_Found]:
    def read(file: FileInfo) -> _Found:
        side: Side = "audio" if is_shard(file.name, "audio") else "text"
        try:
            return _Found(file, side, read_keys(folder, file, side, hashed=False))
        except CacheCorruptError:
            return _Found(file, side, None)

    with ThreadPoolExecutor(_WORKERS) as pool:
        return list(pool.map(read, [file for file in files if file.name not in named]))


def _may_be_needed(other: _Found, header: CacheHeader, manifest: Manifest) -> bool:
    """Whether it may be of a run that tries again what failed, and is still going on."""
    listed = manifest.side(other.side)
    if other.keys is None or other.keys.stamp != ShardStamp.of(header, other.side):
        return False
    if other.file.name in {*listed.released, *listed.discarded}:
        return False
    return not set(listed.failed).isdisjoint(other.keys.columns[ID_COLUMN[other.side]])


def _delete(folder: Folder, names: Iterable[str]) -> None:
    with ThreadPoolExecutor(_WORKERS) as pool:
        list(pool.map(folder.delete, names))
