"""Heads on embeddings. MLP: Linear(D, hidden), activation, dropout, Linear(hidden, P); or linear.

Decides: all randomness comes from a generator that the caller passes. Neither making a head nor
running it touches the global random state, so runs in threads of one process cannot disturb one
another.

Shape letters: B batch, D embedding, P projection.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from e2i.heads.config import HeadsConfig
from e2i.heads.standardized import StandardizedHead

_DRAWS = 2**16


def dropped_out(hidden: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Inverted dropout whose mask comes from `generator` (on the device of `hidden`).

    On the CPU, where numbers are drawn one after the other, one draw of 64 bits decides over four
    units, so that the share is one of 65,536.
    """
    if hidden.device.type != "cpu":
        keep = torch.empty_like(hidden).bernoulli_(1.0 - share, generator=generator)
        return hidden * keep.div_(1.0 - share)
    count = hidden.numel()
    draws = torch.empty(-(-count // 4), dtype=torch.int64)
    draws.random_(-(2**63), None, generator=generator)
    dropped = min(round(share * _DRAWS), _DRAWS - 1)
    keep = torch.empty_like(hidden, memory_format=torch.contiguous_format)
    units = draws.view(torch.int16)[:count].view(hidden.shape)
    torch.ge(units, dropped - _DRAWS // 2, out=keep)
    return hidden * keep.div_(1.0 - dropped / _DRAWS)


class UnsetLinear(nn.Module):
    """A linear layer that is made without values: drawing them is `reset`'s, loading another's.

    `nn.Linear` would draw from the global random state while it is made.
    """

    def __init__(self, in_dim: int, out_dim: int, device: torch.device) -> None:
        """Make room for weight (out, in) and bias (out,)."""
        super().__init__()
        self.in_dim = in_dim
        self.weight = nn.Parameter(torch.empty((out_dim, in_dim), device=device))
        self.bias = nn.Parameter(torch.empty((out_dim,), device=device))

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Weight and bias uniform in ±1/√in_dim, as `nn.Linear` draws them."""
        bound = 1.0 / math.sqrt(self.in_dim)
        self.weight.uniform_(-bound, bound, generator=generator)
        self.bias.uniform_(-bound, bound, generator=generator)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, in) to (B, out)."""
        return functional.linear(inputs, self.weight, self.bias)


class EmbeddingHead(StandardizedHead):
    """What heads on embeddings share."""

    def __init__(self, config: HeadsConfig, in_dim: int, device: torch.device) -> None:
        """Make room for the statistics, where they are asked for."""
        super().__init__(in_dim, device, standardize=config.standardize_input)

    def standardized(self, embeddings: Tensor) -> Tensor:
        """(B, D) likewise."""
        return (embeddings - self.mean) / self.deviation if self.standardizes else embeddings


class LinearHead(EmbeddingHead):
    """Embedding (B, D) to projection (B, P) by one linear layer, not yet normalized."""

    def __init__(self, config: HeadsConfig, in_dim: int, device: torch.device) -> None:
        """Make a head without values: `reset` or a state dict gives them."""
        super().__init__(config, in_dim, device)
        self.out = UnsetLinear(in_dim, config.out_dim, device)

    def reset(self, generator: torch.Generator) -> LinearHead:
        """Draw fresh weights from `generator`, on its device; returns the head itself."""
        self.out.reset(generator)
        self.reset_statistics()
        return self

    def forward(self, embeddings: Tensor, generator: torch.Generator | None = None) -> Tensor:  # noqa: ARG002 - of heads
        """(B, D) to (B, P); it has nothing to drop."""
        projection: Tensor = self.out(self.standardized(embeddings))
        return projection


class MLPHead(EmbeddingHead):
    """Embedding (B, D) to projection (B, P), not yet normalized.

    Source: the heads of the original e2i and of CLIP-style projection on frozen encoders.
    """

    def __init__(self, config: HeadsConfig, in_dim: int, device: torch.device) -> None:
        """Make a head without values: `reset` or a state dict gives them."""
        super().__init__(config, in_dim, device)
        self.hidden = UnsetLinear(in_dim, config.hidden_dim, device)
        self.out = UnsetLinear(config.hidden_dim, config.out_dim, device)
        self._gelu = config.activation == "gelu"
        self._dropout = config.dropout

    def reset(self, generator: torch.Generator) -> MLPHead:
        """Draw fresh weights from `generator`, on its device; returns the head itself."""
        self.hidden.reset(generator)
        self.out.reset(generator)
        self.reset_statistics()
        return self

    def forward(self, embeddings: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(B, D) to (B, P); dropout only where a generator is given."""
        hidden = self.hidden(self.standardized(embeddings))
        hidden = functional.gelu(hidden) if self._gelu else functional.relu(hidden)
        if generator is not None and self._dropout > 0:
            hidden = dropped_out(hidden, self._dropout, generator)
        projection: Tensor = self.out(hidden)
        return projection
