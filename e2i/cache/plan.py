"""The plan: what a cache still lacks, cut into chunks.

Conventions: a chunk is small and can be pickled: ids, names and texts, no embeddings. The ids still
wanted stand in the order of the metadata, those that failed before at the end (so that a broken
recording does not shift all chunk borders behind it), and are cut into full chunks: whoever starts
from the same state has the same plan. A chunk of text holds the captions of so many clips.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from e2i.cache.config import default_chunk_size, default_text_chunk_size
from e2i.cache.failures import RecordedFailures, read_failures
from e2i.cache.header import CacheHeader, SideSettings, ensure_header
from e2i.cache.layout import MANIFEST_NAME, SIDES, Side
from e2i.cache.manifest import Manifest, Verified, read_manifest
from e2i.cache.shards import ShardStamp, shard_key
from e2i.cache.stock import Stock, take_stock
from e2i.clips import Caption, CaptionedClips
from e2i.errors import StaleWriteError
from e2i.storage import Folder

_ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class WantedClip:
    """A recording to embed: its clip, and its name below the audio root."""

    clip_id: str
    audio_name: str


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """The clips that one task run embeds.

    Attributes:
        index: from 0, in the order of the plan.
        total: chunks of this side in the plan.
        stamp: cache, fingerprint and generation that the rows are for.
        clips: at least one.
    """

    index: int
    total: int
    stamp: ShardStamp
    clips: tuple[WantedClip, ...]

    @property
    def key(self) -> str:
        """Names the chunk: a hash of its ids, fingerprint and generation."""
        return shard_key(self.stamp, ((clip.clip_id, "") for clip in self.clips))


@dataclass(frozen=True, slots=True)
class TextChunk:
    """The captions that one task run embeds.

    Attributes:
        index: from 0, in the order of the plan.
        total: chunks of this side in the plan.
        stamp: cache, fingerprint and generation that the rows are for.
        captions: at least one.
    """

    index: int
    total: int
    stamp: ShardStamp
    captions: tuple[Caption, ...]

    @property
    def key(self) -> str:
        """Names the chunk: a hash of its ids, fingerprint and generation."""
        return shard_key(self.stamp, ((caption.caption_id, "") for caption in self.captions))


@dataclass(frozen=True, slots=True)
class PlannedStock:
    """The stock that a plan was made from.

    Attributes:
        stock: what is stored.
        manifest_version: of the manifest that it goes by; None where there was none.
    """

    stock: Stock
    manifest_version: str | None


@dataclass(frozen=True, slots=True)
class CachePlan:
    """What a cache still lacks.

    Attributes:
        audio_chunks: recordings to embed.
        text_chunks: captions to embed.
        clips: wanted.
        captions: wanted.
        clips_stored: stored already, and current.
        captions_stored: stored already, and current.
        retried: clips and captions among those to embed that failed before.
        verified: recordings whose size or version changed while their bytes did not; give it to
            `finish_cache`, which otherwise hashes them again.
        stock: what is stored, where nothing is to be embedded; give it to `finish_cache`, which
            otherwise takes stock again.
    """

    audio_chunks: tuple[AudioChunk, ...]
    text_chunks: tuple[TextChunk, ...]
    clips: int
    captions: int
    clips_stored: int
    captions_stored: int
    retried: int
    verified: Mapping[str, Verified]
    stock: PlannedStock | None = None


def plan_cache(
    folder: Folder,
    clips: CaptionedClips,
    audio: SideSettings,
    text: SideSettings,
    *,
    audio_root: Folder | None = None,
    chunk_size: int | None = None,
    force: bool = False,
    force_token: str | None = None,
) -> CachePlan:
    """What is still to be embedded; creates the cache where there is none.

    A manifest that no longer covers what is wanted is marked incomplete, so that nobody takes the
    cache for whole before this run, or a later one, has finished it.

    Args:
        folder: the cache.
        clips: what is wanted.
        audio: settings of the audio encoder.
        text: settings of the text encoder.
        audio_root: where the recordings lie; default `clips.audio_root_url`.
        chunk_size: clips a chunk, on both sides; default: for each side by its encoder.
        force: embed again the sides whose settings differ, or both where none differs.
        force_token: names the run that forces; with the same token a side is replaced only once.

    Raises:
        CacheError: the folder holds another data set or split, or embeddings without a cache.
        FingerprintMismatchError: encoder settings differ and `force` is off.
        SchemaVersionError: another version of e2i wrote the cache.
        CacheCorruptError: a stored file cannot be read.
        StorageError: the store refused.
    """
    root = audio_root or Folder(clips.audio_root_url)
    header = ensure_header(
        folder,
        clips.dataset,
        clips.split,
        {"audio": audio, "text": text},
        force=force,
        force_token=force_token,
    )
    failures = read_failures(folder, header)
    for _ in range(_ATTEMPTS):
        found = read_manifest(folder)
        manifest = found[0] if found else None
        stock = take_stock(folder, header, clips, root, manifest)
        if found is None or not _is_outdated(found[0], header, stock, clips):
            break
        try:
            incomplete = found[0].model_copy(update={"complete": False})
            folder.replace(MANIFEST_NAME, incomplete.as_bytes(), found[2])
            break
        except StaleWriteError:
            continue
    sizes = (
        chunk_size or default_chunk_size(str(audio.settings.get("encoder", ""))),
        chunk_size or default_text_chunk_size(str(text.settings.get("encoder", ""))),
    )
    stamps = [ShardStamp.of(header, side, manifest.revision if manifest else 0) for side in SIDES]
    plan = _cut(clips, stamps, stock, failures, sizes)
    if plan.audio_chunks or plan.text_chunks:
        return plan
    return replace(plan, stock=PlannedStock(stock, found[2] if found else None))


def shuffled(plan: CachePlan, seed: str) -> CachePlan:
    """The same chunks in an order of this run's own, so that runs side by side share the work.

    Runs that both went by the order of the plan would embed each chunk at the same time.

    Args:
        plan: as made.
        seed: names the run; the same seed gives the same order.
    """

    def place(chunk: AudioChunk | TextChunk) -> bytes:
        return hashlib.sha256(f"{seed} {chunk.key}".encode()).digest()

    return replace(
        plan,
        audio_chunks=tuple(sorted(plan.audio_chunks, key=place)),
        text_chunks=tuple(sorted(plan.text_chunks, key=place)),
    )


ItemT = TypeVar("ItemT")


def _is_outdated(
    manifest: Manifest, header: CacheHeader, stock: Stock, clips: CaptionedClips
) -> bool:
    """Whether a complete manifest lacks wanted rows, other than those that failed."""
    if not manifest.complete or not manifest.belongs_to(header):
        return False
    wanted: dict[Side, set[str]] = {
        "audio": {clip.clip_id for clip in clips.clips},
        "text": {caption.caption_id for caption in clips.captions},
    }
    return any(
        wanted[side] - stock.side(side).stored - set(manifest.side(side).failed) for side in wanted
    )


def _cut(
    clips: CaptionedClips,
    stamps: Sequence[ShardStamp],
    stock: Stock,
    failures: RecordedFailures,
    sizes: tuple[int, int],
) -> CachePlan:
    """The wanted ids that are not stored, as chunks."""
    failed_clips = {name for side, name in failures.by_id if side == "audio"}
    failed_captions = {name for side, name in failures.by_id if side == "text"}
    wanted = [
        WantedClip(clip.clip_id, clip.audio_name)
        for clip in clips.clips
        if clip.clip_id not in stock.audio.stored
    ]
    wanted.sort(key=lambda clip: clip.clip_id in failed_clips)
    by_clip = [
        lacking
        for clip in clips.clips
        if (lacking := [c for c in clip.captions if c.caption_id not in stock.text.stored])
    ]
    by_clip.sort(key=lambda group: any(c.caption_id in failed_captions for c in group))
    audio_stamp, text_stamp = stamps
    clip_groups = list(_chunks(wanted, sizes[0]))
    caption_groups = [tuple(itertools.chain(*groups)) for groups in _chunks(by_clip, sizes[1])]
    return CachePlan(
        audio_chunks=tuple(
            AudioChunk(index, len(clip_groups), audio_stamp, tuple(group))
            for index, group in enumerate(clip_groups)
        ),
        text_chunks=tuple(
            TextChunk(index, len(caption_groups), text_stamp, group)
            for index, group in enumerate(caption_groups)
        ),
        clips=len(clips.clips),
        captions=sum(len(clip.captions) for clip in clips.clips),
        clips_stored=len(stock.audio.stored),
        captions_stored=len(stock.text.stored),
        retried=sum(clip.clip_id in failed_clips for clip in wanted)
        + sum(c.caption_id in failed_captions for group in by_clip for c in group),
        verified=stock.verified,
    )


def _chunks(items: Sequence[ItemT], size: int) -> Iterator[Sequence[ItemT]]:
    """Full chunks, and what is left."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
