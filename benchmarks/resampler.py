"""The resamplers' quality, measured: what passes, what is kept out, and how they compare.

    .venv/bin/python benchmarks/resampler.py

For each pair of rates, tones are resampled and their level read from a windowed Fourier transform
of the middle of the result. Pass band: how far tones up to so many Hz are from their own level, in
dB. Edge: where a tone has lost 3 dB. Stop band: how much of a tone that the new rate cannot hold,
or of the images that a higher rate brings, is left, in dB below the tone. Error against soxr VHQ:
the difference of the two outputs for noise within the band named, in dB below the noise.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from e2i.resampling import ResamplerName, resample

TARGET_HZ = 32_000
RATES_HZ = (8_000, 16_000, 22_050, 44_100, 48_000, 96_000, 192_000)
SECONDS = 1.0
TONES = 40


class Quality(NamedTuple):
    """What one resampler does at one pair of rates; all in dB but the edge.

    Attributes:
        inner_db: largest deviation of tones up to 0.8 of the lower Nyquist frequency.
        outer_db: the same up to 0.9 of it.
        edge_share: where a tone has lost 3 dB, as a share of that frequency.
        stop_db: most of what is left of a tone from 1.1 of it on, or of its images there.
        far_db: the same from 1.5 of it on; NaN where there is nothing.
        against_soxr_db: difference to soxr VHQ, for noise up to 0.8 of it.
    """

    inner_db: float
    outer_db: float
    edge_share: float
    stop_db: float
    far_db: float
    against_soxr_db: float


def measure(source_hz: int, resampler: ResamplerName, target_hz: int = TARGET_HZ) -> Quality:
    """Quality of a resampler at one pair of rates."""
    nyquist_hz = min(source_hz, target_hz) / 2

    def passed(share: float) -> float:
        return _tone(share * nyquist_hz, source_hz, target_hz, resampler)[0]

    inner = max(abs(passed(share)) for share in np.linspace(0.02, 0.8, TONES))
    outer = max(inner, *(abs(passed(share)) for share in np.linspace(0.8, 0.9, TONES // 2)))
    shares = np.linspace(0.85, 1.05, 81)
    edge = next(share for share in shares if passed(share) < -3)
    kept_out = [
        (share, _unwanted(share * nyquist_hz, source_hz, target_hz, resampler))
        for share in _stop_shares(source_hz, target_hz, nyquist_hz)
    ]
    far = [level for share, level in kept_out if share >= 1.5]
    return Quality(
        inner_db=inner,
        outer_db=outer,
        edge_share=float(edge),
        stop_db=max(level for _, level in kept_out),
        far_db=max(far) if far else float("nan"),
        against_soxr_db=_difference(source_hz, target_hz, resampler, 0.8 * nyquist_hz),
    )


def _stop_shares(source_hz: int, target_hz: int, nyquist_hz: float) -> NDArray[np.float64]:
    """Frequencies beyond the lower Nyquist frequency that the higher rate can hold, as shares.

    A lower rate has to keep tones out from there on. A higher one brings images: of a tone at
    share s, the nearest is at 2 - s.
    """
    highest = max(source_hz, target_hz) / 2 / nyquist_hz
    top = min(highest, 2.0) - 0.02 if source_hz < target_hz else highest - 0.02
    return np.linspace(1.1, max(1.1, top), TONES)


def _unwanted(hz: float, source_hz: int, target_hz: int, resampler: ResamplerName) -> float:
    """What is left at a frequency, in dB below the tone that it comes from."""
    if source_hz > target_hz:
        return _tone(hz, source_hz, target_hz, resampler)[1]
    return _tone(source_hz - hz, source_hz, target_hz, resampler, heard_hz=hz)[0]


def _tone(
    hz: float,
    source_hz: int,
    target_hz: int,
    resampler: ResamplerName,
    heard_hz: float | None = None,
) -> tuple[float, float]:
    """Level at the tone's frequency (or another one), and of all together; dB below the tone."""
    time_s = np.arange(round(SECONDS * source_hz)) / source_hz
    tone = np.sin(2 * np.pi * hz * time_s).astype(np.float32)
    heard = resample(tone, source_hz, target_hz, resampler).astype(np.float64)
    middle = heard[len(heard) // 8 : -len(heard) // 8]
    window = np.blackman(len(middle))
    phase = np.exp(-2j * np.pi * (heard_hz or hz) / target_hz * np.arange(len(middle)))
    at_tone = 2 * abs((middle * window * phase).sum()) / window.sum()
    level = np.sqrt(2 * np.mean(middle**2))
    return tuple(20 * np.log10(np.maximum([at_tone, level], 1e-9)))


def _difference(
    source_hz: int, target_hz: int, resampler: ResamplerName, highest_hz: float
) -> float:
    """Of noise up to a frequency: the output less that of soxr VHQ, in dB below the output."""
    samples = round(SECONDS * source_hz)
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(samples))
    spectrum[np.fft.rfftfreq(samples, 1 / source_hz) > highest_hz] = 0
    noise = np.fft.irfft(spectrum, samples).astype(np.float32)
    noise *= np.float32(0.25) / noise.std()
    ours, theirs = (
        resample(noise, source_hz, target_hz, name).astype(np.float64)
        for name in (resampler, "soxr")
    )
    inner = slice(len(ours) // 8, -len(ours) // 8)
    error = np.sqrt(np.mean((ours - theirs)[inner] ** 2) / np.mean(theirs[inner] ** 2))
    return float(20 * np.log10(max(error, 1e-9)))


def table(rates_hz: Sequence[int] = RATES_HZ) -> str:
    """The measurements of both resamplers as a Markdown table."""
    lines = [
        "| to 32 kHz from | resampler | up to 0.8 of the band | up to 0.9 | loses 3 dB at | "
        "stop band from 1.1 on | from 1.5 on | error against soxr VHQ |",
        "|---|---|---|---|---|---|---|---|",
    ]
    names: tuple[ResamplerName, ...] = ("torchaudio", "soxr")
    for rate_hz in rates_hz:
        for name in names:
            found = measure(rate_hz, name)
            far = "–" if np.isnan(found.far_db) else f"{found.far_db:.0f} dB"
            against = "–" if name == "soxr" else f"{found.against_soxr_db:.0f} dB"
            lines.append(
                f"| {rate_hz:,} Hz | {name} | ±{found.inner_db:.3f} dB | ±{found.outer_db:.2f} dB "
                f"| {found.edge_share:.3f} | {found.stop_db:.0f} dB | {far} | {against} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")
