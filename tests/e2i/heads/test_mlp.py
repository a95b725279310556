"""MLP heads: shapes, draws, dropout, standardization; nothing global is touched."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from e2i.heads.build import build_heads, seeded_generator
from e2i.heads.config import HeadsConfig
from e2i.heads.mlp import MLPHead, dropped_out
from e2i.images.standardization import Standardization

CPU = torch.device("cpu")


def head(config: HeadsConfig, in_dim: int = 8, seed: int = 0) -> MLPHead:
    return MLPHead(config, in_dim, CPU).reset(seeded_generator(seed, "test"))


def test_defaults_are_the_originals():
    assert HeadsConfig().model_dump() == {
        "input_type": "embedding",
        "text_input_type": "embedding",
        "head_type": "mlp",
        "text_head_type": "same",
        "hidden_dim": 512,
        "out_dim": 256,
        "activation": "relu",
        "dropout": 0.1,
        "standardize_input": False,
        "audio_pooling": "mean",
        "vision_base_channels": 32,
        "vision_hidden_dim": 512,
        "vision_pooling": "average",
        "vision_backbone": "",
        "vision_backbone_weights": "",
        "vision_image_source": "auto",
        "vision_image_dir": "pseudo_images/audio",
        "vision_image_size": 128,
        "vision_image_mode": "nearest",
        "vision_image_channel_mode": "split",
        "vision_clip_images": False,
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_dim", 0),
        ("out_dim", 0),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("activation", "tanh"),
    ],
)
def test_out_of_bounds_is_refused(field, value):
    with pytest.raises(ValidationError, match=field):
        HeadsConfig.model_validate({field: value})


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_is_linear_activation_linear(activation):
    made = head(HeadsConfig(hidden_dim=5, out_dim=3, activation=activation))
    inputs = torch.randn((4, 8), generator=seeded_generator(1, "inputs"))
    reference = nn.Sequential(
        nn.Linear(8, 5),
        nn.ReLU() if activation == "relu" else nn.GELU(),
        nn.Linear(5, 3),
    )
    reference.load_state_dict(
        {
            "0.weight": made.hidden.weight,
            "0.bias": made.hidden.bias,
            "2.weight": made.out.weight,
            "2.bias": made.out.bias,
        }
    )
    assert torch.equal(made(inputs), reference(inputs))


def test_weights_fill_the_range_that_torch_draws_from():
    made = head(HeadsConfig(hidden_dim=400), in_dim=64)
    bound = 1 / math.sqrt(64)
    weight = made.hidden.weight.detach()
    assert weight.abs().max() <= bound
    assert weight.abs().max() > 0.99 * bound
    assert abs(float(weight.mean())) < 0.02 * bound
    assert float(weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_same_seed_same_heads_and_the_sides_do_not_shift_each_other():
    config = HeadsConfig(hidden_dim=6, out_dim=4)
    first = build_heads(config, 8, 10, seed=3).state_dict()
    again = build_heads(config, 8, 10, seed=3).state_dict()
    wider_audio = build_heads(config, 9, 10, seed=3).state_dict()
    other = build_heads(config, 8, 10, seed=4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(first["text.hidden.weight"], wider_audio["text.hidden.weight"])
    assert not torch.equal(first["text.hidden.weight"], other["text.hidden.weight"])
    assert not torch.equal(first["audio.out.weight"], first["text.out.weight"])


def test_making_and_running_heads_leaves_the_global_random_state():
    before = torch.get_rng_state()
    heads = build_heads(HeadsConfig(dropout=0.5), 8, 8, seed=0)
    heads.project_audio(torch.ones((4, 8)), seeded_generator(0, "dropout"))
    assert torch.equal(before, torch.get_rng_state())


def test_projections_have_length_one_and_do_not_depend_on_batch_mates():
    heads = build_heads(HeadsConfig(hidden_dim=32, out_dim=16), 8, 10, seed=0)
    audio = torch.randn((33, 8), generator=seeded_generator(0, "audio"))
    together = heads.project_audio(audio)
    alone = torch.cat([heads.project_audio(row[None]) for row in audio])
    assert torch.allclose(together.norm(dim=1), torch.ones(33))
    assert (together - alone).norm(dim=1).max() <= 1e-5


def test_dropout_drops_its_share_and_keeps_the_mean():
    ones = torch.ones((200, 500))
    dropped = dropped_out(ones, 0.3, seeded_generator(0, "dropout"))
    assert dropped.unique().tolist() == [0.0, pytest.approx(1 / 0.7, rel=1e-4)]
    assert float((dropped == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (2, 7, 9)])
def test_dropout_takes_any_shape_and_type(dtype, shape):
    whole = torch.ones(shape, dtype=dtype)
    generator = seeded_generator(0, "dropout")
    assert torch.equal(dropped_out(whole, 0.0, generator), whole)
    dropped = dropped_out(whole, 0.999999, generator)
    assert dropped.dtype == dtype
    assert not dropped.any()
    assert dropped_out(whole.mT, 0.5, generator).shape == whole.mT.shape


def test_units_are_dropped_one_apart_from_the_other():
    dropped = dropped_out(torch.ones(2000, 64), 0.5, seeded_generator(0, "dropout")) > 0
    together = torch.corrcoef(dropped.T.float()) - torch.eye(64)
    assert together.abs().max() < 0.12  # five deviations of 1/√2000


def test_dropout_only_where_a_generator_is_given():
    made = head(HeadsConfig(dropout=0.5))
    inputs = torch.ones((2, 8))
    assert torch.equal(made(inputs), made(inputs))
    generator = seeded_generator(0, "dropout")
    assert not torch.equal(made(inputs, generator), made(inputs, generator))


def test_standardization_takes_shift_and_scale_out():
    plain = head(HeadsConfig(standardize_input=True))
    shifted = head(HeadsConfig(standardize_input=True))
    rows = torch.randn((50, 8), generator=seeded_generator(0, "rows"))
    plain.standardize_by(Standardization.of((rows).numpy()))
    shifted.standardize_by(Standardization.of((rows * 7 + 100).numpy()))
    assert torch.allclose(plain(rows), shifted(rows * 7 + 100), rtol=1e-4, atol=1e-4)


def test_a_constant_dimension_stays_finite():
    made = head(HeadsConfig(standardize_input=True))
    rows = torch.randn((50, 8), generator=seeded_generator(0, "rows"))
    rows[:, 2] = 0.1
    made.standardize_by(Standardization.of((rows).numpy()))
    assert made.deviation[2] == 1
    assert made(rows).isfinite().all()


def test_without_standardization_statistics_change_nothing():
    made = head(HeadsConfig())
    names = set(made.state_dict())
    made.standardize_by(Standardization.of((torch.ones((3, 8))).numpy()))
    assert (
        names
        == set(made.state_dict())
        == {
            "hidden.weight",
            "hidden.bias",
            "out.weight",
            "out.bias",
        }
    )
