"""From a composition to the recording: levels, distance, the room's noise, 16-bit samples.

Conventions: a recording is int16 `(T, C)` at 44,100 Hz, C 1 or 2, and never reaches full scale.
Hits are leveled by their peak, what lasts by its root mean square. Far is 14 dB below near, and
dull; rising and fading run over 20 dB.
"""

from __future__ import annotations

import io

import numpy as np
import soundfile
from numpy.random import Generator
from numpy.typing import NDArray

from e2i.datasets.soundscapes.events import HITS, RUNS, TEXTURES
from e2i.datasets.soundscapes.scenes import Background, Composition, Part
from e2i.datasets.soundscapes.signals import (
    SAMPLE_RATE_HZ,
    Signal,
    add,
    flat,
    low_passed,
    num_samples,
    rms,
)

_LEVEL = {"near": 0.85, "plain": 0.45, "far": 0.17}
_RUN_RMS = 0.2
_HEADROOM = 0.97
_HEADER_BYTES = 44
_FADE = num_samples(0.08)


def wav_size_bytes(composition: Composition) -> int:
    """Size of the WAV file of a composition, known before it is rendered."""
    return _HEADER_BYTES + 2 * composition.num_channels * composition.num_samples


def render_wav(composition: Composition, rng: Generator) -> bytes:
    """The WAV file of a composition: 16-bit PCM, 44,100 Hz."""
    buffer = io.BytesIO()
    samples = render(composition, rng)
    soundfile.write(buffer, samples, SAMPLE_RATE_HZ, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def render(composition: Composition, rng: Generator) -> NDArray[np.int16]:
    """The recording of a composition, (T, C) int16."""
    length, channels = composition.num_samples, composition.num_channels
    mix = np.zeros((channels, length))
    for part in composition.parts:
        sound = _part(part, rng, length - num_samples(part.onset_s))
        for channel, gain in enumerate(_pan(rng, channels)):
            add(mix[channel], num_samples(part.onset_s), sound, gain)
    if composition.background is not None:
        sound = _background(composition.background, rng, length)
        for channel, gain in enumerate(_pan(rng, channels)):
            mix[channel] += gain * sound
    mix += (rng.random((channels, length)) - 0.5) * 10.0 ** (rng.uniform(-70.0, -56.0) / 20.0)
    mix *= 10.0 ** (rng.uniform(-5.0, 2.0) / 20.0) * flat(length)
    mix *= min(1.0, _HEADROOM / float(np.abs(mix).max()))
    return np.rint(mix.T * 32767.0).astype(np.int16)


def _part(part: Part, rng: Generator, room: int) -> Signal:
    """One foreground event, ringing on as long as the clip has room for it."""
    if part.kind in RUNS:
        sound = RUNS[part.kind](rng, min(room, num_samples(part.duration_s)))
        sound *= _RUN_RMS / rms(sound)
        sound *= min(1.0, 1.6 / float(np.abs(sound).max()))
    else:
        length = min(room, num_samples(part.duration_s + 1.0))
        sound = HITS[part.kind].make(rng, length, [num_samples(at) for at in part.hits_s])
        sound[-_FADE:] *= np.linspace(1.0, 0.0, _FADE)
        sound /= float(np.abs(sound).max())
    if part.change != "steady":
        ramp = 10.0 ** (np.linspace(-20.0, 0.0, sound.size) / 20.0)
        sound *= 1.3 * (ramp if part.change == "rising" else ramp[::-1])
    if part.distance == "far":
        level = rms(sound)
        sound = low_passed(sound, rng.uniform(700.0, 1300.0))
        sound *= level / rms(sound)
    return sound * (_LEVEL[part.distance] * rng.uniform(0.85, 1.15))


def _background(background: Background, rng: Generator, length: int) -> Signal:
    """The texture below it all; soft and strong do not meet."""
    sound = TEXTURES[background.kind](rng, length)
    level = rng.uniform(0.045, 0.065) if background.strong else rng.uniform(0.012, 0.022)
    return sound * (level / rms(sound))


def _pan(rng: Generator, channels: int) -> tuple[float, ...]:
    """Gains of constant power."""
    if channels == 1:
        return (1.0,)
    angle = rng.uniform(0.15, 0.85) * np.pi / 2.0
    return float(np.cos(angle)), float(np.sin(angle))
