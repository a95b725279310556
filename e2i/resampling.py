"""Change of sample rate: torchaudio's default interpolation, or soxr VHQ; whole or block by block.

Conventions: rates are integers in Hz; waveforms are float32 `(T,)`; T samples become
⌈T · target / source⌉. How a waveform is cut into blocks never shows in the result, bit for bit.

torchaudio's default is a windowed sinc (Hann window, 6 zero crossings a side, roll-off 0.99). It
stores one row of `2 · width + source` weights per output phase, nearly all of them zero, and needs
torch. Here the same weights are computed with NumPy, rounded to float32 where torchaudio rounds
them, and only those that are not zero are multiplied: neighboring phases at a time, by matrix
products. The result is that of `torchaudio.functional.resample` to 1e-6 of full scale.

For rates that share few factors (11,127 Hz to 32,000 Hz) torchaudio's rows take 12 GB; there the
weights are evaluated in double precision, half a million of them. torchaudio rounds the filter's
phases to float32, so the two differ by about 1e-4 of full scale at most. Which of the two is taken
depends on the pair of rates alone.

`benchmarks/resampler.py` measures both against each other.

Source: `torchaudio.functional.resample`; J. O. Smith, "Digital Audio Resampling Home Page"; the SoX
resampler library (soxr).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import lru_cache
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.lib.stride_tricks import as_strided, sliding_window_view
from numpy.typing import NDArray

Array = NDArray[np.float32]

ResamplerName = Literal["torchaudio", "soxr"]

RESAMPLERS: dict[ResamplerName, str] = {
    "torchaudio": "torchaudio sinc_interp_hann width=6 rolloff=0.99",
    "soxr": "soxr VHQ",
}
"""Name and parameters of each, for fingerprints."""

_ZERO_CROSSINGS = 6
_ROLLOFF = 0.99
_DENSE_LIMIT = 2**20
"""Largest kernel, in weights, that is rounded as torchaudio does."""
_GROUP = 16
"""Output phases of one matrix product."""
_BLOCK_SAMPLES = 2**16
"""Input samples evaluated at a time."""
_GATHERED = 2**20
"""Weights of the sparse filter that are gathered at a time."""


class StreamResampler(Protocol):
    """Resamples one waveform, block by block."""

    def push(self, samples: Array) -> Array:
        """The next samples in, and what can be told of the output by now."""
        ...

    def finish(self) -> Array:
        """The rest of the output; beyond its ends the waveform is zero."""
        ...


def open_resampler(
    source_hz: int, target_hz: int, resampler: ResamplerName = "torchaudio"
) -> StreamResampler:
    """A resampler for one waveform.

    Args:
        source_hz: its rate, at least 1.
        target_hz: the rate wanted, at least 1.
        resampler: which.
    """
    if source_hz == target_hz:
        return _Same()
    shared = math.gcd(source_hz, target_hz)
    source, target = source_hz // shared, target_hz // shared
    if resampler == "soxr":
        return _Soxr(source, target)
    if target * (2 * _width(source, target) + source) <= _DENSE_LIMIT:
        return _DenseFilter(source, target)
    return _SparseFilter(source, target)


def resample(
    samples: Array, source_hz: int, target_hz: int, resampler: ResamplerName = "torchaudio"
) -> Array:
    """Resample one waveform.

    Args:
        samples: float32 (T,), T ≥ 1.
        source_hz: its rate, at least 1.
        target_hz: the rate wanted, at least 1.
        resampler: which.

    Returns:
        float32 (⌈T · target_hz / source_hz⌉,); the input itself where the rates are equal.
    """
    if source_hz == target_hz:
        return samples
    stream = open_resampler(source_hz, target_hz, resampler)
    return np.concatenate([stream.push(samples), stream.finish()])


class _Same:
    """Equal rates."""

    def push(self, samples: Array) -> Array:
        return samples

    def finish(self) -> Array:
        return np.empty(0, dtype=np.float32)


class _Soxr:
    """The SoX resampler at its highest quality, fed silence at the end until it has said all."""

    def __init__(self, source: int, target: int) -> None:
        import soxr  # noqa: PLC0415 - who does not use it does not load it

        self._stream = soxr.ResampleStream(source, target, 1, dtype="float32", quality="VHQ")
        self._source, self._target = source, target
        self._taken = self._given = 0

    def push(self, samples: Array) -> Array:
        self._taken += len(samples)
        return self._cut(self._stream.resample_chunk(np.ascontiguousarray(samples), last=False))

    def finish(self) -> Array:
        # It rounds the length where we round up: a little silence makes up for that.
        silence = np.zeros(2 + 2 * self._source // self._target, dtype=np.float32)
        return self._cut(self._stream.resample_chunk(silence, last=True))

    def _cut(self, resampled: Array) -> Array:
        length = -(-self._taken * self._target // self._source)
        kept = resampled[: max(0, length - self._given)]
        self._given += len(kept)
        return kept


def _width(source: int, target: int) -> int:
    """Input samples that the filter reaches to either side."""
    return math.ceil(_ZERO_CROSSINGS * source / (min(source, target) * _ROLLOFF))


class _Filter(ABC):
    """A polyphase filter: output j is `taps` weights on the input from j · source // target on.

    Counted so, the input begins with `width` zeros. Output is made in steps of a fixed size from
    the start of the waveform on, so that the blocks that it came in do not show.
    """

    def __init__(self, source: int, target: int, step: int) -> None:
        self._source, self._target = source, target
        self._width = _width(source, target)
        self._taps = 2 * self._width + 2
        # Inputs and outputs of one step.
        self._inputs, self._outputs = step * source, step * target
        self._waiting = np.zeros(self._width, dtype=np.float32)
        self._taken = self._given = 0

    def push(self, samples: Array) -> Array:
        self._taken += len(samples)
        waiting = np.concatenate([self._waiting, samples])
        made, start = [], 0
        while len(waiting) - start >= self._inputs + self._taps:
            made.append(self._evaluate(waiting[start:], self._outputs))
            start += self._inputs
        self._waiting = waiting[start:]
        self._given += len(made) * self._outputs
        return np.concatenate(made) if made else np.empty(0, dtype=np.float32)

    def finish(self) -> Array:
        lacking = -(-self._taken * self._target // self._source) - self._given
        if lacking <= 0:
            return np.empty(0, dtype=np.float32)
        reach = self._reach(lacking)
        padded = np.zeros(max(reach, len(self._waiting)), dtype=np.float32)
        padded[: len(self._waiting)] = self._waiting
        return self._evaluate(padded, lacking)

    def _reach(self, outputs: int) -> int:
        """Inputs that so many outputs are made of."""
        return (outputs - 1) * self._source // self._target + self._taps

    @abstractmethod
    def _evaluate(self, heard: Array, outputs: int) -> Array:
        """The first outputs of an input that begins with them, and holds what they reach."""


class _PhaseGroup(NamedTuple):
    """Neighboring phases: their place in the frame, and the inputs that they weigh.

    Attributes:
        start: first input of the group within the frame.
        first: first phase.
        last: the phase after the last.
        weights: float32 (inputs, phases).
    """

    start: int
    first: int
    last: int
    weights: Array


class _DenseFilter(_Filter):
    """Rates that share factors: the same phases come back often."""

    def __init__(self, source: int, target: int) -> None:
        self._frame, self._groups = _phase_groups(source, target)
        frames = max(1, _BLOCK_SAMPLES // (self._frame * source))
        super().__init__(source, target, frames * self._frame)

    def _reach(self, outputs: int) -> int:
        frames = -(-outputs // (self._frame * self._target))
        return super()._reach(frames * self._frame * self._target)

    def _evaluate(self, heard: Array, outputs: int) -> Array:
        inputs, phases = self._frame * self._source, self._frame * self._target
        frames = -(-outputs // phases)
        made = np.empty((frames, phases), dtype=np.float32)
        item = heard.itemsize
        for group in self._groups:
            part = as_strided(
                heard[group.start :],
                (frames, len(group.weights)),
                (inputs * item, item),
                writeable=False,
            )
            np.matmul(part, group.weights, out=made[:, group.first : group.last])
        return made.reshape(-1)[:outputs]


@lru_cache(maxsize=16)
def _phase_groups(source: int, target: int) -> tuple[int, tuple[_PhaseGroup, ...]]:
    """How often the pair of rates goes into one frame, and the phases of a frame in groups.

    A frame holds so many inputs that the rows of a group do not overlap, and a product needs no
    copy of them.
    """
    phase_weights = _rounded_weights(source, target)
    taps = phase_weights.shape[1]
    frame = math.ceil(_GROUP / target + taps / source)
    groups = []
    for first in range(0, frame * target, _GROUP):
        last = min(first + _GROUP, frame * target)
        starts = [phase * source // target for phase in range(first, last)]
        weights = np.zeros((starts[-1] - starts[0] + taps, last - first), dtype=np.float32)
        for column, (phase, start) in enumerate(zip(range(first, last), starts, strict=True)):
            at = start - starts[0]
            weights[at : at + taps, column] = phase_weights[phase % target]
        groups.append(_PhaseGroup(starts[0], first, last, weights))
    return frame, tuple(groups)


def _rounded_weights(source: int, target: int) -> Array:
    """(target, taps) weights that are not zero, computed in float32 in torchaudio's order."""
    width = _width(source, target)
    cutoff = min(source, target) * _ROLLOFF
    inputs = np.arange(-width, width + source, dtype=np.float32) / np.float32(source)
    phases = np.arange(0, -target, -1, dtype=np.float32) / np.float32(target)
    distance = (phases[:, None] + inputs) * np.float32(cutoff)
    distance = np.clip(distance, -_ZERO_CROSSINGS, _ZERO_CROSSINGS)
    hann = np.cos(distance * np.float32(math.pi) / np.float32(_ZERO_CROSSINGS) / np.float32(2)) ** 2
    distance *= np.float32(math.pi)
    with np.errstate(invalid="ignore"):
        sinc = np.where(distance == 0, np.float32(1), np.sin(distance) / distance)
    rows = sinc * (hann * np.float32(cutoff / source))
    taps = 2 * width + 2
    padded = np.pad(rows, ((0, 0), (0, taps)))
    return np.stack([row[p * source // target :][:taps] for p, row in enumerate(padded)])


class _SparseFilter(_Filter):
    """Rates without common factor: a phase comes back once a second, or never."""

    def __init__(self, source: int, target: int) -> None:
        super().__init__(source, target, max(1, _BLOCK_SAMPLES // source))
        self._weights = _phase_weights(source, target)

    def _evaluate(self, heard: Array, outputs: int) -> Array:
        windows = sliding_window_view(heard, self._taps)
        made = np.empty(outputs, dtype=np.float32)
        block = max(1, _GATHERED // self._taps)
        for first in range(0, outputs, block):
            places = np.arange(first, min(outputs, first + block), dtype=np.int64)
            heard_there = windows[places * self._source // self._target]
            made[first : first + len(places)] = np.einsum(
                "jt,jt->j", heard_there, self._weights[places % self._target]
            )
        return made


@lru_cache(maxsize=8)
def _phase_weights(source: int, target: int) -> Array:
    """(target, taps) weights in double precision: row p is for the outputs j, j mod target = p."""
    width = _width(source, target)
    cutoff = min(source, target) * _ROLLOFF
    weights = np.empty((target, 2 * width + 2), dtype=np.float32)
    taps = np.arange(2 * width + 2)
    rows = max(1, _GATHERED // len(taps))
    for start in range(0, target, rows):
        phase = np.arange(start, min(target, start + rows))[:, None]
        first = phase * source // target - width
        distance = ((first + taps) * target - phase * source) / (source * target) * cutoff
        distance = np.clip(distance, -_ZERO_CROSSINGS, _ZERO_CROSSINGS)
        hann = np.cos(distance * (math.pi / (2 * _ZERO_CROSSINGS))) ** 2
        weights[phase[:, 0]] = np.sinc(distance) * hann * (cutoff / source)
    weights.flags.writeable = False
    return weights
