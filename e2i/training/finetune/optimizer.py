"""Groups of parameters, and the learning rate of each step.

Decides: AdamW; matrices are decayed, vectors and the logit scale are not; the lower a layer of an
encoder, the smaller its rate, where a decay by layer is asked for. The rate of a step is that of
its place in the training: linear from the lowest to the highest rate, half a cosine back, constant.

Source: the schedule of the baseline of DCASE 2025 Task 6; decay by layer of Clark et al.,
"ELECTRA", 2020.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from e2i.heads.build import ProjectionHeads
from e2i.training.finetune.config import FinetuneConfig
from e2i.training.finetune.encoders import EncoderPair

_LAYER = re.compile(r"(?:^|\.)(?:blocks|layers|layer|h|block)\.(\d+)\.")
_BEHIND_THE_LAYERS = re.compile(r"(?:^|\.)(?:norm|ln_f|final_layer_norm)\.(?:weight|bias)$")


@dataclass(frozen=True, slots=True)
class Schedule:
    """The learning rate, by step.

    Attributes:
        max_lr: the highest.
        min_lr: the lowest.
        warmup_steps: of the rise.
        decay_steps: of the cosine.
    """

    max_lr: float
    min_lr: float
    warmup_steps: int
    decay_steps: int

    @classmethod
    def of(cls, config: FinetuneConfig, steps_per_epoch: int) -> Schedule:
        """As configured."""
        decay = config.decay_epochs or max(1, config.epochs - config.warmup_epochs)
        return cls(
            config.max_lr,
            config.min_lr,
            config.warmup_epochs * steps_per_epoch,
            decay * steps_per_epoch,
        )

    def lr(self, step: int) -> float:
        """The learning rate of a step, from 0."""
        span = self.max_lr - self.min_lr
        if step < self.warmup_steps:
            return self.min_lr + span * step / self.warmup_steps
        passed = (step - self.warmup_steps) / self.decay_steps
        if passed >= 1:
            return self.min_lr
        return self.min_lr + span * 0.5 * (1.0 + math.cos(math.pi * passed))


def build_optimizer(
    encoders: EncoderPair, heads: ProjectionHeads, config: FinetuneConfig, device: torch.device
) -> torch.optim.AdamW:
    """AdamW over all that is trained; each group's `scale` is its share of the learning rate."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    head_scale = 1.0 if config.head_lr is None else config.head_lr / config.max_lr
    scaled = [
        *_scaled(encoders.audio, config.layer_decay),
        *_scaled(encoders.text, config.layer_decay),
        *((parameter, head_scale) for parameter in heads.parameters()),
    ]
    for parameter, scale in scaled:
        if parameter.requires_grad:
            groups.setdefault((scale, parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": members,
                "scale": scale,
                "lr": config.min_lr * scale,
                "weight_decay": config.weight_decay if decayed else 0.0,
            }
            for (scale, decayed), members in groups.items()
        ],
        lr=config.min_lr,
        # A loss that is scaled for half precision has to be scaled back before it is clipped.
        fused=device.type in {"cpu", "cuda"} and config.precision != "float16",
    )


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give each group its share of a learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["scale"]


def _scaled(encoder: nn.Module, decay: float) -> Iterator[tuple[nn.Parameter, float]]:
    """An encoder's parameters and their share of the learning rate, by the layer they stand in."""
    names = [name for name, _ in encoder.named_parameters()]
    layers = [int(found[1]) for name in names if (found := _LAYER.search(name))]
    top = max(layers, default=-1) + 1
    for name, parameter in encoder.named_parameters():
        found = _LAYER.search(name)
        if found is not None:
            below = top - int(found[1])
        else:
            below = 0 if _BEHIND_THE_LAYERS.search(name) else top + 1
        yield parameter, decay**below
