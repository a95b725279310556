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
from torch.autograd.function import FunctionCtx, once_differentiable

from e2i.errors import RetrievalInputError


def contrastive_loss(
    audio: Tensor, text: Tensor, positives: Tensor | None, logit_scale: Tensor | float
) -> Tensor:
    """Mean of the log-softmax over all positive cells, both directions, halved and negated.

    Computed in float32 at least, under autocast too. Gradients reach the projections and a
    `logit_scale` that asks for them.

    Args:
        audio: (B, P), L2-normalized rows.
        text: (B, P), L2-normalized rows.
        positives: (B, B) bool, audio by text; at least one True (a mean over none is NaN). None:
            the diagonal, for a batch that holds each clip once.
        logit_scale: log(1 / temperature), a number or a tensor of one element.

    Returns:
        Scalar; 0 is best.

    Raises:
        RetrievalInputError: shapes or types do not make a batch.
    """
    _require_batch(audio, text, positives)
    with torch.autocast(audio.device.type, enabled=False):
        scale = logit_scale.exp() if isinstance(logit_scale, Tensor) else math.exp(logit_scale)
        logits = (_at_least_float32(audio) * scale) @ _at_least_float32(text).T
        if logits.device.type == "cpu":
            lowest, highest = torch.aminmax(logits.detach())
            if float(highest - lowest) <= _WIDEST_SPREAD:
                loss: Tensor = _OneExponential.apply(logits, positives, highest)
                return loss
        # (B, B); of each cell, how likely it is among its row (captions) and its column (clips).
        both = logits.log_softmax(dim=1) + logits.log_softmax(dim=0)
        if positives is None:
            return both.diagonal().mean() * -0.5
        return both.masked_fill(~positives, 0.0).sum() / positives.sum() * -0.5


_WIDEST_SPREAD = 80.0
"""Of logits, where the exponential of the lowest, taken from the highest, is a normal float32."""


class _OneExponential(torch.autograd.Function):
    """The same loss and gradient from one exponential a cell, where two softmaxes take four.

    With E = exp(logits - highest), row i's log-sum-exp is highest + log Σⱼ Eᵢⱼ, and column j's
    likewise; a softmax is E by its sum.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, logits: Tensor, positives: Tensor | None, highest: Tensor
    ) -> Tensor:
        exponentials = (logits - highest).exp_()
        rows, columns = exponentials.sum(dim=1), exponentials.sum(dim=0)
        if positives is None:
            count = logits.new_tensor(len(logits))
            picked = logits.diagonal().sum()
            in_row = in_column = torch.ones_like(rows)
        else:
            count = positives.sum().to(logits.dtype)
            picked = torch.where(positives, logits, 0.0).sum()
            in_row, in_column = (positives.sum(dim=dim, dtype=logits.dtype) for dim in (1, 0))
        ctx.save_for_backward(
            exponentials,
            positives,  # type: ignore[arg-type]  # None is taken too
            in_row / rows,
            in_column / columns,
            count,
        )
        of_rows, of_columns = (in_row * rows.log()).sum(), (in_column * columns.log()).sum()
        return (of_rows + of_columns + 2.0 * (count * highest - picked)) / (2.0 * count)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None]:
        exponentials, positives, by_row, by_column, count = ctx.saved_tensors  # type: ignore[attr-defined]
        factor = gradient / (2.0 * count)
        of_logits = torch.add((by_row * factor)[:, None], (by_column * factor)[None, :])
        of_logits.mul_(exponentials)
        if positives is None:
            of_logits.diagonal().sub_(2.0 * factor)
        else:
            of_logits.sub_(positives * (2.0 * factor))
        return of_logits, None, None


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


def _require_batch(audio: Tensor, text: Tensor, positives: Tensor | None) -> None:
    if audio.ndim != 2 or audio.shape != text.shape or 0 in audio.shape:
        raise RetrievalInputError(
            f"audio and text are no batch of pairs: got shapes {tuple(audio.shape)} and "
            f"{tuple(text.shape)}, expected (pairs, width) both. "
            "Project both sides into one joint space."
        )
    if positives is None:
        return
    if positives.dtype != torch.bool or positives.shape != (len(audio), len(audio)):
        raise RetrievalInputError(
            f"positives do not fit the batch: got {positives.dtype} of shape "
            f"{tuple(positives.shape)}, expected torch.bool of shape ({len(audio)}, {len(audio)}). "
            "Make them with positives_from_clips."
        )
