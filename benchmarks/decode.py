"""Decoding and resampling: recordings a second, beside the way of the original.

    .venv/bin/python benchmarks/decode.py [--clips 100] [--seconds 20] [--rounds 5]

Generates recordings (44.1 kHz, 16 bits, stereo) and makes 32 kHz waveforms of all of them, in
rounds that take turns: threads of this process with torchaudio's transform, which is how it was
done before; threads with e2i's filter; and e2i's decoding processes. The median round counts.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import soundfile
import torch
import torchaudio

from e2i.audio import load_waveform
from e2i.cores import usable_cores
from e2i.decoding.pool import DecodingPool

SOURCE_HZ, TARGET_HZ = 44_100, 32_000


def generate(clips: int, seconds: float) -> list[bytes]:
    rng = np.random.default_rng(0)
    recordings = []
    for _ in range(clips):
        file = io.BytesIO()
        samples = rng.integers(-9_000, 9_000, (round(seconds * SOURCE_HZ), 2), dtype=np.int16)
        soundfile.write(file, samples, SOURCE_HZ, format="WAV")
        recordings.append(file.getvalue())
    return recordings


def with_torchaudio(recording: bytes) -> int:
    channels, rate_hz = soundfile.read(io.BytesIO(recording), dtype="float32", always_2d=True)
    transform = _transform(rate_hz)
    with torch.inference_mode():
        return len(transform(torch.from_numpy(channels.mean(axis=1))))


_transforms: dict[int, torchaudio.transforms.Resample] = {}


def _transform(rate_hz: int) -> torchaudio.transforms.Resample:
    if rate_hz not in _transforms:
        _transforms[rate_hz] = torchaudio.transforms.Resample(
            rate_hz, TARGET_HZ, dtype=torch.float32
        )
    return _transforms[rate_hz]


def seconds_for(load: Callable[[bytes], object], recordings: list[bytes], at_once: int) -> float:
    started = time.perf_counter()
    with ThreadPoolExecutor(at_once) as threads:
        for _ in threads.map(load, recordings):
            pass
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    recordings = generate(options.clips, options.seconds)
    cores = usable_cores()
    torch.set_num_threads(1)
    pool, one = DecodingPool(cores), DecodingPool(1)
    ways: dict[str, tuple[Callable[[bytes], object], int]] = {
        "2 threads, torchaudio": (with_torchaudio, 2),
        "2 threads, e2i's filter": (lambda data: load_waveform(data, TARGET_HZ, "a"), 2),
        "1 process": (lambda data: one.load(data, TARGET_HZ, "a"), 1),
        f"{cores} processes": (lambda data: pool.load(data, TARGET_HZ, "a"), cores),
    }
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for load, at_once in ways.values():
        seconds_for(load, recordings[:4], at_once)
    for _ in range(options.rounds):
        for way, (load, at_once) in ways.items():
            taken[way].append(seconds_for(load, recordings, at_once))
    first = statistics.median(taken["2 threads, torchaudio"])
    sys.stdout.write(
        f"{options.clips} clips of {options.seconds:g} s, {SOURCE_HZ:,} Hz to {TARGET_HZ:,} Hz, "
        f"{cores} cores ({os.uname().machine}), load {os.getloadavg()[0]:.1f}\n"
    )
    for way, times in taken.items():
        median = statistics.median(times)
        sys.stdout.write(
            f"{way:<26}{options.clips / median:8.1f} clips/s   x {first / median:.2f}\n"
        )
    pool.close()
    one.close()


if __name__ == "__main__":
    main()
