"""Embedding to pseudo-image and back.

Conventions: B embeddings float32 `(B, D)`, pixels uint8 `(B, 3, S, S)`. The native side is the
smallest that holds the embedding: `split` lays it row by row into three planes of side ceil(sqrt(D
/ 3)), red first; `replicate` into one plane of side ceil(sqrt(D)), shown three times. Cells behind
the embedding's end are padding.

Embeddings are standardized first, where the configuration asks for it (`standardization`).

A channel's value is `round(255 * (x - minimum) / (maximum - minimum))` over its cells that are not
padding, computed in float64 and rounded half to even; a constant channel is 0.5 (128), padding and
a channel of padding alone are 0. Each step is one correctly rounded IEEE 754 operation, so the same
embedding gives the same pixels on every machine and device, whatever it is batched with. Resizing
comes after the rounding.

Resizing copies cells for `nearest` and `nearest-exact`, by torch's own rule (float32 scale), so
that the pixels are those of `torch.nn.functional.interpolate`. The other modes interpolate the
rounded values in float64, with corners not aligned, and round again; sums are snapped to 2^-20
before that, so that their order, which differs between machines, does not show at a tie.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from e2i.errors import ImageError
from e2i.images.config import ImageChannelMode, ImageMode, ImagesConfig
from e2i.images.standardization import Standardization

NUM_CHANNELS = 3
_LEVELS = 255
_SNAP = 2.0**20
_WORKING_BYTES = 32 * 2**20


@dataclass(frozen=True, slots=True)
class EncodedImages:
    """Pseudo-images of one batch, with all that decoding needs.

    Attributes:
        pixels: uint8 (B, 3, S, S).
        minima: float32 (B, 3), of each channel's cells that are not padding; 0 where it has none.
        maxima: float32 (B, 3), likewise.
        dim: D, the length of the embeddings.
        image_mode: how they were resized.
        image_channel_mode: how they were laid into channels.
        clip_values: whether the embeddings were clamped to [-1, 1].
        standardized_by: digest of the statistics that they were standardized by; empty: they were
            not.
    """

    pixels: NDArray[np.uint8]
    minima: NDArray[np.float32]
    maxima: NDArray[np.float32]
    dim: int
    image_mode: ImageMode
    image_channel_mode: ImageChannelMode
    clip_values: bool
    standardized_by: str = ""


def native_side(dim: int, image_channel_mode: ImageChannelMode) -> int:
    """Side of the smallest image that holds an embedding, in pixels.

    Args:
        dim: D, at least 1.
        image_channel_mode: `split` shares the cells among three channels.

    Raises:
        ImageError: D is smaller than 1.
    """
    if dim < 1:
        raise ImageError(
            f"an embedding without values has no image: got dimension {dim}, expected at least 1. "
            "Check the encoder."
        )
    cells = -(-dim // NUM_CHANNELS) if image_channel_mode == "split" else dim
    return math.isqrt(cells - 1) + 1


def image_side(dim: int, config: ImagesConfig) -> int:
    """S, the side of the images that `config` asks for, in pixels."""
    native = native_side(dim, config.image_channel_mode)
    return native if config.image_size == "native" else config.image_size


def encode_images(
    embeddings: NDArray[np.floating],
    config: ImagesConfig,
    ids: Sequence[str] | None = None,
    standardization: Standardization | None = None,
) -> EncodedImages:
    """Fold embeddings into pseudo-images.

    Args:
        embeddings: (B, D), taken as float32.
        config: size, modes, clamping and whether to standardize.
        ids: of the B embeddings, for messages; rows are counted from 0 without them.
        standardization: by what statistics, where `config` says so.

    Raises:
        ImageError: the shape is not (B, D) with D of at least 1, a value is not finite, or there
            are no statistics to standardize by.
    """
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(embeddings, dtype=np.float32)
    if not values.flags.writeable:  # torch warns about memory that it may not write
        values = values.copy()
    statistics = _statistics(config, standardization)
    pixels, minima, maxima = _encode(torch.from_numpy(values), config, ids, statistics)
    return EncodedImages(
        pixels=pixels.numpy(),
        minima=minima.numpy(),
        maxima=maxima.numpy(),
        dim=values.shape[1],
        image_mode=config.image_mode,
        image_channel_mode=config.image_channel_mode,
        clip_values=config.clip_values,
        standardized_by=digest_for(config, standardization),
    )


Statistics = tuple[Tensor, Tensor]
"""Mean and deviation (D,), on the device of the embeddings that they standardize."""


def encode_tensor(
    embeddings: Tensor, config: ImagesConfig, statistics: Statistics | None = None
) -> Tensor:
    """The pixels of `encode_images`, on the device that the embeddings are on.

    Args:
        embeddings: (B, D), taken as float32.
        config: size, modes, clamping and whether to standardize.
        statistics: to standardize by, where `config` says so.

    Returns:
        uint8 (B, 3, S, S).

    Raises:
        ImageError: as `encode_images`.
    """
    if config.standardize and statistics is None:
        raise _without_statistics()
    used = statistics if config.standardize else None
    return _encode(embeddings.detach().float(), config, None, used)[0]


def digest_for(config: ImagesConfig, standardization: Standardization | None) -> str:
    """Digest of the statistics that images of this configuration are made with; empty for none.

    Raises:
        ImageError: it asks to standardize, and there are none.
    """
    if not config.standardize:
        return ""
    if standardization is None:
        raise _without_statistics()
    return standardization.digest


def _statistics(config: ImagesConfig, standardization: Standardization | None) -> Statistics | None:
    """What to standardize by, as tensors on the CPU."""
    if not config.standardize:
        return None
    if standardization is None:
        raise _without_statistics()
    return (
        torch.from_numpy(standardization.mean.copy()),
        torch.from_numpy(standardization.deviation.copy()),
    )


def _without_statistics() -> ImageError:
    return ImageError(
        "there are no statistics to standardize by: got none, expected mean and deviation of each "
        "dimension over the training clips. Pass a Standardization."
    )


def decode_images(
    images: EncodedImages, standardization: Standardization | None = None
) -> NDArray[np.float32]:
    """The embeddings, to half an 8-bit step of their channel; constant channels exactly.

    Args:
        images: pseudo-images (B, 3, S, S).
        standardization: the statistics that they were standardized by, if they were: a step then
            is one of the channel times the deviation of the dimension.

    Returns:
        float32 (B, D).

    Raises:
        ImageError: the image does not hold the embedding: it was clamped, resized by another mode
            than `nearest`, or to less than its native side; its parts do not fit together; or
            these are not the statistics that it was standardized by.
    """
    native = native_side(images.dim, images.image_channel_mode)
    size = _check_decodable(images, native)
    _check_statistics(images, standardization)
    # The first pixel that shows each cell: the source indices are sorted and leave no cell out.
    first = np.searchsorted(source_cells(native, size, "nearest"), np.arange(native))
    planes = 1 if images.image_channel_mode == "replicate" else NUM_CHANNELS
    cells = images.pixels[:, :planes][:, :, first[:, None], first[None, :]]
    levels = cells.reshape(len(cells), planes, native * native).astype(np.float64)
    minima = images.minima[:, :planes, None].astype(np.float64)
    maxima = images.maxima[:, :planes, None].astype(np.float64)
    values = minima + levels / _LEVELS * (maxima - minima)
    flat = values.reshape(len(cells), -1)[:, : images.dim]
    if images.standardized_by and standardization is not None:
        return standardization.undo(flat)
    plain: NDArray[np.float32] = flat.astype(np.float32)
    return plain


def _check_decodable(images: EncodedImages, native: int) -> int:
    """The side of the stored images; an error where they do not hold their embeddings."""
    count, channels, size, width = images.pixels.shape
    if channels != NUM_CHANNELS or width != size:
        raise ImageError(
            f"a pseudo-image has three channels and is square: got {images.pixels.shape[1:]}, "
            "expected (3, S, S). Render it again."
        )
    if images.minima.shape != (count, channels) or images.maxima.shape != (count, channels):
        raise ImageError(
            "minima and maxima do not belong to these images: got shapes "
            f"{images.minima.shape} and {images.maxima.shape}, expected {(count, channels)}. "
            "Render the images again."
        )
    if images.clip_values:
        raise ImageError(
            "a clamped pseudo-image cannot be decoded: got clip_values=True, expected False. "
            "Render it without --clip-values."
        )
    if images.image_mode != "nearest":
        raise ImageError(
            "a pseudo-image that was interpolated cannot be decoded: got image_mode "
            f"{images.image_mode!r}, expected 'nearest'. Render it with --image-mode nearest."
        )
    if size < native:
        raise ImageError(
            f"the pseudo-image is too small to decode: got {size} px, expected at least {native} "
            f"px for {images.dim} dimensions. Render it with --image-size native."
        )
    return int(size)


def _check_statistics(images: EncodedImages, standardization: Standardization | None) -> None:
    """An error where a standardized image is to be decoded by other statistics."""
    got = "none" if standardization is None else repr(standardization.digest)
    if images.standardized_by and got != repr(images.standardized_by):
        raise ImageError(
            f"a standardized pseudo-image is decoded by its own statistics: got {got}, expected "
            f"{images.standardized_by!r}. Read them with read_standardization, from the folder of "
            "the image."
        )


def _encode(
    embeddings: Tensor,
    config: ImagesConfig,
    ids: Sequence[str] | None,
    statistics: Statistics | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels (B, 3, S, S), minima and maxima (B, 3), block by block to bound the memory."""
    if embeddings.ndim != 2:
        raise ImageError(
            f"embeddings come as one row each: got shape {tuple(embeddings.shape)}, expected "
            "(B, D). Reshape them."
        )
    count, dim = embeddings.shape
    size = image_side(dim, config)
    _check_finite(embeddings, ids)
    if statistics is not None:
        embeddings = _standardized(embeddings, statistics)
        _check_finite(embeddings, ids)
    pixels = embeddings.new_empty((count, NUM_CHANNELS, size, size), dtype=torch.uint8)
    minima = embeddings.new_empty((count, NUM_CHANNELS))
    maxima = embeddings.new_empty((count, NUM_CHANNELS))
    native = native_side(dim, config.image_channel_mode)
    step = max(1, _WORKING_BYTES // (8 * NUM_CHANNELS * max(size, native) ** 2))
    for start in range(0, count, step):
        rows = slice(start, start + step)
        native_pixels, minima[rows], maxima[rows] = _fold(embeddings[rows], native, config)
        _resize(native_pixels, config.image_mode, pixels[rows])
    return pixels, minima, maxima


def _standardized(embeddings: Tensor, statistics: Statistics) -> Tensor:
    """(B, D) likewise: in float64, rounded once, so that it is the same on every machine."""
    mean, deviation = statistics
    if mean.shape != embeddings.shape[1:]:
        raise ImageError(
            "the statistics are those of other embeddings: got "
            f"{len(mean)} dimensions, expected {embeddings.shape[1]}. Take both from one encoder."
        )
    return ((embeddings.double() - mean.double()) / deviation.double()).float()


def _check_finite(embeddings: Tensor, ids: Sequence[str] | None) -> None:
    finite = torch.isfinite(embeddings)
    if bool(finite.all()):
        return
    row, position = (int(index) for index in (~finite).nonzero()[0])
    whose = f"of {ids[row]!r}" if ids is not None else f"in row {row}"
    raise ImageError(
        f"the embedding {whose} is not finite: got {embeddings[row, position].item()} at position "
        f"{position}, expected finite numbers. Embed it again."
    )


def _fold(embeddings: Tensor, native: int, config: ImagesConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Lay out, scale and round: uint8 (B, 3, native, native), minima and maxima (B, 3)."""
    count, dim = embeddings.shape
    planes = NUM_CHANNELS if config.image_channel_mode == "split" else 1
    cells = native * native
    # Adding zero turns -0.0 into 0.0: which of the two a minimum is would depend on the machine.
    values = embeddings.double() + 0.0
    if config.clip_values:
        values = values.clamp(-1.0, 1.0)
    laid = functional.pad(values, (0, planes * cells - dim)).view(count, planes, cells)
    filled = (torch.arange(planes * cells, device=laid.device) < dim).view(planes, cells)
    minima = torch.where(filled, laid, torch.inf).amin(-1, keepdim=True)
    maxima = torch.where(filled, laid, -torch.inf).amax(-1, keepdim=True)
    used = filled.any(-1, keepdim=True)
    minima = torch.where(used, minima, 0.0)
    maxima = torch.where(used, maxima, 0.0)
    shares = torch.where(maxima > minima, (laid - minima) / (maxima - minima), 0.5)
    levels = torch.where(filled, torch.round(shares * _LEVELS), 0.0).to(torch.uint8)
    shape = (count, NUM_CHANNELS, native, native)
    pixels = levels.view(count, planes, native, native).expand(shape)
    extrema = (count, NUM_CHANNELS)
    return pixels, minima[..., 0].float().expand(extrema), maxima[..., 0].float().expand(extrema)


def _resize(pixels: Tensor, mode: ImageMode, resized: Tensor) -> None:
    """(B, 3, s, s) into `resized`, (B, 3, S, S), both uint8."""
    native, size = pixels.shape[-1], resized.shape[-1]
    if size == native:
        resized.copy_(pixels)
        return
    if mode in ("nearest", "nearest-exact"):
        source = torch.from_numpy(source_cells(native, size, mode)).to(pixels.device)
        torch.index_select(pixels.index_select(3, source), 2, source, out=resized)
        return
    corners = False if mode in ("bilinear", "bicubic") else None
    smooth = functional.interpolate(
        pixels.double(), size=(size, size), mode=mode, align_corners=corners
    )
    snapped = torch.round(smooth * _SNAP) / _SNAP
    resized.copy_(torch.round(snapped).clamp(0, _LEVELS))


def source_cells(native: int, size: int, mode: ImageMode) -> NDArray[np.int64]:
    """For each of `size` pixels, the one of `native` cells that it shows: int64 (size,), sorted.

    Source: torch, aten/src/ATen/native/UpSample.h: `nearest` is floor(i * scale) in float32;
    `nearest-exact` floor((i + 0.5) * scale - 0.5 + 0.5), its product and first sum fused, as its
    vectorized CPU kernels do.
    """
    scale = np.float32(native) / np.float32(size)
    position = np.arange(size, dtype=np.float32)
    if mode == "nearest":
        source = np.floor(position * scale)
    else:
        fused = (position + 0.5).astype(np.float64) * np.float64(scale) - 0.5
        source = np.floor(fused.astype(np.float32) + np.float32(0.5))
    indices: NDArray[np.int64] = np.minimum(source.astype(np.int64), native - 1)
    return indices
