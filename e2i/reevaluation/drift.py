"""Drift: a random sample of clips is embedded anew, with today's code and from today's recordings.

A cached embedding is a fixed input: it stays as it was when code, weights or recordings change
under it. What is embedded anew does not.

Conventions: an embedding a moved from the stored one b where ‖a − b‖ > 1e-5 ‖b‖, in float32. A
recording that has other bytes than those that were embedded, or cannot be read any more, moved too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from e2i.cache.embed_audio import LoadWaveform, MeasureWaveform, embed_recordings
from e2i.cache.embeddings import CachedEmbeddings
from e2i.cache.header import SideSettings
from e2i.cache.layout import Side
from e2i.cache.plan import WantedClip
from e2i.cache.reader import Cache
from e2i.cache.shards import ShardStamp
from e2i.clips import CaptionedClips
from e2i.encoders.protocols import AudioEncoder, TextEncoder
from e2i.errors import FingerprintMismatchError
from e2i.report.scored_set import recordings_of
from e2i.storage import Folder

TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Moved:
    """A clip or caption that is not what is stored.

    Attributes:
        side: `audio` or `text`.
        id: the clip's or caption's.
        distance: ‖a − b‖ / ‖b‖; None where there is no a.
        reason: in words.
    """

    side: Side
    id: str
    distance: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class Drift:
    """What embedding a sample anew showed.

    Attributes:
        seed: of the draw.
        clips: drawn.
        captions: of them.
        largest: the largest ‖a − b‖ / ‖b‖ found; 0 where nothing was compared.
        moved: those beyond the tolerance, clips first.
    """

    seed: int
    clips: int = 0
    captions: int = 0
    largest: float = 0.0
    moved: tuple[Moved, ...] = field(default=())

    @property
    def moved_clips(self) -> tuple[str, ...]:
        """Ids of the clips that moved."""
        return tuple(one.id for one in self.moved if one.side == "audio")


def draw_clips(clip_ids: Sequence[str], size: int, seed: int) -> list[str]:
    """A sample without replacement, of all where there are no more.

    Args:
        clip_ids: to draw from.
        size: how many.
        seed: the same ids and seed give the same sample.
    """
    drawn = np.random.default_rng(seed).permutation(len(clip_ids))[:size]
    return [clip_ids[index] for index in sorted(drawn)]


def find_drift(
    cache: Cache,
    embeddings: CachedEmbeddings,
    clips: CaptionedClips,
    encoders: tuple[AudioEncoder, TextEncoder],
    load_waveform: LoadWaveform,
    *,
    sample: int,
    seed: int,
    measure: MeasureWaveform | None = None,
    decoders: int = 2,
) -> Drift:
    """Embed a sample of a cache's clips anew, and compare with what is stored.

    Args:
        cache: finished, opened, up to date with its source.
        embeddings: what it holds.
        clips: the source.
        encoders: of both sides, as today's code makes them.
        load_waveform: decodes a recording.
        sample: clips to draw.
        seed: of the draw.
        measure: tells what a recording will come to; without it they decode one by one.
        decoders: recordings to decode at once.

    Raises:
        FingerprintMismatchError: an encoder is another one than the cache was made with.
        CacheCorruptError: a shard is missing or damaged.
        StorageError: the store refused.
    """
    if not sample:
        return Drift(seed)
    audio, text = encoders
    names = {clip.clip_id: clip.audio_name for clip in clips.clips}
    drawn = draw_clips([one for one in embeddings.clip_ids if one in names], sample, seed)
    wanted = [WantedClip(clip_id, names[clip_id]) for clip_id in drawn]
    stamp = ShardStamp.of(cache.header, "audio")
    root = Folder(clips.audio_root_url)
    rows, failed = embed_recordings(
        root, stamp, wanted, audio, load_waveform, measure=measure, decoders=decoders
    )
    stored = dict(zip(embeddings.clip_ids, embeddings.audio, strict=True))
    recordings = recordings_of(cache)
    moved = [
        Moved("audio", one.id, None, f"cannot be embedded any more: {one.reason}") for one in failed
    ]
    distances = []
    for row in rows:
        distances.append(_distance(row.embedding, stored[row.clip_id]))
        if row.content_sha256 != recordings[row.clip_id]:
            reason = "its recording has other bytes, under the same size and date"
            moved.append(Moved("audio", row.clip_id, distances[-1], reason))
        elif distances[-1] > TOLERANCE:
            reason = "the same recording is embedded otherwise"
            moved.append(Moved("audio", row.clip_id, distances[-1], reason))
    captions, of_text = _moved_captions(cache, embeddings, set(drawn), text)
    moved += [
        Moved("text", caption_id, distance, "the same words are embedded otherwise")
        for caption_id, distance in of_text.items()
        if distance > TOLERANCE
    ]
    return Drift(
        seed=seed,
        clips=len(drawn),
        captions=captions,
        largest=max([*distances, *of_text.values()], default=0.0),
        moved=tuple(moved),
    )


def _moved_captions(
    cache: Cache, embeddings: CachedEmbeddings, drawn: set[str], encoder: TextEncoder
) -> tuple[int, dict[str, float]]:
    """How many captions the drawn clips have, and how far each is from the stored one."""
    settings, stamp = SideSettings.of(encoder), cache.header.text
    if settings.fingerprint != stamp.fingerprint:
        raise FingerprintMismatchError(
            "the captions were embedded by another text encoder: got fingerprint "
            f"{settings.fingerprint}, expected {stamp.fingerprint} as in {cache.folder.url}. Give "
            "the options that the cache was made with."
        )
    rows = [
        row
        for row, clip in enumerate(embeddings.caption_clip)
        if embeddings.clip_ids[clip] in drawn
    ]
    if not rows:
        return 0, {}
    anew = encoder.encode([embeddings.captions[row] for row in rows])
    return len(rows), {
        embeddings.caption_ids[row]: _distance(made, embeddings.text[row])
        for row, made in zip(rows, anew, strict=True)
    }


def _distance(anew: NDArray[np.float32], stored: NDArray[np.float32]) -> float:
    """‖a − b‖ / ‖b‖; where b is zero, ‖a‖."""
    norm = float(np.linalg.norm(stored))
    apart = float(np.linalg.norm(anew - stored))
    return apart / norm if norm else apart
