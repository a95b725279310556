"""Resampling: torchaudio's default at every pair of rates, cheap where torchaudio's is not."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st

from e2i import resampling
from e2i.resampling import resample


def noise(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, length).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100, 48_000, 96_000])
def test_usual_rates_are_torchaudios_bit_for_bit(rate: int) -> None:
    samples = noise(rate // 4 + 7)
    expected = torchaudio.functional.resample(torch.from_numpy(samples), rate, 32_000).numpy()
    np.testing.assert_array_equal(resample(samples, rate, 32_000), expected)


@settings(deadline=None, max_examples=60)
@given(
    source=st.integers(1, 900),
    target=st.integers(1, 900),
    length=st.integers(1, 700),
    block=st.sampled_from([64, 2**16]),
)
def test_the_sparse_filter_is_torchaudios(
    source: int, target: int, length: int, block: int
) -> None:
    shared = math.gcd(source, target)
    if source == target:
        return
    samples = noise(length)
    expected = torchaudio.functional.resample(
        torch.from_numpy(samples).double(), source, target
    ).numpy()
    resampling._phase_weights.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resampling, "_BLOCK", block)
        got = resampling._resample_sparse(samples, source // shared, target // shared)
    assert got.shape == expected.shape == (math.ceil(length * target / source),)
    np.testing.assert_allclose(got, expected, atol=3e-6)


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
