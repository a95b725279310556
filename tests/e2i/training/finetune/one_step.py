"""One batch through the encoders and heads of a training, and the gradients that it leaves.

Run as a program it does so in two processes, each with half of the batch, and saves what the first
one has.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import torch
from lightning.fabric import Fabric
from torch import Tensor

from e2i.encoders.load import passt_options
from e2i.heads.build import ProjectionHeads, build_heads
from e2i.storage import Folder
from e2i.training.batches import EpochPlan
from e2i.training.finetune.batching import Batches, Sides
from e2i.training.finetune.config import FinetuneConfig
from e2i.training.finetune.encoders import EncoderPair, load_encoders
from e2i.training.finetune.examples import CaptionTokens, Examples, Hearing, Listener
from e2i.training.finetune.fabric import make_fabric
from e2i.training.finetune.optimizer import build_optimizer
from e2i.training.finetune.step import Draws, Learner
from e2i.training.finetune.train import images_of, noise_of
from e2i.training.finetune.waveforms import WaveformStore


class OneStep:
    """What a step needs, made anew from a configuration."""

    def __init__(
        self, config: FinetuneConfig, examples: Examples, waveforms: Folder, fabric: Fabric
    ) -> None:
        self.config, self.examples, self.fabric = config, examples, fabric
        self.encoders, self.reader = load_encoders(config)
        self.heads = build_heads(
            config.heads(), 768, self.encoders.text_dim, seed=1, temperature=config.temperature
        )
        wrapped = fabric.setup_module(self.encoders)
        self.optimizer = build_optimizer(self.encoders, self.heads, config, fabric.device)
        self.learner = Learner(
            fabric, wrapped, self.heads, images_of(config), Draws(noise_of(config), config.seed)
        )
        self.listener = Listener(WaveformStore(waveforms, "torchaudio"), 2)
        options = passt_options(config.encoders("cpu"))
        self.sides = Sides(
            CaptionTokens(self.reader, examples.captions),
            self.listener,
            Hearing.in_training(options, config),
            None,
            None,
        )

    def backward(self, pairs: list[int]) -> float:
        """The loss of a batch of these pairs; their gradients are left in the parameters."""
        plan = EpochPlan(torch.tensor(pairs), (len(pairs),))
        try:
            (batch,) = Batches(self.fabric, self.config, self.examples, self.sides).of(plan, 1, 0)
        finally:
            self.listener.close()
        loss = self.learner.backward(batch, 0)
        self.learner.average_head_gradients()
        return float(loss)

    def gradients(self) -> dict[str, Tensor]:
        """By name, of all that is trained."""
        return gradients_of(self.encoders, self.heads)


def gradients_of(encoders: EncoderPair, heads: ProjectionHeads) -> dict[str, Tensor]:
    """By name, of all that is trained."""
    sides = {"audio": encoders.audio, "text": encoders.text, "heads": heads}
    return {
        f"{side}.{name}": parameter.grad.clone()
        for side, module in sides.items()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def step(
    config: FinetuneConfig, examples: Examples, waveforms: Folder, pairs: list[int]
) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of one batch in this process."""
    fabric = make_fabric(config)
    fabric.launch()
    one = OneStep(config, examples, waveforms, fabric)
    loss = one.backward(pairs)
    return loss, one.gradients()


def _in_a_process(
    fabric: Fabric,
    config: FinetuneConfig,
    examples: Examples,
    waveforms: str,
    pairs: list[int],
    saved: str,
) -> None:
    torch.set_num_threads(1)
    from small_world import shrink_architectures

    shrink_architectures()
    one = OneStep(config, examples, Folder(waveforms), fabric)
    loss = one.backward(pairs)
    if fabric.is_global_zero:
        torch.save((loss, one.gradients()), saved)


if __name__ == "__main__":
    root, saved, grad_cache = sys.argv[1:]
    from small_world import SmallWorld, shrink_architectures

    shrink_architectures()
    world = SmallWorld(Path(root))
    config = world.config(
        model_type="vision", devices=2, dropout=0.3, text_dropout=0.0, grad_cache=grad_cache
    )
    make_fabric(config).launch(
        partial(
            _in_a_process,
            config=config,
            examples=world.examples(),
            waveforms=f"{root}/waveforms",
            pairs=list(range(0, 14, 2)),
            saved=saved,
        )
    )
