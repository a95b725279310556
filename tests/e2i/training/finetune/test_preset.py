"""The preset `dcase2025-baseline`, read off the objects that a training is built of.

Golden values: the table of the DCASE 2025 Task 6 baseline (its paper and published code).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_world import SmallWorld
from torch import nn

from e2i.encoders.load import passt_options
from e2i.encoders.windows import Windowing
from e2i.heads.build import build_heads
from e2i.heads.mlp import LinearHead
from e2i.training.finetune.batching import BatchPlans
from e2i.training.finetune.config import FinetuneConfig
from e2i.training.finetune.encoders import load_encoders
from e2i.training.finetune.examples import Hearing
from e2i.training.finetune.fabric import MixedWithPlainInputs, loss_scaler, make_fabric
from e2i.training.finetune.optimizer import Schedule, build_optimizer, set_lr
from e2i.training.finetune.train import images_of, noise_of

PRESET = FinetuneConfig(preset="dcase2025-baseline")


def small_preset(small: SmallWorld) -> FinetuneConfig:
    """The preset with small weights; batches of four for the few clips that there are."""
    return FinetuneConfig(
        preset="dcase2025-baseline",
        audio_weights=str(small.root / "passt.pt"),
        text_model=str(small.root / "roberta"),
        batch_size=4,
        device="cpu",
    )


def test_the_audio_encoder(small: SmallWorld) -> None:
    options = passt_options(PRESET.encoders("cpu"))
    assert options.architecture.name == "passt_s_p16_s16_128_ap468"
    assert options.architecture.stride == 16
    assert options.architecture.grid == (8, 1000 // 16)
    assert options.cut == Windowing("dcase2025", 320_000, 80_000, 4_801)
    assert Hearing.in_training(options, PRESET).most_samples == 30 * 32_000
    noise = noise_of(PRESET)
    assert (noise.mel_jitter_low, noise.mel_jitter_high) == (10, 2000)
    assert (noise.patchout_time, noise.patchout_frequency) == (15, 2)
    encoders, _ = load_encoders(small_preset(small))
    assert encoders.audio.patch_embed.proj.stride == (16, 16)
    assert encoders.audio.time_new_pos_embed.shape == (1, 768, 1, 62)
    # Nothing else disturbs it.
    assert not any(isinstance(one, nn.Dropout) for one in encoders.audio.modules())
    assert (PRESET.gain_db, PRESET.roll, PRESET.word_dropout) == (0.0, False, 0.0)


def test_the_text_encoder(small: SmallWorld) -> None:
    assert PRESET.text_model == "roberta-large"
    encoders, reader = load_encoders(small_preset(small))
    dropouts = [one.p for one in encoders.text.modules() if isinstance(one, nn.Dropout)]
    assert len(dropouts) > 4
    assert set(dropouts) == {0.2}
    assert reader.max_length == 32
    assert reader.form == "dcase2025"
    tokens = reader.tokens(["A Bird-song, loud!", "a birdsong loud"])
    assert tokens.inputs["input_ids"][0] == tokens.inputs["input_ids"][1]
    encoders.eval()
    batch = tokens.batch([0], torch.device("cpu"))
    with torch.no_grad():
        _, read = encoders([], 0, batch)
        assert torch.equal(read, encoders.text(**batch).last_hidden_state[:, 0])


def test_heads_and_temperature() -> None:
    config = PRESET.heads()
    heads = build_heads(
        config,
        768,
        1024,
        seed=0,
        temperature=PRESET.temperature,
        learn_temperature=PRESET.learn_temperature,
    )
    assert isinstance(heads.audio, LinearHead)
    assert isinstance(heads.text, LinearHead)
    assert heads.audio.out.weight.shape == (1024, 768)
    assert heads.text.out.weight.shape == (1024, 1024)
    assert images_of(PRESET) is None
    assert float(heads.logit_scale.exp()) == pytest.approx(1 / 0.05)
    assert "logit_scale" not in dict(heads.named_parameters())
    assert PRESET.normalize is False


def test_batches_are_random_pairs_and_the_last_one_is_dropped(small: SmallWorld) -> None:
    assert PRESET.batch_size == 64
    examples = small.examples()
    plans = BatchPlans(examples, PRESET.model_copy(update={"batch_size": 5}))
    sizes = {plans.epoch(epoch).sizes for epoch in range(1, 4)}
    assert sizes == {(5,) * 4}  # of 24 pairs
    repeated = [
        len(set(examples.pair_clip[batch.numpy()].tolist())) < 5
        for epoch in range(1, 20)
        for batch in plans.epoch(epoch)
    ]
    assert any(repeated)


def test_the_optimizer(small: SmallWorld) -> None:
    config = small_preset(small)
    encoders, _ = load_encoders(config)
    heads = build_heads(config.heads(), 768, 32, seed=0)
    optimizer = build_optimizer(encoders, heads, config, torch.device("cpu"))
    assert type(optimizer) is torch.optim.AdamW
    groups = optimizer.param_groups
    assert {group["weight_decay"] for group in groups} == {0.0}
    assert {group["scale"] for group in groups} == {1.0}
    assert {tuple(group["betas"]) for group in groups} == {(0.9, 0.999)}
    trained = {id(p) for p in (*encoders.parameters(), *heads.parameters()) if p.requires_grad}
    assert {id(p) for group in groups for p in group["params"]} == trained
    frozen = {name for name, p in encoders.named_parameters() if not p.requires_grad}
    assert frozen == {"text.pooler.dense.weight", "text.pooler.dense.bias"}
    set_lr(optimizer, 1e-5)
    assert {group["lr"] for group in groups} == {1e-5}
    assert (PRESET.grad_clip_norm, PRESET.accumulate, PRESET.freeze) == (0.0, 1, "none")


def test_the_schedule() -> None:
    """By step: one epoch up, fifteen down along a cosine, then constant; of 20 epochs."""
    steps = 299  # ⌊19,195 / 64⌋, the pairs of Clotho's development split
    assert PRESET.epochs == 20
    schedule = Schedule.of(PRESET, steps)
    lrs = np.array([schedule.lr(step) for step in range(20 * steps)])
    up = np.linspace(1e-7, 2e-5, steps + 1)[:-1]
    np.testing.assert_allclose(lrs[:steps], up, rtol=1e-9)
    passed = np.arange(15 * steps) / (15 * steps)
    down = 1e-7 + (2e-5 - 1e-7) * (1 + np.cos(np.pi * passed)) / 2
    np.testing.assert_allclose(lrs[steps : 16 * steps], down, rtol=1e-9)
    np.testing.assert_array_equal(lrs[16 * steps :], 1e-7)


def test_precision_is_16_bit_mixed(small: SmallWorld) -> None:
    fabric = make_fabric(small_preset(small))
    precision = fabric.strategy.precision
    assert isinstance(precision, MixedWithPlainInputs)
    assert precision.precision == "16-mixed"
    assert loss_scaler(fabric) is not None


def test_the_metric() -> None:
    assert PRESET.selection_metric == "text_to_audio_mAP@10"
    assert PRESET.selection().selection_metric == "text_to_audio_mAP@10"


def test_options_given_beside_the_preset_count(tmp_path: Path) -> None:
    from flows.command_options import parse_options

    words = ["--epochs", "3", "--preset", "dcase2025-baseline", "--head-type", "mlp"]
    parsed = parse_options("finetune", "FinetuneParameters", words).parameters.finetuning
    given = FinetuneConfig(preset="dcase2025-baseline", epochs=3, head_type="mlp")
    assert parsed == given
    assert parsed.max_lr == 2e-5
    assert parse_options("finetune", "FinetuneParameters", []).parameters.finetuning == (
        FinetuneConfig()
    )
