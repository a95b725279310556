"""The snapshot: the cache as tensors, in the form of the original.

Conventions: one row a pair (caption) in the order of the metadata, so that a clip's audio row
stands once for each of its captions. `metadata.json` is written last and carries the manifest's
sha256: a snapshot without it, or with another one, is out of date. Only users of the original's
files need it; e2i reads the shards.

Source: the files `audio_embeddings.pt`, `text_embeddings.pt`, `metadata.json` of the original.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from e2i.cache.config import SnapshotMode
from e2i.cache.embeddings import CachedEmbeddings
from e2i.cache.layout import (
    SNAPSHOT_AUDIO_NAME,
    SNAPSHOT_METADATA_NAME,
    SNAPSHOT_NAMES,
    SNAPSHOT_TEXT_NAME,
)
from e2i.cache.reader import Cache
from e2i.errors import StorageNotFoundError
from e2i.storage import Folder

AUTO_BELOW_BYTES = 2**30
"""`auto` writes a snapshot when both tensors take less than this together."""

_MANIFEST_FIELD = "manifest_sha256"


def write_snapshot(cache: Cache, mode: SnapshotMode = "auto") -> bool:
    """Bring the snapshot of a finished cache up to date; whether it was written.

    A snapshot that is out of date and not to be written is deleted.

    Args:
        cache: a finished one.
        mode: `auto` writes it when both tensors take less than 1 GiB together.

    Raises:
        CacheError: the cache is damaged.
        StorageError: the store refused.
    """
    folder = cache.folder
    wanted = mode == "always" or (mode == "auto" and _size(cache) < AUTO_BELOW_BYTES)
    if is_current(cache):
        return False
    if not wanted or not _num_pairs(cache):
        _delete(folder)
        return False
    stored = cache.load()
    folder.delete(SNAPSHOT_METADATA_NAME)
    folder.write(SNAPSHOT_AUDIO_NAME, _tensor_file(stored.audio[stored.caption_clip]))
    folder.write(SNAPSHOT_TEXT_NAME, _tensor_file(stored.text))
    folder.write(SNAPSHOT_METADATA_NAME, _metadata(cache, stored))
    return True


def is_current(cache: Cache) -> bool:
    """Whether the snapshot is of this state of the cache."""
    try:
        metadata = json.loads(cache.folder.read(SNAPSHOT_METADATA_NAME))
    except (StorageNotFoundError, ValueError):
        return False
    if not isinstance(metadata, dict) or metadata.get(_MANIFEST_FIELD) != cache.manifest_sha256:
        return False
    tensors = (SNAPSHOT_AUDIO_NAME, SNAPSHOT_TEXT_NAME)
    return all(cache.folder.info(name) is not None for name in tensors)


def carry_over(folder: Folder, before_sha256: str, after_sha256: str) -> None:
    """Let a snapshot of the manifest before be one of the manifest after, which has the same rows.

    Raises:
        StorageError: the store refused.
    """
    try:
        metadata = json.loads(folder.read(SNAPSHOT_METADATA_NAME))
    except (StorageNotFoundError, ValueError):
        return
    if isinstance(metadata, dict) and metadata.get(_MANIFEST_FIELD) == before_sha256:
        metadata[_MANIFEST_FIELD] = after_sha256
        folder.write(SNAPSHOT_METADATA_NAME, _as_json(metadata))


def _num_pairs(cache: Cache) -> int:
    """Upper bound: a caption may have failed in a clip that failed too."""
    counts = cache.manifest.counts
    if not cache.manifest.audio.stored:
        return 0
    return counts.captions - max(counts.captions_failed, counts.captions_without_clip)


def _size(cache: Cache) -> int:
    dims = cache.manifest.audio.dim + cache.manifest.text.dim
    return _num_pairs(cache) * dims * np.dtype(np.float32).itemsize


def _delete(folder: Folder) -> None:
    if folder.info(SNAPSHOT_METADATA_NAME) is not None:
        for name in reversed(SNAPSHOT_NAMES):
            folder.delete(name)


def _tensor_file(values: NDArray[np.float32]) -> bytes:
    import torch  # noqa: PLC0415 - takes seconds, and only a snapshot needs it

    file = io.BytesIO()
    torch.save(torch.from_numpy(np.ascontiguousarray(values)), file)
    return file.getvalue()


def _metadata(cache: Cache, stored: CachedEmbeddings) -> bytes:
    num_pairs = len(stored.caption_ids)
    audio, text = cache.header.audio.settings, cache.header.text.settings
    metadata = {
        "ids": list(stored.caption_ids),
        "audio_embedding_shape": [num_pairs, stored.audio.shape[1]],
        "text_embedding_shape": [num_pairs, stored.text.shape[1]],
        "audio_sample_rate": audio.get("sample_rate"),
        "audio_encoder": audio.get("encoder", "AudioEncoder"),
        "text_encoder": text.get("encoder", "TextEncoder"),
        "num_pairs": num_pairs,
        "metadata_source": cache.manifest.source,
        _MANIFEST_FIELD: cache.manifest_sha256,
    }
    return _as_json(metadata)


def _as_json(metadata: Mapping[str, object]) -> bytes:
    return json.dumps(metadata, indent=2, ensure_ascii=False).encode()
