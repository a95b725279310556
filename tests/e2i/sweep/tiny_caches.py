"""Tiny caches for sweeps: audio and text are views of one hidden point, so that heads can learn."""

from __future__ import annotations

import numpy as np

from e2i.cache.embeddings import CachedEmbeddings

AUDIO_DIM, TEXT_DIM = 24, 16


def tiny_cache(split: str, clips: int, seed: int) -> CachedEmbeddings:
    views = np.random.default_rng(12345)
    audio_view, text_view = views.normal(size=(6, AUDIO_DIM)), views.normal(size=(6, TEXT_DIM))
    generator = np.random.default_rng(seed)
    hidden = generator.normal(size=(clips, 6))
    caption_clip = np.repeat(np.arange(clips), 2)
    audio = hidden @ audio_view + 0.2 * generator.normal(size=(clips, AUDIO_DIM))
    text = (hidden @ text_view)[caption_clip]
    text += 0.2 * generator.normal(size=text.shape)
    clip_ids = tuple(f"{split} {number}.wav" for number in range(clips))
    return CachedEmbeddings(
        dataset="tiny",
        split=split,
        clip_ids=clip_ids,
        audio=audio.astype(np.float32),
        duration_s=np.ones(clips),
        caption_ids=tuple(
            f"{clip_ids[clip]}#{row % 2 + 1}" for row, clip in enumerate(caption_clip)
        ),
        captions=tuple(f"{split} caption {row}" for row in range(len(caption_clip))),
        caption_clip=caption_clip.astype(np.int64),
        text=text.astype(np.float32),
        audio_fingerprint="a0" * 8,
        text_fingerprint="b0" * 8,
        url=f"memory://{split}",
    )
