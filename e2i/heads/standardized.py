"""What heads share: standardizing their input by the statistics of training.

Decides: a dimension of an embedding is given mean 0 and deviation 1 before anything else, whatever
the head: an MLP takes the standardized embedding, a vision head the pseudo-image folded from it.
The statistics are buffers, so that a checkpoint keeps them.

Shape letters: D embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from e2i.images.standardization import Standardization


class StandardizedHead(nn.Module):
    """A head with room for the mean and deviation of each dimension, where they are asked for."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, in_dim: int, device: torch.device, *, standardize: bool) -> None:
        """Make room; values come from `reset`, `standardize_by` or a state dict."""
        super().__init__()
        self.standardizes = standardize
        if standardize:
            self.register_buffer("mean", torch.empty((in_dim,), device=device))
            self.register_buffer("deviation", torch.empty((in_dim,), device=device))

    @torch.no_grad()
    def reset_statistics(self) -> None:
        """Mean 0 and deviation 1."""
        if self.standardizes:
            self.mean.zero_()
            self.deviation.fill_(1.0)

    @torch.no_grad()
    def standardize_by(self, standardization: Standardization) -> None:
        """Take the statistics of the training embeddings; does nothing where it is off."""
        if self.standardizes:
            self.mean.copy_(torch.from_numpy(standardization.mean))
            self.deviation.copy_(torch.from_numpy(standardization.deviation))

    @property
    def statistics(self) -> tuple[Tensor, Tensor] | None:
        """Mean and deviation (D,), where the head standardizes."""
        return (self.mean, self.deviation) if self.standardizes else None

    @property
    def standardization(self) -> Standardization | None:
        """The same off the device, as images are made with."""
        if not self.standardizes:
            return None
        return Standardization(self.mean.cpu().numpy(), self.deviation.cpu().numpy())
