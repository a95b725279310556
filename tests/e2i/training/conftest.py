"""Synthetic caches: audio and text are linear views of one hidden point, plus noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from e2i.cache.embeddings import CachedEmbeddings

HIDDEN_DIM, AUDIO_DIM, TEXT_DIM = 8, 24, 16


def _make_cache(
    clips: int = 60,
    captions: int | list[int] = 3,
    *,
    split: str = "development",
    seed: int = 0,
    noise: float = 0.3,
    shuffle_captions: bool = False,
    **changes: object,
) -> CachedEmbeddings:
    views = np.random.default_rng(12345)
    audio_view = views.normal(size=(HIDDEN_DIM, AUDIO_DIM))
    text_view = views.normal(size=(HIDDEN_DIM, TEXT_DIM))
    generator = np.random.default_rng([seed, len(split)])
    hidden = generator.normal(size=(clips, HIDDEN_DIM))
    counts = [captions] * clips if isinstance(captions, int) else captions
    caption_clip = np.repeat(np.arange(clips), counts)
    audio = hidden @ audio_view + noise * generator.normal(size=(clips, AUDIO_DIM))
    text = (hidden @ text_view)[caption_clip]
    text += noise * generator.normal(size=text.shape)
    if shuffle_captions:
        text = text[generator.permutation(len(text))]
    clip_ids = tuple(f"{split} {index} #[%].wav" for index in range(clips))
    caption_ids = tuple(f"{clip_ids[c]}#{n + 1}" for c in range(clips) for n in range(counts[c]))
    content: dict[str, object] = {
        "dataset": "synthetic",
        "split": split,
        "clip_ids": clip_ids,
        "audio": audio.astype(np.float32),
        "duration_s": np.ones(clips),
        "caption_ids": caption_ids,
        "captions": tuple(f"caption {index}" for index in range(len(text))),
        "caption_clip": caption_clip.astype(np.int64),
        "text": text.astype(np.float32),
        "audio_fingerprint": "a0" * 8,
        "text_fingerprint": "b0" * 8,
        "url": f"memory://{split}",
    }
    return CachedEmbeddings(**{**content, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def make_cache() -> Callable[..., CachedEmbeddings]:
    return _make_cache


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Matrices this small gain nothing from threads, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
