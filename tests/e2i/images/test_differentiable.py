"""Pseudo-images with a gradient: the stored pixels, and the slope of what is not rounded."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from e2i.errors import ImageError
from e2i.images.config import ImagesConfig
from e2i.images.differentiable import fold_with_gradient
from e2i.images.fold import encode_tensor

MODES = ("nearest", "nearest-exact", "bilinear", "bicubic", "area")


def embeddings(count: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


@given(
    dim=st.integers(1, 40),
    size=st.sampled_from(["native", 3, 9, 16]),
    mode=st.sampled_from(MODES),
    channels=st.sampled_from(["split", "replicate"]),
    clip=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_pixels_are_those_that_are_stored(
    dim: int, size: object, mode: str, channels: str, clip: bool, seed: int
) -> None:
    config = ImagesConfig(
        image_size=size, image_mode=mode, image_channel_mode=channels, clip_values=clip
    )
    rows = (2 * embeddings(3, dim, seed)).requires_grad_()
    pixels = fold_with_gradient(rows, config)
    assert torch.equal(pixels, encode_tensor(rows, config).float())
    pixels.square().sum().backward()
    assert rows.grad.isfinite().all()


def test_the_gradient_is_that_of_the_unrounded_image() -> None:
    """With thirds of the embedding in a channel: 255 (x - min) / (max - min), by finite steps."""
    config = ImagesConfig(image_size="native")
    rows, weight = embeddings(2, 12), embeddings(2, 12, 1)

    def unrounded(values: Tensor) -> Tensor:
        thirds = values.view(2, 3, 4)
        low, high = thirds.amin(-1, keepdim=True), thirds.amax(-1, keepdim=True)
        return 255 * (thirds - low) / (high - low)

    reference = rows.double().requires_grad_()
    (unrounded(reference).reshape(2, 12) * weight.double()).sum().backward()
    mine = rows.clone().requires_grad_()
    pixels = fold_with_gradient(mine, config)  # (2, 3, 2, 2)
    (pixels.reshape(2, 12) * weight).sum().backward()
    torch.testing.assert_close(mine.grad.double(), reference.grad, rtol=1e-4, atol=1e-3)


def test_a_constant_channel_has_no_slope() -> None:
    rows = torch.ones(1, 12).requires_grad_()
    pixels = fold_with_gradient(rows, ImagesConfig(image_size="native"))
    assert (pixels == 128).all()
    pixels.sum().backward()
    assert (rows.grad == 0).all()


def test_without_a_gradient_there_is_none() -> None:
    pixels = fold_with_gradient(embeddings(2, 12), ImagesConfig(image_size="native"))
    assert not pixels.requires_grad


def test_what_is_not_finite_is_refused() -> None:
    with pytest.raises(ImageError, match="is not finite: got nan"):
        fold_with_gradient(torch.tensor([[float("nan"), 1.0]]), ImagesConfig())
