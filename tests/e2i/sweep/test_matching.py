"""Budgets are met by the heads as they are built, and operations are counted."""

from __future__ import annotations

import pytest
import torch

from e2i.errors import ConfigError
from e2i.heads.build import build_heads
from e2i.heads.cnn import fold_embeddings
from e2i.sweep.arms import is_vision
from e2i.sweep.config import ALL_ARMS, ArmName, SweepConfig
from e2i.sweep.matching import match_heads

MATCHED = [arm for arm in ALL_ARMS if arm != "linear"]


@pytest.mark.parametrize("arm", MATCHED)
@pytest.mark.parametrize("budget", [50_000, 400_000, 3_000_000])
def test_a_head_has_the_parameters_of_its_budget(arm: ArmName, budget: int) -> None:
    config = SweepConfig()
    found = match_heads(arm, budget, 768, 1024, config)
    heads = build_heads(found.heads, 768, 1024, seed=1)
    built = sum(one.numel() for one in heads.audio.parameters())
    assert built == found.parameters
    assert found.is_matched
    assert abs(built - budget) <= config.tolerance * budget
    if is_vision(arm):
        convolutions = sum(
            one.numel() for name, one in heads.audio.named_parameters() if "stages" in name
        )
        assert convolutions <= config.convolution_share * budget
        assert found.heads.vision_base_channels > 1 or budget < 100_000


@pytest.mark.parametrize("dims", [(768, 1024), (1024, 384), (100, 50)])
def test_the_text_head_is_the_same_in_all_arms(dims: tuple[int, int]) -> None:
    found = [match_heads(arm, 60_000, *dims, SweepConfig(tolerance=0.1)) for arm in ALL_ARMS]
    assert len({one.text_parameters for one in found}) == 1
    first = build_heads(found[0].heads, *dims, seed=5).text.state_dict()
    for one in found[1:]:
        text = build_heads(one.heads, *dims, seed=5).text.state_dict()
        assert text.keys() == first.keys()
        assert all(torch.equal(text[name], first[name]) for name in first)


def test_a_linear_head_stays_as_it_is() -> None:
    config = SweepConfig(out_dim=10)
    for budget, is_matched in ((1_010, True), (1_030, True), (1_100, False), (50_000, False)):
        found = match_heads("linear", budget, 100, 70, config)
        assert (found.parameters, found.is_matched) == (1_010, is_matched)


def test_a_budget_that_no_width_meets_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"the arm 'cnn-native' .* got [\d,]+ parameters .* expected 1,000 within"
    ):
        match_heads("cnn-native", 1_000, 768, 1024, SweepConfig())


def test_operations_are_those_of_the_layers() -> None:
    config = SweepConfig(out_dim=32, standardize_input=False)
    plain = match_heads("mlp", 20_000, 100, 70, config)
    width = plain.heads.hidden_dim
    assert plain.flops == 2 * (100 * width + width * 32)
    assert plain.text_flops == 2 * (70 * width + width * 32)
    assert match_heads("linear", 20_000, 100, 70, config).flops == 2 * 100 * 32
    decoded = match_heads("mlp-decoded", 20_000, 100, 70, config)
    assert decoded.flops == plain.flops


def test_operations_of_a_cnn_grow_with_its_image_and_not_with_its_cells_order() -> None:
    native, large, permuted = (
        match_heads(arm, 100_000, 768, 1024, SweepConfig())
        for arm in ("cnn-native", "cnn-128", "cnn-permuted")
    )
    assert native.parameters == large.parameters == permuted.parameters
    assert native.flops == permuted.flops
    # Convolutions do all but the layers behind them, on (128 / 16)² times the cells.
    behind = 2 * sum(
        one.numel()
        for name, one in build_heads(native.heads, 768, 1024, seed=0).audio.named_parameters()
        if "mlp" in name and name.endswith("weight")
    )
    assert (large.flops - behind) == pytest.approx(64 * (native.flops - behind), rel=1e-6)
    plain = native.heads.model_copy(update={"standardize_input": False})
    assert fold_embeddings(torch.randn(1, 768), plain).shape[-1] == 16
