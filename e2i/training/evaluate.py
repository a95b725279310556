"""Scoring a checkpoint on a cache, on clips that it has not seen.

Decides: what is scored is one checkpoint, an ensemble of several (their similarities are added up),
or the embeddings as they are; `scored_clips` says on which clips. More candidates, a correction
for hubs and a file of relevant clips may be asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from e2i.cache.embeddings import CachedEmbeddings
from e2i.device import resolve_device
from e2i.errors import CheckpointError
from e2i.heads.checkpoint import Checkpoint
from e2i.retrieval.config import EvaluationConfig
from e2i.retrieval.evaluation import RelevantClips, RetrievalScores, evaluate_similarity
from e2i.retrieval.hubness import HubnessCorrected
from e2i.retrieval.relevance import Relevance, join_relevance
from e2i.retrieval.similarity import CosineSimilarity, Similarity
from e2i.training.caption_bank import bank_captions
from e2i.training.joint_space import JointSpace, all_pairs
from e2i.training.pairs import Pairs, cache_name, check_alike, check_embeddings, clip_keys
from e2i.training.pseudo_images import LoadStored
from e2i.training.scored_clips import clips_to_score, require_strangers
from e2i.training.windows import LoadWindows


@dataclass(frozen=True, slots=True)
class Extras:
    """What an evaluation takes beside a checkpoint and a cache.

    Attributes:
        others: checkpoints that make an ensemble with the first.
        relevance: which clips answer some of the captions.
        failed_clips: clips of the split that the cache could not embed.
        distractors: more candidates, which answer nothing.
        bank: training captions, to correct for hubs.
    """

    others: tuple[Checkpoint, ...] = ()
    relevance: Relevance | None = None
    failed_clips: frozenset[str] = frozenset()
    distractors: CachedEmbeddings | None = None
    bank: CachedEmbeddings | None = None


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
        captions: their texts.
        notes: what a reader of the scores has to know, in sentences.
        similarity: what the scores were made of.
        audio: float32 (C, P), the clips' projections; the product with a caption's is their
            similarity, before any correction.
        text: float32 (N, P), the captions' projections.
        distractor_ids: `<data set>/<split>/<clip id>` of the candidates behind the C clips.
    """

    retrieval: RetrievalScores
    seen: bool
    part: str
    clip_ids: tuple[str, ...]
    caption_ids: tuple[str, ...]
    captions: tuple[str, ...]
    notes: tuple[str, ...]
    similarity: Similarity
    audio: Tensor
    text: Tensor
    distractor_ids: tuple[str, ...] = ()


