"""Random weights of PaSST in the published format: a plain state dict with two classifier heads."""

from __future__ import annotations

from pathlib import Path

import torch

from e2i.encoders.passt_architectures import Architecture
from e2i.encoders.passt_model import expected_shapes


def random_weights(architecture: Architecture, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights that spread what they hear, as trained ones do."""
    generator = torch.Generator().manual_seed(seed)
    heads = {
        **{"head.0.weight": (768,), "head.0.bias": (768,)},
        **{"head.1.weight": (527, 768), "head.1.bias": (527,)},
        **{"head_dist.weight": (527, 768), "head_dist.bias": (527,)},
    }
    weights = {}
    for name, shape in (expected_shapes(architecture) | heads).items():
        values = torch.randn(shape, generator=generator) / 20
        is_scale = "norm" in name and name.endswith("weight")
        weights[name] = 1 + 4 * values if is_scale else values
    return weights


def save_weights(path: Path, architecture: Architecture, seed: int = 0) -> Path:
    """Save them as they are published."""
    torch.save(random_weights(architecture, seed), path)
    return path
