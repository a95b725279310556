"""Recordings at the edges of what there is: each has a defined embedding or a named failure."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

RATES = (4_000, 8_000, 11_025, 11_127, 16_000, 22_050, 31_999, 44_100, 48_000, 96_000, 192_000)
SECONDS = (0.05, 0.2, 1.0, 10.0, 31.0)


class Extreme(NamedTuple):
    """One recording.

    Attributes:
        name: of the case.
        data: the file.
        duration_s: its length, in seconds.
        refusal: words of the failure; empty where there is to be an embedding.
    """

    name: str
    data: bytes
    duration_s: float
    refusal: str = ""


def chirp(seconds: float, rate: int, channels: int = 1) -> NDArray[np.float64]:
    """From 100 Hz up to 1.5 kHz, (T, channels)."""
    time_s = np.arange(max(1, round(seconds * rate))) / rate
    phase = 2 * np.pi * (100 * time_s + 700 * time_s**2 / max(seconds, 1e-3))
    return np.tile(0.3 * np.sin(phase)[:, None], channels)


def stored(samples: NDArray[np.float64], rate: int, subtype: str = "FLOAT") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype=subtype)
    return file.getvalue()


def _levels() -> list[Extreme]:
    square = np.sign(chirp(0.5, 44_100) + 1e-9)
    with_nan, with_inf = chirp(0.5, 44_100), chirp(0.5, 44_100)
    with_nan[7_000], with_inf[7_000] = np.nan, np.inf
    impulse = np.zeros((22_050, 1))
    impulse[11_000] = 1
    sounds = {
        "silence": np.zeros((22_050, 2)),
        "clipping": square,
        "clipping, far over full scale": 1000 * square,
        "an offset alone": np.full((22_050, 1), 0.7),
        "a sound on an offset": chirp(0.5, 44_100) + 0.6,
        "an offset over full scale": np.full((22_050, 1), -40.0),
        "an impulse": impulse,
        "denormal numbers": 1e-42 * square,
        "channels that cancel": np.hstack([square, -square]),
        "loud beyond reason": 1e29 * square,
    }
    return [
        *(Extreme(name, stored(sound, 44_100), 0.5) for name, sound in sounds.items()),
        Extreme("NaN", stored(with_nan, 44_100), 0.5, "not finite: got nan at sample 7,000"),
        Extreme("infinity", stored(with_inf, 44_100), 0.5, "not finite: got inf at sample 7,000"),
        Extreme("the largest floats", stored(3.4e38 * square, 44_100), 0.5, "too loud to compute"),
        Extreme(
            "two of the largest floats",
            stored(np.hstack([3.4e38 * square] * 2), 44_100),
            0.5,
            "too loud to compute with: got a peak of inf times full scale, expected at most 1e+30",
        ),
        Extreme("no samples", stored(np.zeros((0, 1)), 44_100), 0, "has no samples: got 0"),
        Extreme("no bytes", b"", 0, "is empty: got 0 bytes"),
        Extreme("8 bits", stored(chirp(0.5, 8_000), 8_000, "PCM_U8"), 0.5),
        Extreme("24 bits", stored(chirp(0.5, 96_000), 96_000, "PCM_24"), 0.5),
    ]


def extremes() -> list[Extreme]:
    """All of them, an hour-long one left out."""
    return [
        *(Extreme(f"{rate} Hz", stored(chirp(1, rate), rate), 1.0) for rate in RATES),
        *(Extreme(f"{s} s", stored(chirp(s, 44_100), 44_100), s) for s in SECONDS),
        *(
            Extreme(f"{channels} channels", stored(chirp(0.5, 48_000, channels), 48_000), 0.5)
            for channels in range(1, 7)
        ),
        *(
            Extreme(f"a sample at {rate} Hz", stored(np.full((1, 1), 0.5), rate), 1 / rate)
            for rate in RATES
        ),
        *_levels(),
    ]
