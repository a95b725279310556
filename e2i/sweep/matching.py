"""Widths that bring each arm's audio head to a budget of trainable parameters.

Decides: what is counted is the audio head, as it is built. An MLP's hidden width is solved for. A
CNN has two widths: its convolutions get the most channels that stay within their share of the
budget, and the hidden layer behind them takes the rest; where that rest cannot be hit within the
tolerance, fewer channels are tried. A linear layer has nothing to widen and is left as it is. The
text head's width is the MLP arm's, whatever the arm.

Parameters are counted on torch's "meta" device, without memory, and operations in a forward pass
of unset weights: the counts are of the modules themselves, not of a formula beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from e2i.errors import ConfigError
from e2i.heads.build import Head, unset_heads
from e2i.heads.config import HeadsConfig
from e2i.images.fold import NUM_CHANNELS, image_side
from e2i.sweep.arms import ARM_WORDS, arm_heads, is_vision
from e2i.sweep.config import ArmName, SweepConfig

_CPU = torch.device("cpu")
_META = torch.device("meta")
_WIDEST = 65_536
_MOST_CHANNELS = 1_024


@dataclass(frozen=True, slots=True)
class MatchedHeads:
    """An arm at a budget.

    Attributes:
        heads: with the widths found.
        parameters: trainable ones of the audio head.
        text_parameters: of the text head.
        flops: of projecting one clip, as `count_flops` counts.
        text_flops: of projecting one caption.
        is_matched: whether the parameters are within the tolerance of the budget; a linear head
            need not be.
    """

    heads: HeadsConfig
    parameters: int
    text_parameters: int
    flops: int
    text_flops: int
    is_matched: bool


def match_heads(
    arm: ArmName, budget: int, audio_dim: int, text_dim: int, config: SweepConfig
) -> MatchedHeads:
    """The heads of an arm at a budget.

    Args:
        arm: which.
        budget: trainable parameters of the audio head.
        audio_dim: D of the audio embeddings.
        text_dim: D of the text embeddings.
        config: output length, tolerance, the convolutions' share.

    Raises:
        ConfigError: no width brings the arm within the tolerance of the budget.
    """

    def parameters(heads: HeadsConfig) -> int:
        return _parameters(unset_heads(heads, audio_dim, text_dim, _META).audio)

    plain = arm_heads("mlp", config)
    width = _nearest_width(
        budget, lambda hidden: parameters(plain.model_copy(update={"hidden_dim": hidden}))
    )
    heads = arm_heads(arm, config).model_copy(update={"hidden_dim": width})
    if is_vision(arm):
        heads = _matched_cnn(heads, budget, config, parameters)
    count = parameters(heads)
    is_matched = abs(count - budget) <= config.tolerance * budget
    if not is_matched and arm != "linear":
        message = (
            f"the arm '{arm}' ({ARM_WORDS[arm]}) cannot be brought to a budget: got {count:,} "
            f"parameters at the nearest width, expected {budget:,} within "
            f"{100 * config.tolerance:g} %. Choose a larger budget or tolerance, or leave the arm "
            "out."
        )
        raise ConfigError(message)
    made = unset_heads(heads, audio_dim, text_dim, _CPU)
    return MatchedHeads(
        heads=heads,
        parameters=count,
        text_parameters=_parameters(made.text),
        flops=count_flops(made.audio, _one_input(heads, audio_dim)),
        text_flops=count_flops(made.text, torch.zeros((1, text_dim))),
        is_matched=is_matched,
    )


def count_flops(head: Head, one: torch.Tensor) -> int:
    """Floating-point operations of one forward pass: products and sums of layers, two a cell.

    Convolutions and matrix products alone, as torch counts them; normalization, activations and
    pooling are left out, and so is folding the image. A training step takes about three times as
    many.

    Args:
        head: on the device of `one`.
        one: the input of one clip or caption.

    Source: torch.utils.flop_counter.
    """
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        head(one)
    return int(counter.get_total_flops())


def _one_input(heads: HeadsConfig, audio_dim: int) -> torch.Tensor:
    if heads.input_type != "vision":
        return torch.zeros((1, audio_dim))
    side = image_side(audio_dim, heads.images())
    return torch.zeros((1, NUM_CHANNELS, side, side), dtype=torch.uint8)


def _parameters(head: Head) -> int:
    return sum(one.numel() for one in head.parameters() if one.requires_grad)


def _matched_cnn(
    heads: HeadsConfig,
    budget: int,
    config: SweepConfig,
    parameters: Callable[[HeadsConfig], int],
) -> HeadsConfig:
    """Channels and hidden width of a CNN; the nearest there are where none are near enough."""

    def of(channels: int, hidden: int) -> HeadsConfig:
        widths = {"vision_base_channels": channels, "vision_hidden_dim": hidden}
        return heads.model_copy(update=widths)

    def convolutions(channels: int) -> int:
        # Each unit of the hidden layer costs the same: what is left at none is the convolutions.
        one, two = (parameters(of(channels, hidden)) for hidden in (1, 2))
        return 2 * one - two

    most = _largest(_MOST_CHANNELS, lambda c: convolutions(c) <= config.convolution_share * budget)
    found: list[tuple[int, HeadsConfig]] = []
    for channels in range(most, 0, -1):
        hidden = _nearest_width(budget, lambda width, c=channels: parameters(of(c, width)))  # type: ignore[misc]
        matched = of(channels, hidden)
        off = abs(parameters(matched) - budget)
        if off <= config.tolerance * budget:
            return matched
        found.append((off, matched))
    return min(found, key=lambda pair: pair[0])[1]


def _nearest_width(budget: int, parameters: Callable[[int], int]) -> int:
    """The width whose parameters come nearest to the budget; each unit costs the same."""
    one, two = parameters(1), parameters(2)
    return min(max(1 + round((budget - one) / (two - one)), 1), _WIDEST)


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """The largest of 1 to `most` that fits; 1 where none does."""
    low, high = 1, 2
    while high <= most and fits(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
