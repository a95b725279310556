"""Pseudo-images that pass gradients on to the embeddings that they are folded from.

Decides: the pixels are those of `fold`, bit for bit. The gradient is that of the same steps without
the rounding: laid out, clamped, scaled by the channel's minimum and maximum (which take their part
of it), resized. Rounding passes it straight through.

Shape letters: B batch, D embedding, S image side.

Source: the straight-through estimator of Y. Bengio et al., "Estimating or propagating gradients
through stochastic neurons", 2013.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from e2i.images.config import ImagesConfig
from e2i.images.fold import NUM_CHANNELS, encode_tensor, image_side, native_side, source_cells

_LEVELS = 255.0


def fold_with_gradient(embeddings: Tensor, config: ImagesConfig) -> Tensor:
    """Fold embeddings into pseudo-images whose pixels have a gradient.

    Args:
        embeddings: (B, D), taken as float32.
        config: size, modes and clamping.

    Returns:
        float32 (B, 3, S, S), whole numbers from 0 to 255.

    Raises:
        ImageError: the shape is not (B, D) with D of at least 1, or a value is not finite.
    """
    on_cpu = embeddings.detach().cpu() if embeddings.device.type == "mps" else embeddings
    pixels = encode_tensor(on_cpu, config).to(embeddings.device)
    if not embeddings.requires_grad:
        return pixels.float()
    unrounded = _resized(_scaled(embeddings.float(), config), config, embeddings.shape[1])
    straight: Tensor = _StraightThrough.apply(unrounded, pixels.float())
    return straight


class _StraightThrough(torch.autograd.Function):
    """The second argument's values with the first one's gradient."""

    @staticmethod
    def forward(ctx: object, unrounded: Tensor, rounded: Tensor) -> Tensor:  # noqa: ARG004
        return rounded.clone()

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return gradients[0], None


def _scaled(embeddings: Tensor, config: ImagesConfig) -> Tensor:
    """(B, D) to (B, 3, s, s) in [0, 255], not rounded."""
    count, dim = embeddings.shape
    native = native_side(dim, config.image_channel_mode)
    planes = NUM_CHANNELS if config.image_channel_mode == "split" else 1
    cells = native * native
    values = embeddings.clamp(-1.0, 1.0) if config.clip_values else embeddings
    laid = functional.pad(values, (0, planes * cells - dim)).view(count, planes, cells)
    filled = (torch.arange(planes * cells, device=laid.device) < dim).view(planes, cells)
    minima = torch.where(filled, laid, torch.inf).amin(-1, keepdim=True)
    maxima = torch.where(filled, laid, -torch.inf).amax(-1, keepdim=True)
    varies = maxima > minima
    # A constant channel, and one of padding alone, has no slope: 1 keeps the division finite.
    spans = torch.where(varies, maxima - minima, 1.0)
    shares = (laid - torch.where(varies, minima, 0.0)) / spans
    levels = torch.where(filled & varies, shares * _LEVELS, 0.0)
    return levels.view(count, planes, native, native).expand(count, NUM_CHANNELS, native, native)


def _resized(levels: Tensor, config: ImagesConfig, dim: int) -> Tensor:
    """(B, 3, s, s) to (B, 3, S, S)."""
    native, size = levels.shape[-1], image_side(dim, config)
    if size == native:
        return levels
    mode = config.image_mode
    if mode in ("nearest", "nearest-exact"):
        source = torch.from_numpy(source_cells(native, size, mode)).to(levels.device)
        return levels.index_select(3, source).index_select(2, source)
    corners = False if mode in ("bilinear", "bicubic") else None
    return functional.interpolate(levels, size=(size, size), mode=mode, align_corners=corners)
