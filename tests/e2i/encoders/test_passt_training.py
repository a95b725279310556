"""PaSST with gradients: the numbers of the one that embeds, published names, what it draws."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from e2i.encoders.passt_architectures import ARCHITECTURES
from e2i.encoders.passt_model import Passt, expected_shapes, mel_bank
from e2i.encoders.passt_training import PasstNoise, TrainablePasst
from passt_weights import random_weights

SMALL = replace(ARCHITECTURES["passt_s_p16_s16_128_ap468"], depth=2)
WINDOW = SMALL.window_samples


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return {k: v for k, v in random_weights(SMALL).items() if not k.startswith("head")}


def waveforms(count: int = 2, samples: int = 24_000, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(count, samples, generator=torch.Generator().manual_seed(seed))


def test_embeddings_are_those_of_the_model_that_embeds(weights: dict[str, Tensor]) -> None:
    expected = Passt(SMALL, weights, torch.device("cpu"))(waveforms())
    got = TrainablePasst(SMALL, weights)(waveforms())
    assert (got - expected).norm() <= 1e-5 * expected.norm()


def test_a_state_dict_has_the_published_names_and_values(weights: dict[str, Tensor]) -> None:
    state = TrainablePasst(SMALL, weights).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == expected_shapes(SMALL)
    assert all(torch.equal(state[name], value) for name, value in weights.items())


def test_training_leaves_the_weights_that_were_given_alone(weights: dict[str, Tensor]) -> None:
    before = weights["norm.bias"].clone()
    model = TrainablePasst(SMALL, weights)
    with torch.no_grad():
        model.norm.bias.add_(1)
    assert torch.equal(weights["norm.bias"], before)


def gradients(model: nn.Module, sounds: Tensor) -> dict[str, Tensor]:
    model(sounds).square().sum().backward()
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    "options", [{"attention": "explicit"}, {"checkpointing": True}], ids=["explicit", "again"]
)
def test_how_it_is_computed_changes_no_gradient(
    weights: dict[str, Tensor], options: dict[str, object]
) -> None:
    expected = gradients(TrainablePasst(SMALL, weights), waveforms())
    got = gradients(TrainablePasst(SMALL, weights, **options), waveforms())
    assert all(gradient is not None for gradient in expected.values())
    for name, gradient in expected.items():
        assert (got[name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-7, name


def counted_tokens(model: TrainablePasst) -> list[int]:
    counts: list[int] = []
    model.blocks[0].register_forward_hook(
        lambda module, inputs, output: counts.append(output.shape[1])
    )
    return counts


@pytest.mark.parametrize(
    ("samples", "noise", "rows", "columns"),
    [
        (WINDOW, PasstNoise(), 8, 62),
        (WINDOW, PasstNoise(15, 2), 6, 47),
        (WINDOW // 2, PasstNoise(15, 2), 6, 31 - 8),  # 15 · 31 / 62, rounded half to even
        (SMALL.shortest_samples, PasstNoise(1000, 11), 1, 1),
    ],
)
def test_patches_are_left_out(
    weights: dict[str, Tensor], samples: int, noise: PasstNoise, rows: int, columns: int
) -> None:
    model = TrainablePasst(SMALL, weights)
    counts = counted_tokens(model)
    with torch.no_grad():
        model(waveforms(1, samples), noise, torch.Generator().manual_seed(0))
    assert counts == [2 + rows * columns]


def test_all_windows_of_a_call_lose_the_same_patches(weights: dict[str, Tensor]) -> None:
    model = TrainablePasst(SMALL, weights)
    noise, sounds = PasstNoise(15, 2, 10, 2000), waveforms(3)

    def heard(some: Tensor, seed: int) -> Tensor:
        with torch.no_grad():
            return model(some, noise, torch.Generator().manual_seed(seed))

    together = heard(sounds, 1)
    alone = torch.cat([heard(sounds[row : row + 1], 1) for row in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together, heard(sounds, 2), rtol=1e-2)


def test_without_a_generator_nothing_is_drawn(weights: dict[str, Tensor]) -> None:
    model = TrainablePasst(SMALL, weights).train()
    with torch.no_grad():
        plain = model(waveforms())
        assert torch.equal(model(waveforms(), PasstNoise(15, 2, 10, 2000)), plain)


def test_edges_of_the_mel_bands_stay_within_their_range(
    weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    edges: list[tuple[float, float]] = []

    def noted(low: float, high: float) -> Tensor:
        edges.append((low, high))
        return mel_bank(low, high)

    monkeypatch.setattr("e2i.encoders.passt_training.mel_bank", noted)
    model = TrainablePasst(
        replace(SMALL, depth=0), {k: v for k, v in weights.items() if not k.startswith("blocks")}
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(40):
            model(waveforms(1, 6_000), PasstNoise(0, 0, 10, 2000), generator)
    lows, highs = zip(*edges, strict=True)
    assert set(lows) <= set(range(10))
    assert len(set(lows)) > 4
    assert all(14_000 < high <= 16_000 for high in highs)
    assert min(highs) < 15_000 < max(highs)


def test_the_global_random_state_is_left_alone(weights: dict[str, Tensor]) -> None:
    before = torch.random.get_rng_state()
    model = TrainablePasst(SMALL, weights, checkpointing=True)
    model(waveforms(), PasstNoise(5, 1, 10, 100), torch.Generator().manual_seed(0)).sum().backward()
    assert torch.equal(torch.random.get_rng_state(), before)
