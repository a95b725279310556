"""Cached embeddings as training data: joined, checked, cut by clip.

Conventions: N pairs, C clips; a clip's audio stands once, pairs point to it by index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from e2i.cache.embeddings import CachedEmbeddings
from e2i.clips import ClipKey
from e2i.errors import CacheError, ConfigError, FingerprintMismatchError
from e2i.heads.build import ProjectionHeads
from e2i.heads.config import HeadsConfig
from e2i.images.standardization import Standardization
from e2i.training.pseudo_images import audio_input
from e2i.training.windows import ClipWindows, LoadWindows, WindowTensors, read_all


@dataclass(frozen=True, slots=True)
class Pairs:
    """Embeddings of clips and captions, joined by index.

    Attributes:
        keys: the C clips, unique.
        audio: float32 (C, D_audio).
        text: float32 (N, D_text), one row a pair.
        pair_clip: int64 (N,), the clip of each pair.
        images: uint8 (C, 3, S, S), stored pseudo-images of the clips, where they were read.
        windows: of the clips, where they were read.
    """

    keys: tuple[ClipKey, ...]
    audio: NDArray[np.float32]
    text: NDArray[np.float32]
    pair_clip: NDArray[np.int64]
    images: NDArray[np.uint8] | None = None
    windows: ClipWindows | None = None

    def of_clips(self, clips: NDArray[np.int64]) -> Pairs:
        """These clips with all their captions; `clips` are ascending indices."""
        new_index = np.full(len(self.keys), -1, dtype=np.int64)
        new_index[clips] = np.arange(len(clips))
        kept = new_index[self.pair_clip] >= 0
        return Pairs(
            keys=tuple(self.keys[clip] for clip in clips),
            audio=self.audio[clips],
            text=self.text[kept],
            pair_clip=new_index[self.pair_clip[kept]],
            images=None if self.images is None else self.images[clips],
            windows=None if self.windows is None else self.windows.of_clips(clips),
        )

    def with_images(self, keys: Sequence[ClipKey], images: NDArray[np.uint8] | None) -> Pairs:
        """The same with pseudo-images, uint8 (K, 3, S, S), of K clips, all of these among them."""
        if images is None or tuple(keys) == self.keys:
            return replace(self, images=images)
        rows = {key: row for row, key in enumerate(keys)}
        return replace(self, images=images[[rows[key] for key in self.keys]])

    def to(
        self,
        device: torch.device,
        heads: HeadsConfig = HeadsConfig(),
        standardization: Standardization | None = None,
    ) -> PairTensors:
        """What heads of this configuration take, on a device.

        Args:
            device: where to.
            heads: what they look like.
            standardization: of the audio head, where it standardizes.
        """
        return PairTensors(
            audio=audio_input(self.audio, self.images, heads, device, standardization),
            text=torch.from_numpy(self.text).to(device),
            pair_clip=torch.from_numpy(self.pair_clip).to(device),
            windows=None if self.windows is None else WindowTensors(self.windows, device),
        )


@dataclass(frozen=True, slots=True)
class PairTensors:
    """`Pairs` on a device: text (N, D_text), pair_clip (N,), and audio (C, D_audio).

    For a CNN, `audio` may also be the clips' pseudo-images, uint8 (C, 3, S, S). `windows` are the
    clips', where they were read: then `audio` is their mean.
    """

    audio: Tensor
    text: Tensor
    pair_clip: Tensor
    windows: WindowTensors | None = None

    def audio_of(self, heads: ProjectionHeads) -> Tensor:
        """What the audio head is given for all clips, when nothing is dropped."""
        if heads.pooling is None or self.windows is None:
            return self.audio
        return self.windows.pooled(heads)


def clip_keys(cache: CachedEmbeddings) -> tuple[ClipKey, ...]:
    """The clips of a cache across data sets and splits, in its order."""
    return tuple(ClipKey(cache.dataset, cache.split, clip_id) for clip_id in cache.clip_ids)


def cache_name(cache: CachedEmbeddings) -> str:
    """How messages call a cache."""
    return f"{cache.dataset}/{cache.split} ({cache.url})"


def check_embeddings(cache: CachedEmbeddings) -> None:
    """Refuse what cannot be computed with.

    Raises:
        CacheError: the cache is empty, or an embedding holds NaN or infinity.
    """
    if not cache.clip_ids or not cache.caption_ids:
        message = (
            f"the cache {cache_name(cache)} is empty: got {len(cache.clip_ids)} clips and "
            f"{len(cache.caption_ids)} captions, expected at least one of each. "
            "Embed the data set first, or look into failures.jsonl."
        )
        raise CacheError(message)
    sides = (("clip", cache.clip_ids, cache.audio), ("caption", cache.caption_ids, cache.text))
    for what, ids, rows in sides:
        broken = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if broken.size:
            message = (
                f"the cache {cache_name(cache)} holds embeddings that are no numbers: got NaN or "
                f"infinity for {broken.size} of {len(ids)} {what}s, the first {ids[broken[0]]!r}, "
                "expected finite values. Embed that side again with --force."
            )
            raise CacheError(message)


def check_alike(first: CachedEmbeddings, other: CachedEmbeddings) -> None:
    """Refuse caches whose embeddings do not live in the same spaces.

    Raises:
        FingerprintMismatchError: the encoders, their settings or the dimensions differ.
    """
    facts = (
        ("audio fingerprint", first.audio_fingerprint, other.audio_fingerprint),
        ("text fingerprint", first.text_fingerprint, other.text_fingerprint),
        ("audio dimension", first.audio.shape[1], other.audio.shape[1]),
        ("text dimension", first.text.shape[1], other.text.shape[1]),
    )
    for name, expected, got in facts:
        if got != expected:
            message = (
                f"the caches {cache_name(first)} and {cache_name(other)} were made by different "
                f"encoders: got {name} {got} in the second, expected {expected} as in the first. "
                "Embed both with the same encoder settings."
            )
            raise FingerprintMismatchError(message)


def join(
    caches: Sequence[CachedEmbeddings],
    load_windows: LoadWindows | None = None,
    *,
    with_windows: bool = False,
) -> Pairs:
    """All pairs of the caches, one after the other, without images.

    Args:
        caches: at least one.
        load_windows: reads the windows of one cache; None where there are none to be read.
        with_windows: whether windows are wanted.

    Raises:
        ConfigError: no cache, one clip stands in two of them, or windows cannot be read.
        CacheError: a cache is empty, holds NaN, or lacks windows.
        FingerprintMismatchError: they were made by different encoders.
        StorageError: the store refused.
    """
    if not caches:
        raise ConfigError("no training cache: got 0, expected at least one. Give --cache-dir.")
    for cache in caches:
        check_embeddings(cache)
        check_alike(caches[0], cache)
    keys = tuple(key for cache in caches for key in clip_keys(cache))
    if len(set(keys)) != len(keys):
        seen: set[ClipKey] = set()
        twice = next(key for key in keys if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        message = (
            f"a clip stands in two training caches: got {'/'.join(twice)!r} twice, expected each "
            "clip once. Give each cache once."
        )
        raise ConfigError(message)
    firsts = np.cumsum([0, *(len(cache.clip_ids) for cache in caches[:-1])])
    return Pairs(
        keys=keys,
        audio=np.concatenate([cache.audio for cache in caches]).astype(np.float32, copy=False),
        text=np.concatenate([cache.text for cache in caches]).astype(np.float32, copy=False),
        pair_clip=np.concatenate(
            [cache.caption_clip + first for cache, first in zip(caches, firsts, strict=True)]
        ),
        windows=read_all(caches, load_windows) if with_windows else None,
    )
