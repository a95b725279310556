"""Embedding one chunk of captions and storing its shard."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from e2i.cache.chunk_result import (
    ChunkResult,
    Progress,
    Stop,
    check_encoder,
    encoder_lock,
    record_failures,
    wrong_dimension,
)
from e2i.cache.failures import Failure
from e2i.cache.header import SideSettings
from e2i.cache.layout import shard_name
from e2i.cache.plan import TextChunk
from e2i.cache.shards import ShardStamp, caption_digest, shard_key, text_shard
from e2i.clips import Caption
from e2i.encoders.protocols import TextEncoder
from e2i.storage import Folder

_CAPTIONS_A_CALL = 1024
"""Captions given to the encoder at once, which sorts and batches them as it likes."""

_NOT_FINITE = (
    "a caption cannot be embedded: got values that are not finite, expected finite ones. Look at "
    "the caption."
)


def embed_text_chunk(
    folder: Folder,
    chunk: TextChunk,
    encoder: TextEncoder,
    *,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> ChunkResult:
    """Embed the captions of a chunk and store them, unless they are stored by now.

    Args:
        folder: the cache.
        chunk: as planned.
        encoder: the one that the chunk was planned for.
        progress: told of captions as they are done.
        stop: asked between calls of the encoder; True stores what is there and ends.

    Raises:
        FingerprintMismatchError: the encoder is another one.
        CacheError: embeddings have another length than the encoder says.
        StorageError: the store refused; nothing half-written is left.
    """
    started = time.perf_counter()
    tell = progress or (lambda _: None)
    check_encoder(chunk.stamp, SideSettings.of(encoder))
    faults = [_fault(caption.text) for caption in chunk.captions]
    failed = [
        _failure(chunk.stamp, caption, fault)
        for caption, fault in zip(chunk.captions, faults, strict=True)
        if fault
    ]
    usable = [c for c, fault in zip(chunk.captions, faults, strict=True) if not fault]
    tell(len(failed))
    result = _embed_usable(
        folder, chunk, usable, failed, lambda: _encode(chunk.stamp, usable, encoder, tell, stop)
    )
    if result.reused:
        tell(result.reused)
    return replace(result, seconds=time.perf_counter() - started)


def _embed_usable(
    folder: Folder,
    chunk: TextChunk,
    captions: Sequence[Caption],
    failed: list[Failure],
    encode: Callable[[], NDArray[np.float32]],
) -> ChunkResult:
    """Store what `encode` makes of the captions, unless their shard is there."""
    if captions and folder.info(_shard(chunk.stamp, captions)) is not None:
        record_failures(folder, chunk.stamp, chunk.key, failed)
        return ChunkResult(reused=len(captions), failed=tuple(failed))
    rows = encode()
    left = len(captions) - len(rows)
    finite = np.asarray(np.isfinite(rows).all(axis=1))
    done = list(zip(captions, finite, strict=False))
    failed += [_failure(chunk.stamp, caption, _NOT_FINITE) for caption, good in done if not good]
    record_failures(folder, chunk.stamp, chunk.key, failed)
    kept = [caption for caption, good in done if good]
    if not kept:
        return ChunkResult(failed=tuple(failed), left=left)
    data = text_shard(chunk.stamp, [(c.caption_id, c.clip_id, c.text) for c in kept], rows[finite])
    if not folder.create(_shard(chunk.stamp, kept), data):
        return ChunkResult(discarded=len(kept), failed=tuple(failed), left=left)
    return ChunkResult(embedded=len(kept), failed=tuple(failed), left=left, stored_bytes=len(data))


def _encode(
    stamp: ShardStamp,
    captions: Sequence[Caption],
    encoder: TextEncoder,
    tell: Progress,
    stop: Stop | None,
) -> NDArray[np.float32]:
    """Embeddings (N, D) of the captions, or of the first of them where the run is to stop."""
    parts = [np.empty((0, stamp.dim), dtype=np.float32)]
    for start in range(0, len(captions), _CAPTIONS_A_CALL):
        if stop is not None and stop():
            break
        texts = [caption.text for caption in captions[start : start + _CAPTIONS_A_CALL]]
        with encoder_lock(encoder):
            part = np.asarray(encoder.encode(texts), dtype=np.float32)
        if part.shape != (len(texts), stamp.dim):
            raise wrong_dimension(stamp, part.shape)
        parts.append(part)
        tell(len(texts))
    return np.concatenate(parts)


def _shard(stamp: ShardStamp, captions: Sequence[Caption]) -> str:
    contents = ((c.caption_id, caption_digest(c.text)) for c in captions)
    return shard_name("text", shard_key(stamp, contents))


def _fault(text: str) -> str:
    """Why a caption cannot be embedded; empty if it can."""
    if not text.strip():
        return "the caption is empty: got no words, expected some. Correct the metadata."
    try:
        text.encode()
    except UnicodeEncodeError:
        return "the caption is no valid Unicode: got a lone surrogate. Correct the metadata."
    return ""


def _failure(stamp: ShardStamp, caption: Caption, reason: str) -> Failure:
    return Failure(
        side="text",
        id=caption.caption_id,
        name="",
        error="CaptionError",
        reason=reason,
        content_sha256=caption_digest(caption.text),
        fingerprint=stamp.fingerprint,
        generation=stamp.generation,
    )
