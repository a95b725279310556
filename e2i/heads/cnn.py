"""The CNN head: pseudo-images to projections.

Decides: four stages of two 3x3 convolutions, each with batch normalization and GELU, and a 2x2
maximum behind each stage; a fifth stage without one; the mean over what is left of the image; an
MLP. Each stage has twice the channels of the one before. The 2x2 maximum rounds sides up, so that
no cell is lost at an odd side and a side of 1 stays 1: any image will do, and sides that are
multiples of 16 come out as with plain pooling. Without the mean, the MLP is given all that is left,
place by place; maxima that would leave less than 4 x 4 of it are then not taken.

Batch normalization uses the statistics of the batch where a generator is given (training), and its
running statistics, which belong to the weights, elsewhere: there a projection depends on its own
image alone. These are the plain mean over the first ten batches and move by a tenth from then on,
so that a short training is not judged by what they began with. A training batch that leaves one
value a channel has no spread, so it uses the running ones too.

A head takes pixels, or embeddings, which it folds itself: the same pixels, so that keeping images
ready is a matter of speed alone. Without a generator it works through its input in parts that bound
the memory. All randomness comes from generators that the caller passes.

Shape letters: B batch, D embedding, P projection, S image side, K channels.

Source: the vision head of the original e2i; Ioffe and Szegedy, "Batch Normalization", 2015.
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from e2i.heads.config import HeadsConfig
from e2i.heads.mlp import MLPHead
from e2i.heads.standardized import StandardizedHead
from e2i.images.fold import NUM_CHANNELS, Statistics, encode_tensor, image_side

NUM_POOLINGS = 4
_SMALLEST_KEPT = 4
_LEVELS = 255.0
_MOMENTUM = 0.1
_EPSILON = 1e-5
# Of the widest activation, that of the first stage; a few of them live at a time.
_ACTIVATION_BYTES = 64 * 2**20


def fold_embeddings(
    embeddings: Tensor, config: HeadsConfig, statistics: Statistics | None = None
) -> Tensor:
    """Pixels of embeddings: (B, D) to uint8 (B, 3, S, S), on the device that they are on.

    Args:
        embeddings: (B, D).
        config: how images are folded, and whether embeddings are standardized before.
        statistics: by which, on the device of the embeddings.

    Raises:
        ImageError: a value is not finite, or there are no statistics to standardize by.
    """
    if embeddings.device.type == "mps":  # which has no float64, which folding computes in
        on_cpu = None if statistics is None else (statistics[0].cpu(), statistics[1].cpu())
        return encode_tensor(embeddings.cpu(), config.images(), on_cpu).to(embeddings.device)
    return encode_tensor(embeddings, config.images(), statistics)


class UnsetConvolution(nn.Module):
    """A 3x3 convolution with padding and without bias, made without values."""

    def __init__(self, in_channels: int, out_channels: int, device: torch.device) -> None:
        """Make room for weight (out, in, 3, 3)."""
        super().__init__()
        self.fan_in = 9 * in_channels
        self.weight = nn.Parameter(torch.empty((out_channels, in_channels, 3, 3), device=device))

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Weights uniform in ±1/√(9 in), as `nn.Conv2d` draws them."""
        bound = 1.0 / math.sqrt(self.fan_in)
        self.weight.uniform_(-bound, bound, generator=generator)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, K_in, S, S) to (B, K_out, S, S)."""
        return functional.conv2d(inputs, self.weight, padding=1)


class UnsetBatchNorm(nn.Module):
    """Batch normalization over (B, S, S) per channel, made without values."""

    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int, device: torch.device) -> None:
        """Make room for weight, bias, running mean and running variance, (K,) each."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty((channels,), device=device))
        self.bias = nn.Parameter(torch.empty((channels,), device=device))
        self.register_buffer("mean", torch.empty((channels,), device=device))
        self.register_buffer("variance", torch.empty((channels,), device=device))
        self.batches_seen = 0

    @torch.no_grad()
    def reset(self) -> None:
        """Weight and variance 1, bias and mean 0, no batch seen."""
        self.batches_seen = 0
        for one in (self.weight, self.variance):
            one.fill_(1.0)
        for zero in (self.bias, self.mean):
            zero.zero_()

    def forward(self, inputs: Tensor, *, training: bool) -> Tensor:
        """(B, K, S, S) likewise; in training the running statistics move too."""
        by_batch = training and inputs.numel() > inputs.shape[1]
        self.batches_seen += by_batch
        return functional.batch_norm(
            inputs,
            self.mean,
            self.variance,
            self.weight,
            self.bias,
            training=by_batch,
            momentum=max(_MOMENTUM, 1.0 / max(self.batches_seen, 1)),
            eps=_EPSILON,
        )


