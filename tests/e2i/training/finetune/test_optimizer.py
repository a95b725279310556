"""Groups of parameters by layer and kind, and the learning rate by step."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_world import SmallWorld

from e2i.heads.build import build_heads
from e2i.training.finetune.config import FinetuneConfig
from e2i.training.finetune.encoders import load_encoders
from e2i.training.finetune.optimizer import Schedule, build_optimizer


def test_the_lower_a_layer_the_smaller_its_rate(small: SmallWorld) -> None:
    """PaSST has one block here, RoBERTa two layers; each embedding lies below the lowest."""
    config = small.config(layer_decay=0.5, head_lr=4e-3, weight_decay=0.1)
    encoders, _ = load_encoders(config)
    heads = build_heads(config.heads(), 768, 32, seed=0)
    optimizer = build_optimizer(encoders, heads, config, torch.device("cpu"))
    found = {
        id(parameter): (group["scale"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    audio, text = dict(encoders.audio.named_parameters()), dict(encoders.text.named_parameters())
    expected = [
        (audio["norm.weight"], 1.0, 0.0),
        (audio["blocks.0.attn.qkv.weight"], 0.5, 0.1),
        (audio["blocks.0.norm1.bias"], 0.5, 0.0),
        (audio["patch_embed.proj.weight"], 0.25, 0.1),
        (audio["cls_token"], 0.25, 0.1),
        (text["encoder.layer.1.attention.self.query.weight"], 0.5, 0.1),
        (text["encoder.layer.0.output.dense.bias"], 0.25, 0.0),
        (text["embeddings.word_embeddings.weight"], 0.125, 0.1),
        (next(heads.audio.parameters()), 4.0, 0.1),
    ]
    for parameter, scale, decay in expected:
        assert found[id(parameter)] == (scale, decay)


@pytest.mark.parametrize(
    ("freeze", "sides"), [("audio", {"text"}), ("text", {"audio"}), ("both", set())]
)
def test_what_is_frozen_is_in_no_group(small: SmallWorld, freeze: str, sides: set[str]) -> None:
    config = small.config(freeze=freeze)
    encoders, _ = load_encoders(config)
    heads = build_heads(config.heads(), 768, 32, seed=0)
    optimizer = build_optimizer(encoders, heads, config, torch.device("cpu"))
    grouped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    found = {name.partition(".")[0] for name, p in encoders.named_parameters() if id(p) in grouped}
    assert found == sides
    assert all(id(parameter) in grouped for parameter in heads.parameters())


@given(
    epochs=st.integers(2, 30),
    warmup=st.integers(0, 3),
    steps=st.integers(1, 50),
    low=st.floats(0, 1e-5),
)
def test_rates_rise_fall_and_stay_within_their_bounds(
    epochs: int, warmup: int, steps: int, low: float
) -> None:
    warmup = min(warmup, epochs - 1)
    config = FinetuneConfig(epochs=epochs, warmup_epochs=warmup, max_lr=1e-3, min_lr=low)
    schedule = Schedule.of(config, steps)
    lrs = [schedule.lr(step) for step in range(epochs * steps)]
    top = warmup * steps
    assert lrs[top] == pytest.approx(1e-3)
    assert all(low - 1e-12 <= lr <= 1e-3 + 1e-12 for lr in lrs)
    assert lrs[: top + 1] == sorted(lrs[: top + 1])
    assert lrs[top:] == sorted(lrs[top:], reverse=True)
    assert schedule.lr(epochs * steps) == low
