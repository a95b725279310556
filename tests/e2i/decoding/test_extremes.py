"""The edges of what there is, from file to embedding: a result, or a failure with a name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from e2i.audio import load_waveform
from e2i.decoding.pool import DecodingPool
from e2i.encoders.logmel import LogMelEncoder
from e2i.encoders.passt import PasstEncoder, PasstOptions
from e2i.encoders.passt_architectures import ARCHITECTURES, DEFAULT
from e2i.encoders.protocols import AudioEncoder
from e2i.encoders.weights import find_weights
from e2i.errors import AudioError
from e2i.resampling import ResamplerName
from extreme_recordings import RATES, Extreme, chirp, extremes, stored
from passt_weights import save_weights


@pytest.fixture(scope="module")
def pool() -> Iterator[DecodingPool]:
    pool = DecodingPool(2)
    yield pool
    pool.close()


def small_passt(folder: Path) -> PasstEncoder:
    """PaSST of two blocks and windows of a second, by random weights."""
    architecture = replace(
        ARCHITECTURES[DEFAULT], name="short", depth=2, frames=100, window_s=1.0, hop_s=0.25
    )
    path = save_weights(folder / "short.pt", architecture)
    weights = find_weights(str(path), {}, str(folder), option="--audio-weights")
    return PasstEncoder(PasstOptions(architecture), weights)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, AudioEncoder]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield {"logmel": LogMelEncoder(), "passt": small_passt(tmp_path_factory.mktemp("weights"))}
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("encoder", "resampler"), [("logmel", "torchaudio"), ("logmel", "soxr"), ("passt", "soxr")]
)
@pytest.mark.parametrize("case", extremes(), ids=lambda case: case.name)
def test_an_embedding_or_a_named_failure(
    pool: DecodingPool,
    encoders: dict[str, AudioEncoder],
    case: Extreme,
    encoder: str,
    resampler: ResamplerName,
) -> None:
    check(pool, encoders[encoder], case, resampler)


def check(
    pool: DecodingPool, encoder: AudioEncoder, case: Extreme, resampler: ResamplerName
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
