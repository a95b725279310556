"""The contrastive loss, with one or several positives.

Conventions: a batch is B pairs; audio and text projections are (B, P) and L2-normalized; row i of
both is pair i. `logit_scale` is log(1 / temperature). A positive cell (i, j) says that caption j
describes clip i; where a clip stands in a batch more than once, the cells of its copies are
positive too.

Source: the symmetric loss of Radford et al., "Learning transferable visual models from natural
language supervision", 2021; its mean over all positive cells follows the DCASE 2025 Task 6
baseline.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from e2i.errors import RetrievalInputError


def contrastive_loss(
    audio: Tensor, text: Tensor, positives: Tensor, logit_scale: Tensor | float
) -> Tensor:
    """Mean of the log-softmax over all positive cells, both directions, halved and negated.

    Computed in float32 at least, under autocast too. Gradients reach the projections and a
    `logit_scale` that asks for them.

    Args:
        audio: (B, P), L2-normalized rows.
        text: (B, P), L2-normalized rows.
        positives: (B, B) bool, audio by text; at least one True (a mean over none is NaN).
        logit_scale: log(1 / temperature), a number or a tensor of one element.

    Returns:
        Scalar; 0 is best.

    Raises:
        RetrievalInputError: shapes or types do not make a batch.
    """
    _require_batch(audio, text, positives)
    with torch.autocast(audio.device.type, enabled=False):
        scale = logit_scale.exp() if isinstance(logit_scale, Tensor) else math.exp(logit_scale)
        logits = _at_least_float32(audio) @ _at_least_float32(text).T * scale
        # (B, B); of each cell, how likely it is among its row (captions) and its column (clips).
        both = logits.log_softmax(dim=1) + logits.log_softmax(dim=0)
        return both.masked_fill(~positives, 0.0).sum() / positives.sum() * -0.5


def positives_from_clips(clip: Tensor) -> Tensor:
    """Which cells of a batch are positive: those whose pairs share a clip.

    Args:
        clip: (B,) integers, the clip of each pair.

    Returns:
        (B, B) bool, the diagonal always True.

    Raises:
        RetrievalInputError: not a vector of integers.
    """
    if clip.ndim != 1 or clip.is_floating_point() or clip.is_complex():
        raise RetrievalInputError(
            f"the clips of a batch are no index: got {clip.dtype} of shape {tuple(clip.shape)}, "
            "expected one integer a pair. Take them from the cache's `caption_clip`."
        )
    return clip[:, None] == clip[None, :]


def _at_least_float32(projections: Tensor) -> Tensor:
    return projections.to(torch.promote_types(projections.dtype, torch.float32))


def _require_batch(audio: Tensor, text: Tensor, positives: Tensor) -> None:
    if audio.ndim != 2 or audio.shape != text.shape or 0 in audio.shape:
        raise RetrievalInputError(
            f"audio and text are no batch of pairs: got shapes {tuple(audio.shape)} and "
            f"{tuple(text.shape)}, expected (pairs, width) both. "
            "Project both sides into one joint space."
        )
    if positives.dtype != torch.bool or positives.shape != (len(audio), len(audio)):
        raise RetrievalInputError(
            f"positives do not fit the batch: got {positives.dtype} of shape "
            f"{tuple(positives.shape)}, expected torch.bool of shape ({len(audio)}, {len(audio)}). "
            "Make them with positives_from_clips."
        )
