from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2i.datasets.soundscapes.signals import (
    SAMPLE_RATE_HZ,
    _fast_length,
    add,
    flat,
    low_passed,
    num_samples,
    ringing,
    rms,
    shaped_noise,
    tone,
)


def _power(signal, low_hz, high_hz):
    power = np.abs(np.fft.rfft(signal)) ** 2
    hz = np.fft.rfftfreq(signal.size, 1 / SAMPLE_RATE_HZ)
    return power[(hz >= low_hz) & (hz < high_hz)].mean()


@given(st.integers(1, 600_000))
def test_fast_length_is_never_shorter_and_at_most_a_third_longer(length):
    size = _fast_length(length)
    assert length <= size <= max(16, 1.34 * length)


def test_noise_follows_its_shape():
    noise = shaped_noise(np.random.default_rng(1), num_samples(2.0), [(500, 0), (2000, -20)])
    assert rms(noise) == pytest.approx(1.0)
    ratio_db = 10 * np.log10(_power(noise, 100, 480) / _power(noise, 2100, 8000))
    assert ratio_db == pytest.approx(20.0, abs=1.0)


def test_tone_is_where_it_should_be():
    signal = tone(1000.0, SAMPLE_RATE_HZ, (1.0, 0.5))
    spectrum = np.abs(np.fft.rfft(signal)) / (SAMPLE_RATE_HZ / 2)
    assert spectrum[1000] == pytest.approx(1.0, abs=1e-3)
    assert spectrum[2000] == pytest.approx(0.5, abs=1e-3)
    np.testing.assert_allclose(
        tone(np.full(500, 1000.0), 500), tone(1000.0, 501)[1:], atol=2 * np.pi / 8192 * 1.01
    )


def test_a_mode_loses_a_factor_of_e_in_its_time_constant():
    signal = ringing(num_samples(0.5), [(1000.0, 1.0, 0.1)])
    early, late = signal[: num_samples(0.05)], signal[num_samples(0.1) : num_samples(0.15)]
    assert rms(early) / rms(late) == pytest.approx(np.e, rel=0.02)


def test_low_pass_takes_the_high():
    noise = shaped_noise(np.random.default_rng(2), num_samples(1.0), [(100, 0)])
    dull = low_passed(noise, 1000.0)
    assert dull.shape == noise.shape
    # |H|^2 = 1 / (1 + (f / 1 kHz)^2): 1/65 at 8 kHz.
    assert _power(dull, 7900, 8100) / _power(noise, 7900, 8100) == pytest.approx(1 / 65, rel=0.05)


@given(st.integers(-30, 30), st.integers(1, 20))
def test_add_drops_what_reaches_over_the_ends(at, size):
    track = np.zeros(10)
    add(track, at, np.ones(size), 2.0)
    expected = [2.0 if at <= place < at + size else 0.0 for place in range(10)]
    assert track.tolist() == expected


@given(st.integers(1, 2000))
def test_flat_has_ramps_and_no_clicks(length):
    envelope = flat(length, 0.01)
    assert envelope.shape == (length,)
    assert envelope.min() > 0.0
    assert envelope.max() <= 1.0
    if length > 1000:
        assert envelope[0] < 0.01
        assert envelope[length // 2] == 1.0
