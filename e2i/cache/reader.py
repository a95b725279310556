"""Reading a finished cache.

Conventions: rows come in the order of the metadata, one a clip and one a caption; clips that
failed, and captions that lost their clip, are not in it. Only rows that the manifest counts are
read. Each shard's bytes are held against the manifest's sha256, unless that is switched off.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2i.cache.embeddings import CachedEmbeddings
from e2i.cache.header import CacheHeader, read_header
from e2i.cache.layout import FAILURES_NAME, HEADER_NAME, MANIFEST_NAME
from e2i.cache.manifest import Manifest, read_manifest
from e2i.cache.original import read_original
from e2i.cache.stored_rows import read_side
from e2i.errors import CacheError, CacheIncompleteError, CacheNotFoundError
from e2i.storage import Folder

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
            CacheCorruptError: a shard is missing, damaged, or not as the manifest has it, or a
                caption is of a clip that the manifest does not know.
            CacheError: no clip with a caption is stored.
            StorageError: the store refused.
        """
        if self.read is not None:
            return self.read
        manifest = self.manifest
        audio = read_side(self.folder, "audio", manifest.audio, verify=verify)
        row_of_clip = {clip_id: row for row, clip_id in enumerate(audio.ids)}
        row_of_clip |= dict.fromkeys(manifest.audio.failed, -1)
        text = read_side(self.folder, "text", manifest.text, row_of_clip, verify=verify)
        caption_clip = text.clip_rows
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
            clip_ids=_names(audio.ids, clips_kept),
            audio=_rows(audio.embeddings, clips_kept),
            duration_s=_rows(audio.values, clips_kept),
            caption_ids=_names(text.ids, captions_kept),
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


def _names(ids: list[str], kept: NDArray[np.int64]) -> tuple[str, ...]:
    return tuple(ids) if len(kept) == len(ids) else tuple(ids[row] for row in kept)


def _rows(values: NDArray[Any], kept: NDArray[np.int64]) -> NDArray[Any]:
    """The rows `kept` (ascending), moved up in place: no second copy of a large array."""
    if len(kept) == len(values):
        return values
    for start in range(0, len(kept), _MOVED_ROWS):
        block = kept[start : start + _MOVED_ROWS]
        values[start : start + len(block)] = values[block]
    return values[: len(kept)]
