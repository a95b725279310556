"""The three parts that a sweep works on: to train on, to select by, to evaluate on once.

Decides: parts are fixed for the whole sweep, whatever seed a run has. Where there is no validation
cache, a validation part is held out of the training clips by the sweep's own seed, and where there
is no evaluation cache either, a test part too. The digest covers all that a run's outcome can
depend on in them.

Conventions: C clips, N captions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from e2i.cache.embeddings import CachedEmbeddings
from e2i.errors import ConfigError
from e2i.images.standardization import Standardization
from e2i.training.config import TrainingConfig
from e2i.training.exclusion import Exclusions
from e2i.training.holdout import hold_out
from e2i.training.pairs import cache_name, check_alike, check_embeddings, clip_keys

_SHARES = TrainingConfig()


@dataclass(frozen=True, slots=True)
class SweepData:
    """The parts of a sweep.

    Attributes:
        train: caches to train on, at least one.
        validation: to select by.
        evaluation: to score the winners on.
        standardization: statistics of the training clips.
        digest: of all parts; equal data has an equal one.
        notes: what was held out or left out, in sentences.
    """

    train: tuple[CachedEmbeddings, ...]
    validation: CachedEmbeddings
    evaluation: CachedEmbeddings
    standardization: Standardization
    digest: str
    notes: tuple[str, ...]

    @property
    def audio_dim(self) -> int:
        """D of the audio embeddings."""
        return int(self.train[0].audio.shape[1])

    @property
    def text_dim(self) -> int:
        """D of the text embeddings."""
        return int(self.train[0].text.shape[1])

    @property
    def pair_clip(self) -> NDArray[np.int64]:
        """For each training pair its clip, numbered over all training caches."""
        firsts = np.cumsum([0, *(len(cache.clip_ids) for cache in self.train[:-1])])
        return np.concatenate(
            [cache.caption_clip + first for cache, first in zip(self.train, firsts, strict=True)]
        )


def sweep_data(
    train: Sequence[CachedEmbeddings],
    validation: CachedEmbeddings | None,
    evaluation: CachedEmbeddings | None,
    *,
    seed: int,
    exclude: Exclusions | None = None,
) -> SweepData:
    """Lay out the parts.

    Args:
        train: caches to train on, by the same encoders.
        validation: to select by; a part of the training clips without.
        evaluation: to score on; without, a part of the training clips, if validation is one too.
        seed: of the parts held out.
        exclude: clips to leave out of training.

    Raises:
        ConfigError: no cache to train on, too few clips to hold some out, or a validation cache
            without one to evaluate on.
        CacheError: a cache is empty or holds NaN.
        FingerprintMismatchError: caches were made by different encoders.
    """
    if not train:
        raise ConfigError("no training cache: got 0, expected at least one. Give --cache-dir.")
    for cache in (*train, validation, evaluation):
        if cache is not None:
            check_embeddings(cache)
            check_alike(train[0], cache)
    notes: list[str] = []
    caches = list(train)
    if exclude is not None:
        caches = [of_clips(cache, exclude.kept(clip_keys(cache))) for cache in caches]
        left_out = sum(len(cache.clip_ids) for cache in train) - _num_clips(caches)
        notes.append(
            f"{left_out} of {_num_clips(train)} clips are left out of training, as the list of "
            "excluded clips asks."
        )
    if validation is None:
        caches, validation, evaluation, note = _held_out(caches, evaluation, seed)
        notes.append(note)
    if evaluation is None:
        message = (
            "a sweep has nothing to evaluate on: got a validation cache and no evaluation cache, "
            "expected both or neither. Give --eval-cache-dir."
        )
        raise ConfigError(message)
    parts = (*caches, validation, evaluation)
    return SweepData(
        train=tuple(caches),
        validation=validation,
        evaluation=evaluation,
        standardization=Standardization.of(np.concatenate([cache.audio for cache in caches])),
        digest=_digest(parts),
        notes=tuple(notes),
    )


def of_clips(cache: CachedEmbeddings, clips: NDArray[np.int64]) -> CachedEmbeddings:
    """A cache of these clips alone, ascending indices, with their captions."""
    new_index = np.full(len(cache.clip_ids), -1, dtype=np.int64)
    new_index[clips] = np.arange(len(clips))
    kept = np.flatnonzero(new_index[cache.caption_clip] >= 0)
    return replace(
        cache,
        clip_ids=tuple(cache.clip_ids[clip] for clip in clips),
        audio=cache.audio[clips],
        duration_s=cache.duration_s[clips],
        caption_ids=tuple(cache.caption_ids[row] for row in kept),
        captions=tuple(cache.captions[row] for row in kept),
        caption_clip=new_index[cache.caption_clip[kept]],
        text=cache.text[kept],
    )


def _held_out(
    caches: list[CachedEmbeddings], evaluation: CachedEmbeddings | None, seed: int
) -> tuple[list[CachedEmbeddings], CachedEmbeddings, CachedEmbeddings, str]:
    """Cut validation, and where it is wanted a test part, out of the one training cache."""
    if len(caches) != 1:
        message = (
            f"a sweep on several caches needs one to select by: got {len(caches)} training caches "
            "and no validation cache, expected one. Give --val-cache-dir."
        )
        raise ConfigError(message)
    (cache,) = caches
    wants_test = evaluation is None
    cut = hold_out(
        clip_keys(cache),
        val_fraction=_SHARES.val_fraction,
        test_fraction=_SHARES.test_fraction if wants_test else 0.0,
        seed=seed,
    )
    test = of_clips(cache, cut.test) if evaluation is None else evaluation
    held = f"{len(cut.validation)} for validation"
    if wants_test:
        held += f" and {len(cut.test)} for evaluation"
    note = f"Of the {len(cache.clip_ids)} clips of {cache_name(cache)}, {held} are held out."
    return [of_clips(cache, cut.train)], of_clips(cache, cut.validation), test, note


def _num_clips(caches: Sequence[CachedEmbeddings]) -> int:
    return sum(len(cache.clip_ids) for cache in caches)


def _digest(caches: Sequence[CachedEmbeddings]) -> str:
    digest = hashlib.sha256()
    for cache in caches:
        names = [cache.dataset, cache.split, cache.audio_fingerprint, cache.text_fingerprint]
        facts = [names, cache.clip_ids, cache.caption_ids, cache.captions]
        digest.update(json.dumps(facts, ensure_ascii=True).encode())
        for array in (cache.audio, cache.text, cache.caption_clip):
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
