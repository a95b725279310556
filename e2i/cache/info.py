"""What is in a cache, finished or not."""

from __future__ import annotations

from dataclasses import dataclass

from e2i.cache.failures import read_failures
from e2i.cache.header import CacheHeader, read_header
from e2i.cache.layout import SIDES, Side, is_shard
from e2i.cache.manifest import Manifest, read_manifest
from e2i.cache.original import OriginalFiles, read_original
from e2i.cache.reader import incomplete_because
from e2i.cache.shards import ID_COLUMN, ShardStamp
from e2i.cache.stock import read_shards
from e2i.errors import CacheNotFoundError
from e2i.storage import Folder


@dataclass(frozen=True, slots=True)
class SideInfo:
    """One side of a cache.

    Attributes:
        settings: of the encoder.
        fingerprint: of the encoder.
        generation: raised each time that the side was embedded again by force.
        dim: length of an embedding.
        stored: clips or captions embedded; in a cache that is not whole, all that are stored.
        failed: clips or captions that could not be embedded.
        wanted: clips or captions of the metadata; None before a first manifest.
        shards: files that hold rows of this fingerprint and generation.
        shard_bytes: their size; of the original's files, that of the tensor.
        unused_shards: other files, left from before.
        unused_bytes: their size.
    """

    settings: dict[str, str | int | float | bool | None]
    fingerprint: str
    generation: int
    dim: int
    stored: int
    failed: int
    wanted: int | None
    shards: int
    shard_bytes: int
    unused_shards: int
    unused_bytes: int


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """What is in a cache.

    Attributes:
        url: where it lies, without credentials.
        dataset: name of the data set.
        split: name of the split.
        source: the metadata that it was made from; empty before a first manifest.
        complete: whether readers take it.
        incomplete_because: why not, in words; empty where it is complete.
        captions_without_clip: captions whose clip failed; None before a first manifest.
        audio: the clips.
        text: the captions.
    """

    url: str
    dataset: str
    split: str
    source: str
    complete: bool
    incomplete_because: str
    captions_without_clip: int | None
    audio: SideInfo
    text: SideInfo


def cache_info(folder: Folder) -> CacheInfo:
    """What is in a cache; of one that is whole, no shard is opened.

    Raises:
        CacheNotFoundError: there is no cache, and none of the original's files.
        CacheCorruptError: a stored file cannot be read.
        SchemaVersionError: another version of e2i wrote it.
    """
    try:
        header = read_header(folder)
    except CacheNotFoundError:
        files = read_original(folder)
        if files is None:
            raise
        return _of_original(folder, files)
    found = read_manifest(folder)
    manifest = found[0] if found else None
    reason = incomplete_because(header, manifest)
    describe = _partial_side if manifest is None or reason else _whole_side
    return CacheInfo(
        url=folder.url,
        dataset=header.dataset,
        split=header.split,
        source=manifest.source if manifest else "",
        complete=not reason,
        incomplete_because=reason,
        captions_without_clip=manifest.counts.captions_without_clip if manifest else None,
        audio=describe(folder, header, manifest, "audio"),
        text=describe(folder, header, manifest, "text"),
    )


def _of_original(folder: Folder, files: OriginalFiles) -> CacheInfo:
    """Of the original's files, which hold one tensor a side and no shards."""
    manifest = files.manifest
    audio, text = (
        SideInfo(
            settings=dict(files.header.side(side).settings),
            fingerprint=manifest.side(side).fingerprint,
            generation=manifest.side(side).generation,
            dim=manifest.side(side).dim,
            stored=manifest.side(side).stored,
            failed=0,
            wanted=len(manifest.side(side).wanted),
            shards=0,
            shard_bytes=files.sizes[side],
            unused_shards=0,
            unused_bytes=0,
        )
        for side in SIDES
    )
    return CacheInfo(
        url=folder.url,
        dataset=manifest.dataset,
        split=manifest.split,
        source=manifest.source,
        complete=True,
        incomplete_because="",
        captions_without_clip=0,
        audio=audio,
        text=text,
    )


def _whole_side(
    folder: Folder, header: CacheHeader, manifest: Manifest | None, side: Side
) -> SideInfo:
    """From the manifest and a listing alone."""
    if manifest is None:
        return _partial_side(folder, header, manifest, side)
    listed = manifest.side(side)
    used = {entry.name for entry in listed.shards}
    unused = [
        file for file in folder.files(side) if is_shard(file.name, side) and file.name not in used
    ]
    stored = header.side(side)
    return SideInfo(
        settings=dict(stored.settings),
        fingerprint=stored.fingerprint,
        generation=stored.generation,
        dim=stored.dim,
        stored=listed.stored,
        failed=len(listed.failed),
        wanted=len(listed.wanted),
        shards=len(listed.shards),
        shard_bytes=sum(entry.bytes for entry in listed.shards),
        unused_shards=len(unused),
        unused_bytes=sum(file.size_bytes for file in unused),
    )


def _partial_side(
    folder: Folder, header: CacheHeader, manifest: Manifest | None, side: Side
) -> SideInfo:
    """From what the shards hold."""
    stamp = ShardStamp.of(header, side)
    gone = manifest.side(side).discarded if manifest else ()
    shards = read_shards(folder, side, skip=gone)
    used = [keys for keys in shards if keys.stamp == stamp]
    unused = [keys for keys in shards if keys.stamp != stamp]
    ids = {name for keys in used for name in keys.columns[ID_COLUMN[side]]}
    failed = {
        name for failed_side, name in read_failures(folder, header).by_id if failed_side == side
    }
    stored = header.side(side)
    return SideInfo(
        settings=dict(stored.settings),
        fingerprint=stored.fingerprint,
        generation=stored.generation,
        dim=stored.dim,
        stored=len(ids),
        failed=len(failed - ids),
        wanted=len(manifest.side(side).wanted) if manifest else None,
        shards=len(used),
        shard_bytes=sum(keys.size_bytes for keys in used),
        unused_shards=len(unused),
        unused_bytes=sum(keys.size_bytes for keys in unused),
    )
