"""Random weights of PaSST in the published format: a plain state dict with two classifier heads."""

from __future__ import annotations

from pathlib import Path

import torch

from e2i.encoders.passt_architectures import Architecture
from e2i.encoders.passt_model import expected_shapes


def random_weights(architecture: Architecture, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights that spread what they hear, as trained ones do.

    Matrices are views into one run of numbers, so a file of them is small; their shapes and names
    are the published ones.
    """
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(330_000, generator=generator) / 20
    heads = {
        **{"head.0.weight": (768,), "head.0.bias": (768,)},
        **{"head.1.weight": (527, 768), "head.1.bias": (527,)},
        **{"head_dist.weight": (527, 768), "head_dist.bias": (527,)},
    }
    weights = {}
    for place, (name, shape) in enumerate((expected_shapes(architecture) | heads).items()):
        if "norm" in name and name.endswith("weight"):
            weights[name] = 1 + torch.randn(shape, generator=generator) / 5
        else:
            strides = [(1, 101, 7, 3)[axis] if size > 1 else 0 for axis, size in enumerate(shape)]
            weights[name] = numbers.as_strided(shape, strides, 37 * place)
    return weights


def save_weights(path: Path, architecture: Architecture, seed: int = 0) -> Path:
    """Save them as they are published."""
    torch.save(random_weights(architecture, seed), path)
    return path
