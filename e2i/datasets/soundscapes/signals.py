"""What sounds are made of: shaped noise, tones, ringing modes, and sums of them.

Conventions: 44,100 Hz; a signal is float64 `(T,)`, without any bound on its level until it is
mixed. All chance comes from the generator handed in. Double precision, so that the last bits in
which machines differ vanish when a recording is rounded to 16 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Signal = NDArray[np.float64]

SAMPLE_RATE_HZ = 44_100
_TABLE_LENGTH = 8192


def num_samples(seconds: float) -> int:
    """Samples that last so long, rounded."""
    return round(seconds * SAMPLE_RATE_HZ)


def time_axis(length: int) -> Signal:
    """(length,) seconds since the first sample."""
    return np.arange(length, dtype=np.float64) / SAMPLE_RATE_HZ


def add(track: Signal, at: int, sound: Signal, gain: float = 1.0) -> None:
    """Add a sound to a track in place; what reaches over the track's ends is dropped."""
    begin, end = max(at, 0), min(at + sound.size, track.size)
    if begin < end:
        track[begin:end] += gain * sound[begin - at : end - at]


def decay(length: int, time_constant_s: float) -> Signal:
    """(length,) falling from 1 by a factor of e each `time_constant_s`."""
    return np.exp(time_axis(length) / -time_constant_s)


def arch(length: int, sharpness: float = 1.0) -> Signal:
    """(length,) rising from 0 and falling back: half a sine to the power of `sharpness`."""
    return np.sin(np.linspace(0.0, np.pi, length)).clip(0.0) ** sharpness


def flat(length: int, ramp_s: float = 0.008) -> Signal:
    """(length,) ones with short ramps at both ends, against clicks."""
    ramp = min(num_samples(ramp_s), length // 2)
    envelope = np.ones(length)
    if ramp:
        slope = (np.arange(ramp) + 0.5) / ramp
        envelope[:ramp] = slope
        envelope[-ramp:] = slope[::-1]
    return envelope


def wander(rng: Generator, length: int, rate_hz: float, low: float, high: float) -> Signal:
    """(length,) a smooth random course between two values, about `rate_hz` turns a second."""
    knots = max(3, int(length / SAMPLE_RATE_HZ * rate_hz) + 3)
    heights = rng.uniform(low, high, knots)
    return np.interp(np.linspace(0.0, knots - 1.0, length), np.arange(knots), heights)


def tone(frequency_hz: float | Signal, length: int, harmonics: Sequence[float] = (1.0,)) -> Signal:
    """(length,) a periodic tone.

    Args:
        frequency_hz: constant, or its course (length,).
        length: samples.
        harmonics: amplitudes of the fundamental and the harmonics above; they share one phase.
    """
    table = _cycle(tuple(harmonics))
    if isinstance(frequency_hz, float | int):
        phase = np.arange(length) * (frequency_hz / SAMPLE_RATE_HZ)
    else:
        phase = np.cumsum(frequency_hz) / SAMPLE_RATE_HZ
    return np.take(table, (phase * _TABLE_LENGTH).astype(np.int64) & (_TABLE_LENGTH - 1))


def ringing(length: int, modes: Sequence[tuple[float, float, float]]) -> Signal:
    """(length,) damped sines, as of a struck body.

    Args:
        length: samples.
        modes: frequency in Hz, amplitude, and time constant in seconds of each.
    """
    out = np.zeros(length)
    for frequency_hz, amplitude, time_constant_s in modes:
        audible = min(length, num_samples(7.0 * time_constant_s))
        out[:audible] += amplitude * tone(frequency_hz, audible) * decay(audible, time_constant_s)
    return out


def shaped_noise(rng: Generator, length: int, shape: Sequence[tuple[float, float]]) -> Signal:
    """(length,) Gaussian noise with a given spectrum, root mean square 1.

    Args:
        rng: source of chance.
        length: samples.
        shape: (Hz, dB) points with rising Hz, joined by lines over log frequency; constant
            outside of them.
    """
    size = _fast_length(length)
    log_hz = _log_frequencies(size)
    gain_db = np.interp(log_hz, [np.log(hz) for hz, _ in shape], [db for _, db in shape])
    # Sums of so many even draws are Gaussian, and come in half the time of Gaussian ones.
    spectrum = (rng.random(2 * log_hz.size) - 0.5).view(np.complex128)
    spectrum *= np.exp(gain_db * (np.log(10.0) / 20.0))
    spectrum[0] = 0.0
    noise = np.fft.irfft(spectrum, size)[:length]
    return noise / max(rms(noise), 1e-12)


def low_passed(signal: Signal, cutoff_hz: float) -> Signal:
    """The same signal behind a gentle low-pass (6 dB an octave), as air and distance do it."""
    size = _fast_length(signal.size + num_samples(0.01))
    hz = np.fft.rfftfreq(size, 1.0 / SAMPLE_RATE_HZ)
    spectrum = np.fft.rfft(signal, size) / np.sqrt(1.0 + (hz / cutoff_hz) ** 2)
    return np.fft.irfft(spectrum, size)[: signal.size]


def rms(signal: Signal) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(signal))))


@lru_cache(maxsize=64)
def _cycle(harmonics: tuple[float, ...]) -> Signal:
    """One period of a tone."""
    angle = np.arange(_TABLE_LENGTH) * (2.0 * np.pi / _TABLE_LENGTH)
    table = np.zeros(_TABLE_LENGTH)
    for order, amplitude in enumerate(harmonics, start=1):
        if amplitude:
            table += amplitude * np.sin(order * angle)
    table.setflags(write=False)
    return table


def _fast_length(length: int) -> int:
    """The next length that transforms quickly, at most a quarter longer."""
    power = 1 << max(4, (length - 1).bit_length() - 1)
    return next(
        size for size in (power, power * 5 // 4, power * 3 // 2, power * 2) if size >= length
    )


@lru_cache(maxsize=32)
def _log_frequencies(size: int) -> Signal:
    """Log of the frequencies of a real transform; the zeroth stands in for the first."""
    hz = np.fft.rfftfreq(size, 1.0 / SAMPLE_RATE_HZ)
    hz[0] = hz[1]
    logs: Signal = np.log(hz)
    logs.setflags(write=False)
    return logs
