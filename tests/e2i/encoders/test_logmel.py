"""The log-mel encoder: fixed length, each clip alone, and what it tells apart."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from e2i.encoders import logmel
from e2i.encoders.logmel import LogMelEncoder, logmel_settings
from e2i.encoders.protocols import fingerprint

RATE = 32_000


def burst(hz: float, seconds: float = 0.4) -> np.ndarray:
    time = np.arange(int(seconds * RATE)) / RATE
    return (np.sin(2 * np.pi * hz * time) * np.exp(-6 * time) * 0.5).astype(np.float32)


def noise(seconds: float, seed: int = 0, peak: float = 0.1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.uniform(-peak, peak, int(seconds * RATE))).astype(np.float32)


def embed(waveform: np.ndarray, *, normalize: bool = True) -> np.ndarray:
    (embedded,) = LogMelEncoder(normalize=normalize).encode([waveform])
    assert embedded.num_windows == 1
    return embedded.embedding


@pytest.mark.parametrize("samples", [0, 1, 319, 320, 1600, 5 * RATE, 60 * RATE])
def test_any_duration_has_one_length(samples: int) -> None:
    embedding = embed(noise(samples / RATE))
    assert (embedding.shape, embedding.dtype) == ((LogMelEncoder().dim,), np.float32)
    assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-6)


def test_without_normalization_the_direction_is_the_same() -> None:
    raw, unit = embed(noise(1), normalize=False), embed(noise(1))
    assert np.linalg.norm(raw) > 2
    np.testing.assert_allclose(raw / np.linalg.norm(raw), unit, atol=1e-6)


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.randoms())
def test_a_clip_does_not_depend_on_its_batch(picked: list[int], shuffled: random.Random) -> None:
    clips = [noise(0.05 + 0.3 * seed, seed) for seed in range(6)]
    shuffled.shuffle(picked)
    for embedded, clip in zip(
        LogMelEncoder().encode([clips[place] for place in picked]), picked, strict=True
    ):
        np.testing.assert_array_equal(embedded.embedding, embed(clips[clip]))


def test_global_random_state_is_left_alone_and_input_too() -> None:
    clip = noise(0.5)
    before, numpy_state, torch_state = clip.copy(), np.random.get_state()[1], torch.get_rng_state()
    embed(clip)
    np.testing.assert_array_equal(clip, before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = embed(noise(2.3))
    monkeypatch.setattr(logmel, "_BLOCK_FRAMES", 7)
    np.testing.assert_allclose(embed(noise(2.3)), whole, atol=1e-6)


def test_an_offset_is_not_heard() -> None:
    clip = noise(1)
    np.testing.assert_allclose(embed(clip + np.float32(0.25)), embed(clip), atol=2e-4)
    np.testing.assert_allclose(
        embed(np.full(1600, 0.5, np.float32)), embed(np.zeros(1600, np.float32))
    )


def test_order_and_count_are_told_apart() -> None:
    gap, low, high = np.zeros(RATE // 4, np.float32), burst(300), burst(3000)
    low_high = np.concatenate([low, gap, high, gap]) + noise(1.3, 1, 0.003)
    again = np.concatenate([low, gap, high, gap]) * np.float32(0.9) + noise(1.3, 2, 0.003)
    high_low = np.concatenate([high, gap, low, gap]) + noise(1.3, 3, 0.003)
    twice = np.concatenate([low, gap, low, gap]) + noise(1.3, 4, 0.003)
    same = float(embed(low_high) @ embed(again))
    assert same > 0.95
    assert same > float(embed(low_high) @ embed(high_low)) + 0.03
    assert same > float(embed(low_high) @ embed(twice)) + 0.03


def test_different_sounds_do_not_point_the_same_way() -> None:
    sounds = [
        noise(2, 0),
        noise(2, 0, 0.01),
        np.tile(burst(300, 0.5), 4),
        np.tile(burst(3000, 0.1), 20),
        np.cumsum(noise(2, 3)).astype(np.float32) * np.float32(0.1),
        np.zeros(2 * RATE, np.float32),
    ]
    embeddings = np.stack([embed(sound) for sound in sounds])
    cosines = (embeddings @ embeddings.T)[np.triu_indices(len(sounds), 1)]
    assert cosines.mean() < 0.6
    assert cosines.max() < 0.97


def test_a_tone_is_measured_in_its_band_at_its_level() -> None:
    # By definition of the scale: a sine at full scale is at 0 dB, spread over one or two bands.
    time = np.arange(RATE) / RATE
    bands = logmel._analyze(np.sin(2 * np.pi * 1000 * time).astype(np.float32)).bands[20:-20]
    mel = 2595 * np.log10(1 + np.array([50, 1000, 15_000]) / 700)
    expected = (mel[1] - mel[0]) / ((mel[2] - mel[0]) / 65) - 1
    assert abs(bands.mean(axis=0).argmax() - expected) <= 1
    assert -9 < bands.max() < 0
    assert logmel._analyze(np.zeros(RATE, np.float32)).bands.max() == pytest.approx(-90, abs=1e-3)


def test_settings_tell_what_changes_values() -> None:
    told = LogMelEncoder().settings
    assert told == logmel_settings(normalize=True)
    assert told["sample_rate"] == LogMelEncoder().sample_rate == RATE
    assert told["resampler"] == "torchaudio sinc_interp_hann width=6 rolloff=0.99"
    assert fingerprint(told) != fingerprint(logmel_settings(normalize=False))
