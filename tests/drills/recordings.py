"""A small data set of recordings in Clotho's form, as foreign as recordings are."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import soundfile

FOREIGN = (
    # rate in Hz, channels, seconds
    (8_000, 1, 0.2),
    (11_127, 1, 3.0),
    (16_000, 2, 5.0),
    (22_050, 1, 1.3),
    (44_100, 2, 12.0),
    (48_000, 1, 60.0),
    (96_000, 2, 2.0),
)
WORDS = ("hum", "rattle", "hiss", "clang", "murmur", "whistle", "knock")


def write_data_set(root: Path, num_clips: int, *, foreign: bool = False, seed: int = 0) -> Path:
    """Write recordings and their captions; the caption file."""
    rng = np.random.default_rng(seed)
    audio = root / "clotho_audio_files" / "development"
    audio.mkdir(parents=True)
    metadata = root / "clotho_csv_files" / "clotho_captions_development.csv"
    metadata.parent.mkdir()
    with metadata.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", *(f"caption_{n}" for n in range(1, 6))])
        for index in range(num_clips):
            rate, channels, seconds = FOREIGN[index % len(FOREIGN)] if foreign else (8_000, 1, 0.5)
            word = WORDS[index % len(WORDS)]
            name = f"{word} #{index} [100%].wav"
            _write_wav(audio / name, rate, channels, seconds, index, rng)
            writer.writerow([name, *(f"A {word}, number {index}, take {n}" for n in range(5))])
    return metadata


def _write_wav(
    path: Path, rate: int, channels: int, seconds: float, index: int, rng: np.random.Generator
) -> None:
    time = np.arange(int(rate * seconds)) / rate
    tone = 0.3 * np.sin(2 * np.pi * (200 + 37 * index) * time)
    noise = 0.02 * rng.standard_normal((len(time), channels))
    soundfile.write(path, tone[:, None] + noise, rate)