def evaluate_checkpoint(
    checkpoint: Checkpoint | None,
    cache: CachedEmbeddings,
    evaluation: EvaluationConfig,
    *,
    allow_seen: bool = False,
    batch_size: int = 1024,
    device: str = "auto",
    load_stored: LoadStored | None = None,
    load_windows: LoadWindows | None = None,
    extras: Extras = Extras(),
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
        load_windows: reads the cache's stored windows, for heads that pool them.
        extras: more checkpoints, candidates and relevant clips, and a bank of captions.

    Raises:
        CheckpointError: encoders or dimensions differ, or there is no checkpoint and the two
            sides have different dimensions.
        SeenClipsError: a checkpoint was trained or selected on clips of this cache, or on
            distractors.
        CacheError: a cache is empty or holds NaN, or heads pool windows and it holds none.
        FingerprintMismatchError: distractors or bank were made by other encoders.
        ConfigError: no such device, or distractors or bank hold clips of the evaluation.
        DatasetError: the relevance file is of another split.
        ImageError: images have to come from the disk, and one is missing or made otherwise.
    """
    checkpoints = () if checkpoint is None else (checkpoint, *extras.others)
    _require_embeddings(checkpoints, cache, extras)
    chosen = clips_to_score(checkpoints, cache, allow_seen=allow_seen)
    seen = chosen.seen
    if extras.distractors is not None:
        seen |= require_strangers(extras.distractors, cache, checkpoints, allow_seen=allow_seen)
    scored = _Scored.of(cache, chosen.clips)
    relevant, notes = _relevant(extras, cache, scored)
    space = JointSpace(checkpoints, batch_size, resolve_device(device), load_stored, load_windows)
    texts, audios = _candidates(space, scored, extras.distractors)
    similarity = CosineSimilarity(
        texts, audios, num_captions=len(scored.caption_ids), num_clips=len(scored.clips)
    )
    corrected: Similarity = similarity
    if extras.bank is not None:
        bank = bank_captions(extras.bank, checkpoints, scored.pairs.keys, scored.captions)
        notes += _bank_notes(extras.bank, len(bank))
        against_bank = CosineSimilarity(space.text(extras.bank.text[bank]), audios)
        corrected = HubnessCorrected(
            similarity, against_bank, evaluation.sim_batch_size, num_models=len(texts)
        )
    retrieval = evaluate_similarity(corrected, scored.pairs.pair_clip, evaluation, relevant)
    return Evaluation(
        retrieval=retrieval,
        seen=seen,
        part=chosen.part,
        clip_ids=tuple(key.clip_id for key in scored.pairs.keys),
        caption_ids=scored.caption_ids,
        captions=scored.captions,
        notes=(
            *_without_checkpoint(checkpoint),
            *_notes(cache, retrieval, chosen.part, seen=seen),
            *_extra_notes(extras),
            *notes,
        ),
        similarity=corrected,
        audio=similarity.audio[: similarity.num_clips],
        text=similarity.text[: similarity.num_captions],
        distractor_ids=()
        if extras.distractors is None
        else tuple("/".join(key) for key in clip_keys(extras.distractors)),
    )


@dataclass(frozen=True, slots=True)
class _Scored:
    """The clips of a cache that are scored, and their captions."""

    cache: CachedEmbeddings
    clips: NDArray[np.int64]
    pairs: Pairs
    caption_ids: tuple[str, ...]
    captions: tuple[str, ...]

    @classmethod
    def of(cls, cache: CachedEmbeddings, clips: NDArray[np.int64]) -> _Scored:
        kept = np.flatnonzero(np.isin(cache.caption_clip, clips)).tolist()
        return cls(
            cache=cache,
            clips=clips,
            pairs=all_pairs(cache).of_clips(clips),
            caption_ids=tuple(cache.caption_ids[row] for row in kept),
            captions=tuple(cache.captions[row] for row in kept),
        )


def _candidates(
    space: JointSpace, scored: _Scored, distractors: CachedEmbeddings | None
) -> tuple[list[Tensor], list[Tensor]]:
    """Text and audio by each checkpoint, distractors behind what is scored."""
    texts, audios = space.both(scored.cache, scored.clips)
    if distractors is None:
        return texts, audios
    more = space.both(distractors, np.arange(len(distractors.clip_ids)))
    together = [
        [torch.cat(parts) for parts in zip(own, others, strict=True)]
        for own, others in zip((texts, audios), more, strict=True)
    ]
    return together[0], together[1]


def _relevant(
    extras: Extras, cache: CachedEmbeddings, scored: _Scored
) -> tuple[RelevantClips | None, tuple[str, ...]]:
    """The relevant clips of the captions that are scored, and what to say of them."""
    if extras.relevance is None:
        return None, ()
    relevant, left_out = join_relevance(
        extras.relevance,
        scored.captions,
        [key.clip_id for key in scored.pairs.keys],
        other_captions=cache.captions,
        other_clips={*cache.clip_ids, *extras.failed_clips},
        captions_may_be_missing=bool(extras.failed_clips),
    )
    note = (
        f"text_to_audio_multi is over the {len(relevant.captions)} captions of which "
        f"{extras.relevance.source} says which clips answer them."
    )
    if left_out:
        note += f" {left_out} of its rows are about captions or clips that are not scored."
    return relevant, (note,)


def _require_embeddings(
    checkpoints: Sequence[Checkpoint], cache: CachedEmbeddings, extras: Extras
) -> None:
    """Refuse embeddings that cannot be computed with, or that the checkpoints do not know."""
    check_embeddings(cache)
    for checkpoint in checkpoints:
        _require_same_encoders(checkpoint, cache)
    if not checkpoints:
        _require_equal_dims(cache)
    for other in (extras.distractors, extras.bank):
        if other is not None:
            check_embeddings(other)
            check_alike(cache, other)


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


def _extra_notes(extras: Extras) -> tuple[str, ...]:
    notes = []
    if extras.others:
        notes.append(
            f"An ensemble: the similarities of {1 + len(extras.others)} checkpoints, added up."
        )
    if (others := extras.distractors) is not None:
        notes.append(
            f"Among the candidates are {len(others.clip_ids)} clips and {len(others.caption_ids)} "
            f"captions of {cache_name(others)} that are never right."
        )
    return tuple(notes)


def _bank_notes(bank: CachedEmbeddings, num_captions: int) -> tuple[str, ...]:
    return (
        f"Text to audio is corrected for hubs with {num_captions} captions of {cache_name(bank)} "
        "as the bank; audio to text is as it is.",
    )
