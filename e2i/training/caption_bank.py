"""The captions that hubness is measured with: training captions, never those of the evaluation.

Decides: of a cache with clips that the checkpoint was trained on, the bank is the captions of these
clips; of any other cache it is all captions. A bank with clips of the evaluation is refused, and
captions that stand word for word in the evaluation are left out.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from e2i.cache.embeddings import CachedEmbeddings
from e2i.clips import ClipKey
from e2i.errors import ConfigError
from e2i.heads.checkpoint import Checkpoint
from e2i.heads.clip_roles import clip_digest
from e2i.training.pairs import cache_name, clip_keys


def bank_captions(
    bank: CachedEmbeddings,
    checkpoints: Sequence[Checkpoint],
    scored_clips: Collection[ClipKey],
    scored_captions: Collection[str],
) -> NDArray[np.int64]:
    """Indices of the captions of a cache that make up the bank.

    Args:
        bank: the cache.
        checkpoints: that are scored; none where the embeddings are.
        scored_clips: clips of the evaluation.
        scored_captions: their captions.

    Raises:
        ConfigError: clips of the evaluation are among them, or no caption is left.
    """
    keys = clip_keys(bank)
    trained = np.array(
        [any(clip_digest(key) in one.clips.train for one in checkpoints) for key in keys]
    )
    taken = trained if trained.any() else np.ones(len(keys), dtype=np.bool_)
    scored = set(scored_clips)
    shared = [key for key, take in zip(keys, taken, strict=True) if take and key in scored]
    if shared:
        message = (
            f"the bank holds captions of the evaluation: got {len(shared)} of its clips in "
            f"{cache_name(bank)}, the first {shared[0].clip_id!r}, expected none. Give a cache of "
            "other clips as --qb-norm-cache."
        )
        raise ConfigError(message)
    words = set(scored_captions) - {""}  # empty where the words are not known
    chosen = [
        index
        for index, (caption, clip) in enumerate(
            zip(bank.captions, bank.caption_clip.tolist(), strict=True)
        )
        if taken[clip] and caption not in words
    ]
    if not chosen:
        message = (
            f"the bank of captions is empty: got none in {cache_name(bank)} that is not of the "
            "evaluation, expected at least 1. Give another cache as --qb-norm-cache."
        )
        raise ConfigError(message)
    return np.array(chosen, dtype=np.int64)
