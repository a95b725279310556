"""Scoring a checkpoint on a cache, on clips that it has not seen.

Decides: a clip is (data set, split, clip id). Where clips were held out of the cache for testing,
evaluating on that cache means those; where training or selection saw clips of it otherwise, it is
refused. Scores on seen clips are had by asking for them, and are marked as such.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from e2i.cache.embeddings import CachedEmbeddings
from e2i.errors import CheckpointError, SeenClipsError
from e2i.heads.checkpoint import Checkpoint
from e2i.heads.clip_roles import clip_digest
from e2i.heads.config import HeadsConfig
from e2i.retrieval.config import EvaluationConfig
from e2i.retrieval.evaluation import RetrievalScores, evaluate_projections
from e2i.training.device import resolve_device
from e2i.training.pairs import Pairs, cache_name, check_embeddings, clip_keys
from e2i.training.project import project
from e2i.training.pseudo_images import LoadStored, stored_images


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores, and what they were measured on.

    Attributes:
        retrieval: scores by key, and the tables per query; clips and captions in the order of
            `clip_ids` and `caption_ids`.
        seen: whether any of the clips was trained or selected on: then no score here says how
            the heads do on new clips.
        part: `all` clips of the cache, or its `test` part.
        clip_ids: C clips that were scored.
        caption_ids: N captions that were scored.
        notes: what a reader of the scores has to know, in sentences.
    """

    retrieval: RetrievalScores
    seen: bool
    part: str
    clip_ids: tuple[str, ...]
    caption_ids: tuple[str, ...]
    notes: tuple[str, ...]


def evaluate_checkpoint(
    checkpoint: Checkpoint | None,
    cache: CachedEmbeddings,
    evaluation: EvaluationConfig,
    *,
    allow_seen: bool = False,
    batch_size: int = 1024,
    device: str = "auto",
    load_stored: LoadStored | None = None,
) -> Evaluation:
    """Retrieval scores of a checkpoint on a cache.

    Args:
        checkpoint: the heads; None scores the embeddings as they are.
        cache: embeddings by the encoders that the checkpoint was trained on.
        evaluation: of the metrics and their intervals.
        allow_seen: take all clips of the cache, seen or not, and mark the result.
        batch_size: rows of one forward pass; changes no value.
        device: a device's name, or `auto`.
        load_stored: reads the cache's stored pseudo-images, where a CNN was told to take them from
            there. Without it images are generated: the same pixels.

    Raises:
        CheckpointError: encoders or dimensions differ, or there is no checkpoint and the two
            sides have different dimensions.
        SeenClipsError: the checkpoint was trained or selected on clips of this cache.
        CacheError: the cache is empty or holds NaN.
        ConfigError: no such device.
        ImageError: images have to come from the disk, and one is missing or made otherwise.
    """
    check_embeddings(cache)
    if checkpoint is None:
        _require_equal_dims(cache)
    else:
        _require_same_encoders(checkpoint, cache)
    clips, part, seen = _clips_to_score(checkpoint, cache, allow_seen=allow_seen)
    pairs = Pairs(
        clip_keys(cache),
        np.array(cache.audio, dtype=np.float32),
        np.array(cache.text, dtype=np.float32),
        np.array(cache.caption_clip, dtype=np.int64),
        _images(checkpoint, cache, load_stored),
    ).of_clips(clips)
    audio, text = _projections(checkpoint, pairs, batch_size, resolve_device(device))
    retrieval = evaluate_projections(text, audio, pairs.pair_clip, evaluation)
    kept = np.isin(cache.caption_clip, clips)
    return Evaluation(
        retrieval=retrieval,
        seen=seen,
        part=part,
        clip_ids=tuple(key.clip_id for key in pairs.keys),
        caption_ids=tuple(
            caption for caption, keep in zip(cache.caption_ids, kept, strict=True) if keep
        ),
        notes=(*_without_checkpoint(checkpoint), *_notes(cache, retrieval, part, seen=seen)),
    )


