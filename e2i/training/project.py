"""Embeddings through the heads, batch by batch, exact enough that equal inputs stay equal.

A matrix product may add up in another sequence in a short last batch than in the others, so that
equal clips or captions would come out a last bit apart, and a tie between them would turn into an
order. Each distinct row is therefore projected once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from e2i.heads.build import ProjectionHeads
from e2i.retrieval.similarity import distinct_rows


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
        (C, P) and (N, P), L2-normalized; equal rows where the inputs are equal.
    """
    return (
        project_rows(heads.project_audio, audio, batch_size),
        project_rows(heads.project_text, text, batch_size),
    )


@torch.no_grad()
def project_rows(head: Callable[[Tensor], Tensor], inputs: Tensor, batch_size: int) -> Tensor:
    """One side through its head.

    Args:
        head: `project_audio` or `project_text` of heads on the device of the inputs.
        inputs: (B, ...), as `project` takes them.
        batch_size: rows of one forward pass, at most.

    Returns:
        (B, P), L2-normalized.
    """
    rows, copies = distinct_rows(inputs)
    projections = torch.cat([head(batch) for batch in torch.split(rows, batch_size)])
    return projections if copies is None else projections[copies]
