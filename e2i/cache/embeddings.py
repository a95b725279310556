"""What a complete cache holds, in memory: one row a clip, one row a caption, joined by index."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class CachedEmbeddings:
    """The embeddings of one split, in the order of its metadata.

    C clips, N captions. Clips that failed, and their captions, are not in it: every clip has at
    least one caption here, and every caption has its clip.

    Attributes:
        dataset: name of the data set.
        split: name of the split.
        clip_ids: C ids, unique.
        audio: float32 (C, D_audio).
        duration_s: float64 (C,), seconds; NaN where it is not known.
        caption_ids: N ids, unique.
        captions: N texts; empty where they are not known.
        caption_clip: int64 (N,), for each caption the index of its clip in `clip_ids`.
        text: float32 (N, D_text).
        audio_fingerprint: of the audio encoder that made `audio`.
        text_fingerprint: of the text encoder that made `text`.
        url: where the cache lies, without credentials.
    """

    dataset: str
    split: str
    clip_ids: tuple[str, ...]
    audio: NDArray[np.float32]
    duration_s: NDArray[np.float64]
    caption_ids: tuple[str, ...]
    captions: tuple[str, ...]
    caption_clip: NDArray[np.int64]
    text: NDArray[np.float32]
    audio_fingerprint: str
    text_fingerprint: str
    url: str

    def shown_caption(self, row: int) -> str:
        """What stands for a caption before a reader: its text, or its id where that is unknown."""
        return self.captions[row] or self.caption_ids[row]
