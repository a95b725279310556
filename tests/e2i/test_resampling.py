"""Resampling: torchaudio's default at every pair of rates, cheap where torchaudio's is not."""

from __future__ import annotations

import importlib.util
import math
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soxr
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st

from e2i import resampling
from e2i.resampling import ResamplerName, open_resampler, resample

RATES = [8000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000, 88_200, 96_000, 192_000]


def noise(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, length).astype(np.float32)


@pytest.mark.parametrize("rate", RATES)
def test_usual_rates_are_torchaudios(rate: int) -> None:
    samples = noise(rate // 4 + 7)
    expected = torchaudio.functional.resample(torch.from_numpy(samples), rate, 32_000).numpy()
    np.testing.assert_allclose(resample(samples, rate, 32_000), expected, rtol=0, atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(
    source=st.integers(1, 900),
    target=st.integers(1, 900),
    length=st.integers(1, 700),
)
def test_every_pair_of_rates_is_torchaudios(source: int, target: int, length: int) -> None:
    samples = noise(length)
    expected = torchaudio.functional.resample(torch.from_numpy(samples), source, target).numpy()
    got = resample(samples, source, target)
    assert got.shape == expected.shape == (math.ceil(length * target / source),)
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)


@settings(deadline=None, max_examples=60)
@given(
    source=st.integers(1, 900),
    target=st.integers(1, 900),
    length=st.integers(1, 700),
    block=st.sampled_from([64, 2**20]),
)
def test_the_sparse_filter_is_torchaudios(
    source: int, target: int, length: int, block: int
) -> None:
    if source == target:
        return
    samples = noise(length)
    expected = torchaudio.functional.resample(
        torch.from_numpy(samples).double(), source, target
    ).numpy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resampling, "_DENSE_LIMIT", 0)
        patch.setattr(resampling, "_GATHERED", block)
        resampling._phase_weights.cache_clear()
        got = resample(samples, source, target)
    resampling._phase_weights.cache_clear()
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=3e-6)


@settings(deadline=None, max_examples=60)
@given(
    rates=st.sampled_from([(44_100, 32_000), (8000, 32_000), (192_000, 32_000), (11_127, 32_000)]),
    resampler=st.sampled_from(["torchaudio", "soxr"]),
    length=st.integers(1, 30_000),
    cuts=st.lists(st.integers(0, 30_000), max_size=4),
)
def test_blocks_do_not_show(
    rates: tuple[int, int], resampler: ResamplerName, length: int, cuts: list[int]
) -> None:
    samples = noise(length)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resampling, "_BLOCK_SAMPLES", 5000)
        whole = resample(samples, *rates, resampler)
        stream = open_resampler(*rates, resampler)
        parts = [
            stream.push(part) for part in np.split(samples, sorted(min(c, length) for c in cuts))
        ]
        blockwise = np.concatenate([*parts, stream.finish()])
    np.testing.assert_array_equal(blockwise, whole)
    assert len(whole) == math.ceil(length * rates[1] / rates[0])


@pytest.mark.parametrize("rate", [8000, 11_127, 44_100, 192_000, 999_983])
def test_soxr_is_soxr_at_its_highest_quality(rate: int) -> None:
    samples = noise(rate // 2 + 5)
    expected = soxr.resample(samples, rate, 32_000, quality="VHQ")
    got = resample(samples, rate, 32_000, "soxr")
    assert 0 <= len(got) - len(expected) <= 1
    np.testing.assert_allclose(got[: len(expected)], expected, rtol=0, atol=1e-6)


def test_a_minute_at_an_odd_rate_takes_little() -> None:
    samples = noise(11_127 * 60)
    resampling._phase_weights.cache_clear()
    tracemalloc.start()
    resampled = resample(samples, 11_127, 32_000)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(resampled) == 60 * 32_000
    assert peak_bytes < 150e6  # torchaudio: 12 GB


def test_equal_rates_hand_the_waveform_on() -> None:
    samples = noise(10)
    assert resample(samples, 32_000, 32_000) is samples


def measured():
    """The benchmark's measurements, on less."""
    path = Path(__file__).parents[2] / "benchmarks" / "resampler.py"
    spec = importlib.util.spec_from_file_location("resampler_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.SECONDS, module.TONES = 0.25, 12
    return module.measure


@pytest.mark.parametrize("rate", [8000, 44_100, 96_000])
def test_the_stated_quality_holds(rate: int) -> None:
    """What `docs/resampling.md` states, with a margin for the shorter tones."""
    measure = measured()
    usual, best = measure(rate, "torchaudio"), measure(rate, "soxr")
    assert usual.inner_db < 0.6
    assert 2 < usual.outer_db < 2.6
    assert 0.91 < usual.edge_share < 0.93
    assert -16 < usual.stop_db < -12
    assert not usual.far_db > -50
    assert -43 < usual.against_soxr_db < -37
    assert best.outer_db < 0.05
    assert best.edge_share > 0.94
    assert best.stop_db < -100
    assert not best.far_db > -100
