from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from e2i.datasets.soundscapes.config import SoundscapesConfig
from e2i.datasets.soundscapes.generate import describe
from e2i.datasets.soundscapes.rendering import render, render_wav, wav_size_bytes
from e2i.datasets.soundscapes.scenes import Background, Composition, Part

SCENES = describe(SoundscapesConfig(num_evaluation=30), "evaluation")


def _level(samples):
    return float(np.sqrt(np.mean(np.square(samples.astype(np.float64)))))


def _rng():
    return np.random.default_rng(4)


@pytest.mark.parametrize("scene", SCENES[:24], ids=lambda scene: str(scene.index))
def test_a_recording_is_what_was_announced(scene):
    data = render_wav(scene.composition, _rng())
    assert len(data) == wav_size_bytes(scene.composition)
    info = soundfile.info(io.BytesIO(data))
    assert (info.samplerate, info.format, info.subtype) == (44_100, "WAV", "PCM_16")
    assert info.channels == scene.composition.num_channels
    assert info.duration == pytest.approx(scene.composition.duration_s, abs=1 / 44_100)
    samples, _ = soundfile.read(io.BytesIO(data), dtype="int16", always_2d=True)
    assert 1_000 < np.abs(samples.astype(np.int32)).max() < 32_000
    assert (np.abs(samples[[0, -1]]) < 400).all()


def test_some_recordings_are_stereo_with_two_different_channels():
    stereo = [scene for scene in SCENES if scene.composition.num_channels == 2]
    assert 0 < len(stereo) < len(SCENES) / 2
    samples = render(stereo[0].composition, _rng())
    assert not np.array_equal(samples[:, 0], samples[:, 1])


BARKS = Part("dog", 0.5, 1.3, (0.0, 0.5, 1.0), "plain", "steady")
ALONE = Composition("then", (BARKS,), None, 3.0, 1)


def test_hits_are_heard_one_by_one():
    samples = render(ALONE, _rng())[:, 0].astype(np.float64)
    frames = np.array([_level(frame) for frame in np.array_split(samples, 60)])  # 50 ms each
    loud = frames > 0.2 * frames.max()
    begins = np.flatnonzero(loud[1:] & ~loud[:-1]) + 1
    np.testing.assert_allclose(begins * 0.05, [0.5, 1.0, 1.5], atol=0.051)


def test_far_is_fainter_and_duller_than_near():
    heard = {}
    for distance in ("near", "plain", "far"):
        part = replace(BARKS, distance=distance)
        heard[distance] = render(replace(ALONE, parts=(part,)), _rng())[:, 0].astype(np.float64)
    assert _level(heard["near"]) > 1.4 * _level(heard["plain"]) > 2.5 * _level(heard["far"])

    def brightness(samples):
        power = np.abs(np.fft.rfft(samples)) ** 2
        return power[6000:].sum() / power.sum()  # above 2 kHz: bins are 1/3 Hz wide

    assert brightness(heard["far"]) < 0.6 * brightness(heard["near"])


@pytest.mark.parametrize(("change", "sign"), [("rising", 1), ("fading", -1)])
def test_a_run_changes_its_level(change, sign):
    part = Part("siren", 0.1, 2.5, (), "plain", change)
    samples = render(replace(ALONE, parts=(part,)), _rng())[:, 0]
    early, late = _level(samples[11_025:33_075]), _level(samples[77_175:99_225])
    assert sign * np.log10(late / early) > 0.4


def test_strong_backgrounds_are_louder_than_soft_ones():
    soft, strong = (
        _level(render(replace(ALONE, background=Background("rain", strong=strong)), _rng())[:8_000])
        for strong in (False, True)
    )
    assert strong > 1.9 * soft
    assert soft > 5 * _level(render(ALONE, _rng())[:8_000])


def test_another_chance_gives_another_waveform():
    first, second = (render(ALONE, np.random.default_rng(seed))[:, 0] for seed in (1, 2))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.5