def _projections(
    checkpoint: Checkpoint | None, pairs: Pairs, batch_size: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Audio (C, P) and text (N, P) on the device."""
    tensors = pairs.to(device, HeadsConfig() if checkpoint is None else checkpoint.record.heads)
    if checkpoint is None:
        return tensors.audio, tensors.text
    return project(checkpoint.heads(device), tensors.audio, tensors.text, batch_size)


def _images(
    checkpoint: Checkpoint | None, cache: CachedEmbeddings, load_stored: LoadStored | None
) -> NDArray[np.uint8] | None:
    """The stored pseudo-images, where they are to be read."""
    if checkpoint is None or load_stored is None:
        return None
    return stored_images([cache], checkpoint.record.heads, load_stored)


def _clips_to_score(
    checkpoint: Checkpoint | None, cache: CachedEmbeddings, *, allow_seen: bool
) -> tuple[NDArray[np.int64], str, bool]:
    """Indices of the clips, the part they make up, and whether any of them was seen."""
    everything = np.arange(len(cache.clip_ids))
    if checkpoint is None:
        return everything, "all", False
    digests = [clip_digest(key) for key in clip_keys(cache)]
    roles = checkpoint.clips
    seen = [index for index, digest in enumerate(digests) if digest in roles.seen]
    if allow_seen or not seen:
        return everything, "all", bool(seen)
    test = [index for index, digest in enumerate(digests) if digest in roles.test]
    if test:
        return np.array(test), "test", False
    in_training = sum(digests[index] in roles.train for index in seen)
    message = (
        f"the checkpoint has seen clips of {cache_name(cache)}: got {in_training} that it was "
        f"trained on and {len(seen) - in_training} that its epoch was chosen by, of "
        f"{len(digests)} clips, the first {cache.clip_ids[seen[0]]!r}, expected none. Evaluate on "
        "another cache, or pass --allow-seen to get scores marked as seen."
    )
    raise SeenClipsError(message)


def _require_same_encoders(checkpoint: Checkpoint, cache: CachedEmbeddings) -> None:
    record = checkpoint.record
    facts = (
        ("audio", "fingerprint", record.audio_fingerprint, cache.audio_fingerprint),
        ("text", "fingerprint", record.text_fingerprint, cache.text_fingerprint),
        ("audio", "dimension", record.audio_dim, cache.audio.shape[1]),
        ("text", "dimension", record.text_dim, cache.text.shape[1]),
    )
    for side, what, expected, got in facts:
        if got != expected:
            message = (
                f"the checkpoint was trained on embeddings of another {side} encoder: got {side} "
                f"{what} {got} in {cache_name(cache)}, expected {expected} as in training. "
                "Embed with the same encoder settings, or train on this cache's encoders."
            )
            raise CheckpointError(message)


def _require_equal_dims(cache: CachedEmbeddings) -> None:
    audio_dim, text_dim = cache.audio.shape[1], cache.text.shape[1]
    if audio_dim != text_dim:
        message = (
            f"without a checkpoint both sides have to lie in one space: got {audio_dim} audio and "
            f"{text_dim} text dimensions in {cache_name(cache)}, expected equal ones. "
            "Give --checkpoint."
        )
        raise CheckpointError(message)


def _without_checkpoint(checkpoint: Checkpoint | None) -> tuple[str, ...]:
    """What has to be known where nothing was trained."""
    if checkpoint is not None:
        return ()
    return (
        "Zero-shot: the embeddings themselves are compared, without projection heads. That tells "
        "something only where both encoders are of one space, as clap's are.",
    )


def _notes(
    cache: CachedEmbeddings, retrieval: RetrievalScores, part: str, *, seen: bool
) -> tuple[str, ...]:
    notes = []
    if seen:
        notes.append("Seen: the checkpoint was trained or selected on clips among these.")
    if part == "test":
        notes.append(
            f"Measured on the {retrieval.num_clips} clips held out of {cache.dataset}/"
            f"{cache.split} for testing, of {len(cache.clip_ids)}."
        )
    if retrieval.left_out:
        notes.append(
            f"Left out, for lack of candidates: {', '.join(retrieval.left_out)} "
            f"({retrieval.num_clips} clips, {retrieval.num_captions} captions)."
        )
    return tuple(notes)
