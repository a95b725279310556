"""From the embeddings of a clip's windows to the clip's: their mean, or what attention makes of it.

Decides: each window has a share in its clip's mean, as the encoder gave it; attention multiplies
the shares by the exponential of a score and makes them sum to 1 again. A score is the product of a
learned query with the window's direction, and the query begins at 0: training begins at the mean,
and a clip of one window is that window, whatever has been learned. Where the encoder normalizes its
embeddings, what comes out here has length 1 too.

Conventions: windows come padded, (B, W, D), a share of 0 where there is none. What stands in a
padded place does not count, but has to be finite.

Shape letters: B batch, W windows, D embedding.

Source: Ilse, Tomczak and Welling, "Attention-based deep multiple instance learning", ICML 2018,
with a linear score.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Windows(NamedTuple):
    """The windows of B clips, padded.

    Attributes:
        rows: float32 (B, W, D).
        shares: float32 (B, W), above 0, and 0 where there is no window; each clip has one at least.
        normalized: whether the embedding of a clip has length 1.
    """

    rows: Tensor
    shares: Tensor
    normalized: bool


class AttentionPooling(nn.Module):
    """Windows to the embedding of their clip, by a learned query."""

    def __init__(self, dim: int, device: torch.device) -> None:
        """Make room for the query (D,): `reset` or a state dict gives its values."""
        super().__init__()
        self.query = nn.Parameter(torch.empty((dim,), device=device))

    @torch.no_grad()
    def reset(self) -> None:
        """Begin at the mean."""
        self.query.zero_()

    def forward(self, windows: Windows) -> Tensor:
        """(B, W, D) to (B, D), in float32 under autocast too."""
        with torch.autocast(windows.rows.device.type, enabled=False):
            directions = functional.normalize(windows.rows, dim=-1)
            # Of a direction's D values each is about 1/√D: scaled so, as large as in a unit scale.
            scores = (directions * self.query).sum(-1) * math.sqrt(windows.rows.shape[-1])
            weights = (scores + windows.shares.log()).softmax(dim=1)
            return _weighted(windows, weights)


def mean_pooled(windows: Windows) -> Tensor:
    """The mean by shares: (B, W, D) to (B, D)."""
    return _weighted(windows, windows.shares / windows.shares.sum(dim=1, keepdim=True))


def _weighted(windows: Windows, weights: Tensor) -> Tensor:
    pooled = (weights[..., None] * windows.rows).sum(dim=1)
    return functional.normalize(pooled, dim=-1) if windows.normalized else pooled


def windows_dropped(windows: Windows, share: float, generator: torch.Generator) -> Windows:
    """Some windows left out at random; each clip keeps one at least.

    Args:
        windows: of B clips.
        share: of the windows, about, in [0, 1).
        generator: on the device of the windows.
    """
    if share <= 0:
        return windows
    drawn = torch.empty_like(windows.shares).uniform_(generator=generator)
    drawn = drawn.masked_fill(windows.shares == 0, -1.0)
    kept = (drawn >= share) | (drawn == drawn.amax(dim=1, keepdim=True))
    return windows._replace(shares=windows.shares * kept)
