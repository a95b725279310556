"""The edges of what there is, from file to embedding: a result, or a failure with a name."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from e2i.audio import load_waveform
from e2i.decoding.pool import DecodingPool
from e2i.encoders.logmel import LogMelEncoder
from e2i.encoders.protocols import AudioEncoder
from e2i.errors import AudioError
from extreme_recordings import RATES, Extreme, chirp, extremes, stored


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodingPool]:
    pool = DecodingPool(2)
    yield pool
    pool.close()


@pytest.fixture(scope="module", params=[LogMelEncoder])
def encoder(request: pytest.FixtureRequest) -> AudioEncoder:
    made: AudioEncoder = request.param()
    return made


@pytest.mark.parametrize("resampler", ["torchaudio", "soxr"])
@pytest.mark.parametrize("case", extremes(), ids=lambda case: case.name)
def test_an_embedding_or_a_named_failure(
    pool: DecodingPool, encoder: AudioEncoder, case: Extreme, resampler
) -> None:
    if case.refusal:
        with pytest.raises(AudioError) as raised:
            pool.load(case.data, encoder.sample_rate, case.name, resampler=resampler)
        assert case.refusal in str(raised.value)
        assert repr(case.name) in str(raised.value)
        return
    waveform = pool.load(case.data, encoder.sample_rate, case.name, resampler=resampler)
    samples = waveform.samples
    assert waveform.duration_s == pytest.approx(case.duration_s, rel=1e-9)
    assert 0 <= len(samples) - case.duration_s * encoder.sample_rate < 1
    assert np.abs(samples).max() <= 1
    (made,) = encoder.encode([samples])
    assert made.embedding.shape == (encoder.dim,)
    assert np.isfinite(made.embedding).all()
    assert np.linalg.norm(made.embedding) == pytest.approx(1, abs=1e-5)
    here = load_waveform(case.data, encoder.sample_rate, case.name, resampler)
    np.testing.assert_array_equal(samples, here.samples)


@pytest.mark.parametrize("resampler", ["torchaudio", "soxr"])
@pytest.mark.parametrize("rate", RATES)
def test_a_sound_is_the_same_at_every_rate(pool: DecodingPool, rate: int, resampler) -> None:
    """Up to 1.5 kHz it fits in each of them."""
    got = pool.load(stored(chirp(1, rate), rate), 32_000, "a", resampler=resampler).samples
    expected = chirp(1, 32_000)[:, 0]
    inner = slice(1_600, 30_400)
    np.testing.assert_allclose(got[inner], expected[inner], rtol=0, atol=6e-3)


def test_channels_do_not_show(pool: DecodingPool) -> None:
    mono = pool.load(stored(chirp(0.5, 48_000), 48_000), 32_000, "a").samples
    for channels in range(2, 7):
        many = pool.load(stored(chirp(0.5, 48_000, channels), 48_000), 32_000, "a").samples
        np.testing.assert_allclose(many, mono, rtol=0, atol=1e-6)
