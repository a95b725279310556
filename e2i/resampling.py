"""Change of sample rate, the same at every pair of rates: torchaudio's default interpolation.

Conventions: rates are integers in Hz; waveforms are float32 `(T,)`; T samples become
⌈T · target / source⌉.

The filter is a windowed sinc (Hann window, 6 zero crossings a side, roll-off 0.99). torchaudio
stores it as one row of `2 · width + source` weights per output phase, nearly all of them zero. For
rates that share few factors (11,127 Hz to 32,000 Hz) that is 12 GB; there the same filter is
evaluated here at the weights that are not zero, half a million of them. Which of the two is taken
depends on the pair of rates alone. torchaudio's samples are those of
`torchaudio.functional.resample`, bit for bit; it rounds the filter's phases to float32, which these
weights do not, so the two differ by about 1e-4 of full scale at most.

Source: `torchaudio.functional.resample`; J. O. Smith, "Digital Audio Resampling Home Page".
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torchaudio

RESAMPLER = "torchaudio sinc_interp_hann width=6 rolloff=0.99"
"""Name and parameters, for fingerprints."""

_ZERO_CROSSINGS = 6
_ROLLOFF = 0.99
_DENSE_LIMIT = 2**20
"""Largest kernel, in weights, that is left to torchaudio."""
_BLOCK = 2**16
"""Output samples evaluated at a time."""


def resample(samples: NDArray[np.float32], source_hz: int, target_hz: int) -> NDArray[np.float32]:
    """Resample one waveform.

    Args:
        samples: float32 (T,), T ≥ 1.
        source_hz: its rate, at least 1.
        target_hz: the rate wanted, at least 1.

    Returns:
        float32 (⌈T · target_hz / source_hz⌉,); the input itself where the rates are equal.
    """
    if source_hz == target_hz:
        return samples
    shared = math.gcd(source_hz, target_hz)
    source, target = source_hz // shared, target_hz // shared
    if target * (2 * _width(source, target) + source) <= _DENSE_LIMIT:
        return _resample_dense(samples, source, target)
    return _resample_sparse(samples, source, target)


def _width(source: int, target: int) -> int:
    """Input samples that the filter reaches to either side."""
    return math.ceil(_ZERO_CROSSINGS * source / (min(source, target) * _ROLLOFF))


def _resample_dense(samples: NDArray[np.float32], source: int, target: int) -> NDArray[np.float32]:
    import torch  # noqa: PLC0415 - seconds; settings are read without it

    with torch.inference_mode():
        waveform = torch.from_numpy(np.ascontiguousarray(samples))
        resampled: NDArray[np.float32] = _transform(source, target)(waveform).numpy()
    return resampled


@lru_cache(maxsize=16)
def _transform(source: int, target: int) -> torchaudio.transforms.Resample:
    import torch  # noqa: PLC0415
    import torchaudio  # noqa: PLC0415

    return torchaudio.transforms.Resample(
        source,
        target,
        resampling_method="sinc_interp_hann",
        lowpass_filter_width=_ZERO_CROSSINGS,
        rolloff=_ROLLOFF,
        dtype=torch.float32,  # as the functional form computes its kernel for float32 waveforms
    )


@lru_cache(maxsize=8)
def _phase_weights(source: int, target: int) -> NDArray[np.float32]:
    """(target, taps) weights: row p is for the outputs j with j mod target = p."""
    width = _width(source, target)
    cutoff = min(source, target) * _ROLLOFF
    weights = np.empty((target, 2 * width + 2), dtype=np.float32)
    taps = np.arange(2 * width + 2)
    for start in range(0, target, _BLOCK // 16):
        phase = np.arange(start, min(target, start + _BLOCK // 16))[:, None]
        first = phase * source // target - width
        distance = ((first + taps) * target - phase * source) / (source * target) * cutoff
        distance = np.clip(distance, -_ZERO_CROSSINGS, _ZERO_CROSSINGS)
        hann = np.cos(distance * (math.pi / (2 * _ZERO_CROSSINGS))) ** 2
        weights[phase[:, 0]] = np.sinc(distance) * hann * (cutoff / source)
    weights.flags.writeable = False
    return weights


def _resample_sparse(samples: NDArray[np.float32], source: int, target: int) -> NDArray[np.float32]:
    """Output j is the filter centered at input j · source / target; rates without common factor."""
    weights = _phase_weights(source, target)
    width, taps = _width(source, target), weights.shape[1]
    length = -(-len(samples) * target // source)
    last_start = (length - 1) * source // target
    padded = np.zeros(max(last_start + taps, width + len(samples)), dtype=np.float32)
    padded[width : width + len(samples)] = samples
    windows = sliding_window_view(padded, taps)
    resampled = np.empty(length, dtype=np.float32)
    block = max(1, _BLOCK * 16 // taps)
    for start in range(0, length, block):
        outputs = np.arange(start, min(length, start + block), dtype=np.int64)
        heard = windows[outputs * source // target]
        resampled[start : start + len(outputs)] = np.einsum(
            "jt,jt->j", heard, weights[outputs % target]
        )
    return resampled