class Stage(nn.Module):
    """Twice: convolution, batch normalization, GELU."""

    def __init__(self, in_channels: int, out_channels: int, device: torch.device) -> None:
        """Make a stage without values."""
        super().__init__()
        self.first = UnsetConvolution(in_channels, out_channels, device)
        self.first_norm = UnsetBatchNorm(out_channels, device)
        self.second = UnsetConvolution(out_channels, out_channels, device)
        self.second_norm = UnsetBatchNorm(out_channels, device)

    def reset(self, generator: torch.Generator) -> None:
        """Draw fresh weights from `generator`, on its device."""
        self.first.reset(generator)
        self.first_norm.reset()
        self.second.reset(generator)
        self.second_norm.reset()

    def forward(self, inputs: Tensor, *, training: bool) -> Tensor:
        """(B, K_in, S, S) to (B, K_out, S, S)."""
        hidden = functional.gelu(self.first_norm(self.first(inputs), training=training))
        return functional.gelu(self.second_norm(self.second(hidden), training=training))


class ImageHead(StandardizedHead, ABC):
    """What vision heads share: pseudo-image (B, 3, S, S) to features, MLP, projection (B, P).

    Attributes:
        side: S, in pixels.
    """

    mlp: MLPHead

    def __init__(self, config: HeadsConfig, in_dim: int, device: torch.device) -> None:
        """Heads for embeddings of `in_dim` values."""
        super().__init__(in_dim, device, standardize=config.standardize_input)
        self._config = config
        self.side = image_side(in_dim, config.images())

    @abstractmethod
    def features(self, pixels: Tensor, *, training: bool) -> Tensor:
        """What a head sees in pixels, float32 (B, 3, S, S): (B, F)."""

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> ImageHead:
        """Draw fresh weights from `generator`, on its device; returns the head itself."""
        self.mlp.reset(generator)
        self.reset_statistics()
        return self

    def forward(self, inputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Pixels or embeddings to projections.

        Args:
            inputs: uint8 (B, 3, S, S), or embeddings (B, D).
            generator: of the dropout, on the device; given in training alone, where batch
                normalization goes by the batch.

        Returns:
            (B, P).

        Raises:
            ImageError: an embedding is not finite.
        """
        if generator is not None:
            return self._project(self._pixels(inputs), generator)
        widest = 4 * self._config.vision_base_channels * self.side**2
        rows = max(1, _ACTIVATION_BYTES // widest)
        with _plain_float32(inputs.device):
            parts = [self._project(self._pixels(part), None) for part in torch.split(inputs, rows)]
        return torch.cat(parts)

    def _pixels(self, inputs: Tensor) -> Tensor:
        if inputs.ndim != 2:
            return inputs
        return fold_embeddings(inputs, self._config, self.statistics)

    def _project(self, pixels: Tensor, generator: torch.Generator | None) -> Tensor:
        hidden = pixels.to(torch.float32, memory_format=torch.channels_last)
        hidden = (hidden - _LEVELS / 2) / (_LEVELS / 2)  # to [-1, 1]
        features = self.features(hidden, training=generator is not None)
        projection: Tensor = self.mlp(features, generator)
        return projection


def mlp_behind(config: HeadsConfig, num_features: int, device: torch.device) -> MLPHead:
    """The MLP from a vision head's features to its projection."""
    behind = {"hidden_dim": config.vision_hidden_dim, "standardize_input": False}
    return MLPHead(config.model_copy(update=behind), num_features, device)


class CNNHead(ImageHead):
    """Pseudo-image (B, 3, S, S) to projection (B, P), not yet normalized."""

    def __init__(self, config: HeadsConfig, in_dim: int, device: torch.device) -> None:
        """Make a head without values for embeddings of `in_dim` values."""
        super().__init__(config, in_dim, device)
        widths = [config.vision_base_channels * 2**stage for stage in range(NUM_POOLINGS + 1)]
        self.stages = nn.ModuleList(
            Stage(before, after, device)
            for before, after in zip([NUM_CHANNELS, *widths], widths, strict=False)
        )
        self._keeps_places = config.vision_pooling == "none"
        self._poolings, left = 0, self.side
        while self._poolings < NUM_POOLINGS and not (
            self._keeps_places and -(-left // 2) < _SMALLEST_KEPT
        ):
            self._poolings, left = self._poolings + 1, -(-left // 2)
        cells = left**2 if self._keeps_places else 1
        self.mlp = mlp_behind(config, widths[-1] * cells, device)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> CNNHead:
        """Draw fresh weights from `generator`, on its device; returns the head itself."""
        for stage in self.stages:
            stage.reset(generator)  # type: ignore[operator]
        super().reset(generator)
        return self

    def features(self, pixels: Tensor, *, training: bool) -> Tensor:
        """(B, 3, S, S) to (B, F): a mean a channel, or each of its cells."""
        hidden = pixels
        for index, stage in enumerate(self.stages):
            hidden = stage(hidden, training=training)
            if index < self._poolings:
                hidden = functional.max_pool2d(hidden, 2, ceil_mode=True)
        return hidden.flatten(1) if self._keeps_places else hidden.mean(dim=(2, 3))


def _plain_float32(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Convolutions on CUDA without TF32, which they use unless told not to."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
