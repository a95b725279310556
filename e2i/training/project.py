"""Embeddings through the heads, or as they are, batch by batch."""

from __future__ import annotations

import torch
from torch import Tensor

from e2i.heads.build import ProjectionHeads


@torch.no_grad()
def project(
    heads: ProjectionHeads, audio: Tensor, text: Tensor, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Project a split, without dropout and by running statistics.

    Args:
        heads: on the device of the embeddings.
        audio: float32 (C, D_audio), or for a CNN uint8 (C, 3, S, S).
        text: float32 (N, D_text).
        batch_size: rows of one forward pass, at most; bounds memory, changes no value.

    Returns:
        (C, P) and (N, P), L2-normalized.
    """
    return (
        torch.cat([heads.project_audio(rows) for rows in torch.split(audio, batch_size)]),
        torch.cat([heads.project_text(rows) for rows in torch.split(text, batch_size)]),
    )
