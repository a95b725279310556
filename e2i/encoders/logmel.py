"""Recordings to embeddings without weights: statistics of the log-mel spectrogram.

Conventions: waveforms are float32 `(T,)` at 32 kHz. The spectrogram has 64 mel bands from 50 Hz to
15 kHz, frames of 32 ms every 10 ms, in dB with a sine at full scale at 0 and a floor of -90; so
digital silence is a value like others. Its own offset (DC) is taken out of each clip. The
embedding is 768 numbers whatever the duration, from one sample to hours:

| block | numbers | what |
|---|---|---|
| level | 4 × 64 | mean, deviation, 5th and 95th percentile of each band |
| course | 8 × 16 | mean of each four bands in each eighth of the clip, less the clip's: order |
| modulation | 11 × 16 | spectrum of the level of each four bands, 0.3 to 50 Hz: rhythm |
| onsets | 3 × 16 | how often each four bands rise by 6, 12, 20 dB in 0.1 s: count |
| correlation | 120 | of the levels of each two such groups over time |
| tonality | 2 × 18 | spectral flatness in 18 ranges of frequency, mean and 95th percentile |
| whole | 4 | mean, deviation and 95th percentile of the total level, duration |

There are no statistics of data: each block has a fixed offset and scale that bring everyday sounds
to about mean 0 and deviation 1, and values are cut at ±4. Without the offsets all clips would
point in nearly the same direction.

Memory: the spectrogram is made in blocks; what is kept is 330 bytes a frame, 120 MB an hour.

Source: modulation spectra after L. Atlas and S. Shamma, "Joint acoustic and modulation frequency",
EURASIP JASP 2003; the summary statistics after J. McDermott and E. Simoncelli, "Sound texture
perception via statistics of the auditory periphery", Neuron 2011.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from e2i.audio import waveform_settings
from e2i.decoding.mapping import give_back
from e2i.encoders.protocols import AudioEmbedding, Settings
from e2i.resampling import ResamplerName

Array = NDArray[np.float32]

_VERSION = 1
_DIM = 768
_SAMPLE_RATE = 32_000
_N_FFT = 1024
_HOP = 320
_FRAMES_PER_S = _SAMPLE_RATE / _HOP
_BANDS = 64
_GROUPS = 16
_LOWEST_HZ = 50.0
_HIGHEST_HZ = 15_000.0
_FLOOR = 1e-9
_SECTIONS = 8
_MODULATION_FRAMES = 512
_MODULATION_EDGES_HZ = (0.3, 0.8, 1.3, 2.0, 3.0, 4.5, 7.0, 10.0, 15.0, 22.0, 35.0, 50.1)
_ONSET_FRAMES = 10
_ONSET_RISES_DB = (6.0, 12.0, 20.0)
_MOST_ONSETS = 50
_TONALITY_RANGES = 18
_TONALITY_BINS = slice(3, 480)
_SILENCE = 1e-12
_CUT = 4.0
_BLOCK_FRAMES = 2048
_BLOCK_SAMPLES = 2**22
_BLOCK_LEVELS = 2**22


class LogMelEncoder:
    """Log-mel statistics and modulation features; `settings` says which.

    Args:
        normalize: give each embedding length 1.
        resampler: what its waveforms are made with.
    """

    def __init__(self, *, normalize: bool = True, resampler: ResamplerName = "torchaudio") -> None:
        self._normalize = normalize
        self._resampler: ResamplerName = resampler

    @property
    def dim(self) -> int:
        """D, the length of an embedding."""
        return _DIM

    @property
    def sample_rate(self) -> int:
        """Rate of the waveforms that it takes, in Hz."""
        return _SAMPLE_RATE

    @property
    def settings(self) -> Settings:
        """All that changes its values."""
        return logmel_settings(normalize=self._normalize, resampler=self._resampler)

    def encode(self, waveforms: Sequence[NDArray[np.float32]]) -> list[AudioEmbedding]:
        """Embed waveforms `(T,)`, each alone, in the order given; T of 0 counts as silence."""
        return [AudioEmbedding(self._embed(waveform), num_windows=1) for waveform in waveforms]

    def _embed(self, waveform: Array) -> NDArray[np.float32]:
        features = _features(_analyze(waveform))
        if self._normalize:
            features = features / np.linalg.norm(features)
        return features.astype(np.float32)


def logmel_settings(
    *, normalize: bool, resampler: ResamplerName = "torchaudio"
) -> dict[str, str | int | float | bool | None]:
    """What `LogMelEncoder.settings` is, without making one."""
    return {
        "encoder": "logmel",
        "version": _VERSION,
        "dim": _DIM,
        "sample_rate": _SAMPLE_RATE,
        "n_fft": _N_FFT,
        "hop": _HOP,
        "window": "hann",
        "bands": _BANDS,
        "lowest_hz": _LOWEST_HZ,
        "highest_hz": _HIGHEST_HZ,
        "floor_db": -90.0,
        "normalize": normalize,
        **waveform_settings(resampler),
    }


@dataclass(frozen=True, slots=True)
class _Analysis:
    """One clip, frame by frame (F frames, at least 1).

    Attributes:
        bands: (F, 64) level of each mel band, dB.
        tonality: (F, 18) how uneven the spectrum is in each range: log of the mean power less the
            mean of the log power, 0 for a flat spectrum.
    """

    bands: Array
    tonality: Array


def _analyze(waveform: Array) -> _Analysis:
    """The spectrogram, made in blocks of frames; frame f is centered at sample f · hop."""
    filters, starts, widths, window = _filters()
    frames = 1 + len(waveform) // _HOP
    offset = _offset(waveform)
    bands = np.empty((frames, _BANDS), dtype=np.float32)
    tonality = np.empty((frames, _TONALITY_RANGES), dtype=np.float32)
    for first in range(0, frames, _BLOCK_FRAMES):
        last = min(frames, first + _BLOCK_FRAMES)
        heard = _padded(waveform, offset, first * _HOP - _N_FFT // 2, (last - first - 1) * _HOP)
        spectrum = np.fft.rfft(sliding_window_view(heard, _N_FFT)[::_HOP] * window, axis=1)
        power = spectrum.real**2 + spectrum.imag**2
        bands[first:last] = 10 * np.log10(power @ filters + np.float32(_FLOOR))
        power = power[:, _TONALITY_BINS] + np.float32(_SILENCE)
        mean = np.add.reduceat(power, starts, axis=1) / widths
        mean_log = np.add.reduceat(np.log(power), starts, axis=1) / widths
        tonality[first:last] = np.log(mean) - mean_log
        give_back(waveform)
    return _Analysis(bands, tonality)


def _offset(waveform: Array) -> np.float32:
    """The mean of all samples."""
    total = 0.0
    for first in range(0, len(waveform), _BLOCK_SAMPLES):
        total += float(waveform[first : first + _BLOCK_SAMPLES].sum(dtype=np.float64))
        give_back(waveform)
    return np.float32(total / max(1, len(waveform)))


def _padded(waveform: Array, offset: np.float32, start: int, span: int) -> Array:
    """Samples start to start + span + n_fft, without their offset, zero beyond the clip."""
    heard = np.zeros(span + _N_FFT, dtype=np.float32)
    first, last = max(0, start), min(len(waveform), start + len(heard))
    if last > first:
        heard[first - start : last - start] = waveform[first:last] - offset
    return heard


@lru_cache(maxsize=1)
def _filters() -> tuple[Array, NDArray[np.int64], Array, Array]:
    """Mel filters (bins, 64), start and width of the tonality ranges in bins, and the window.

    The filters are triangles on O'Shaughnessy's mel scale with weights that sum to 1; a band too
    narrow to meet a bin takes the nearest one.
    """
    bins_hz = np.arange(_N_FFT // 2 + 1) * (_SAMPLE_RATE / _N_FFT)
    lowest, highest = (2595 * np.log10(1 + hz / 700) for hz in (_LOWEST_HZ, _HIGHEST_HZ))
    edges = 700 * (10 ** (np.linspace(lowest, highest, _BANDS + 2) / 2595) - 1)
    rising = (bins_hz[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins_hz[:, None]) / (edges[2:] - edges[1:-1])
    triangles = np.maximum(0, np.minimum(rising, falling))
    for band in np.flatnonzero(triangles.sum(axis=0) < 1e-6):
        triangles[np.argmin(np.abs(bins_hz - edges[band + 1])), band] = 1
    window = np.hanning(_N_FFT + 1)[:-1]
    full_scale = (window.sum() / 2) ** 2
    # 94 Hz to 15 kHz in steps that grow, each at least 4 bins wide.
    edges_bin = [_TONALITY_BINS.start]
    for step in range(_TONALITY_RANGES):
        growth = (_TONALITY_BINS.stop / edges_bin[-1]) ** (1 / (_TONALITY_RANGES - step))
        edges_bin.append(max(edges_bin[-1] + 4, round(edges_bin[-1] * growth)))
    return (
        (triangles / triangles.sum(axis=0)).astype(np.float32),
        np.array(edges_bin[:-1]) - _TONALITY_BINS.start,
        np.diff(edges_bin).astype(np.float32),
        (window / np.sqrt(full_scale)).astype(np.float32),
    )


def _features(clip: _Analysis) -> NDArray[np.float64]:
    """All blocks, each by its fixed offset and scale: float64 (768,)."""
    bands = clip.bands
    groups = bands.reshape(len(bands), _GROUPS, -1).mean(axis=2)
    course = groups - groups.mean(axis=0, dtype=np.float64).astype(np.float32)
    mean, deviation, low, high = _levels(bands)
    total = _total(bands)
    blocks = [
        (mean + 65) / 15,
        (deviation - 9) / 5,
        (low + 77) / 15,
        (high + 50) / 15,
        _course(course) / 6,
        (_modulation(course) - 0.2) * 1.5,
        _onsets(groups) - 1.6,
        _correlation(course) * 2 - 1,
        (clip.tonality.mean(axis=0, dtype=np.float64) - 0.85) / 0.6,
        (np.percentile(clip.tonality, 95, axis=0) - 2) / 1.7,
        [(total.mean() + 35) / 10, total.std() / 8 - 1, (np.percentile(total, 95) + 25) / 10],
        [np.log(len(bands) / (4 * _FRAMES_PER_S))],
    ]
    features: NDArray[np.float64] = np.concatenate(blocks).clip(-_CUT, _CUT)
    return features


def _levels(bands: Array) -> NDArray[np.float64]:
    """(4, 64) mean, deviation, 5th and 95th percentile of each band, a few bands at a time."""
    columns = max(1, _BLOCK_LEVELS // len(bands))
    parts = []
    for first in range(0, _BANDS, columns):
        part = bands[:, first : first + columns]
        mean, deviation = part.mean(axis=0, dtype=np.float64), part.std(axis=0, dtype=np.float64)
        parts.append([mean, deviation, *np.percentile(part, [5, 95], axis=0)])
    return np.concatenate(parts, axis=1)


def _total(bands: Array) -> Array:
    """(F,) level of all bands together, dB."""
    rows = _BLOCK_LEVELS // _BANDS
    parts = [
        (10 ** (bands[first : first + rows] / 10)).sum(axis=1)
        for first in range(0, len(bands), rows)
    ]
    total: Array = 10 * np.log10(np.concatenate(parts))
    return total


def _course(course: Array) -> NDArray[np.float64]:
    """(8 · 16,) mean of each group in each eighth of the clip, of at least one frame."""
    frames = len(course)
    bounds = [section * frames // _SECTIONS for section in range(_SECTIONS + 1)]
    return np.concatenate(
        [
            course[first : max(first + 1, last)].mean(axis=0, dtype=np.float64)
            for first, last in pairwise(bounds)
        ]
    )


def _modulation(course: Array) -> NDArray[np.float64]:
    """(11 · 16,) log power of each group's level in bands of modulation frequency.

    Hann windows of 5.12 s that overlap by half, their power averaged; a shorter clip is padded,
    and its power counted by its own length.
    """
    frames, size, hop = len(course), _MODULATION_FRAMES, _MODULATION_FRAMES // 2
    taper = np.hanning(size)[:, None].astype(np.float32)
    windows = max(1, -(-(frames - size) // hop) + 1)
    power = np.zeros((size // 2 + 1, _GROUPS))
    for window in range(windows):
        heard = np.zeros((size, _GROUPS), dtype=np.float32)
        part = course[window * hop : window * hop + size]
        heard[: len(part)] = part
        power += np.abs(np.fft.rfft(heard * taper, axis=0)) ** 2
    covered = size + (windows - 1) * hop
    power *= covered / (frames * windows * size * float((taper**2).sum()))
    hz = np.arange(size // 2 + 1) * (_FRAMES_PER_S / size)
    edges = np.searchsorted(hz, _MODULATION_EDGES_HZ)
    bands = [power[first:last].sum(axis=0) for first, last in pairwise(edges)]
    return np.log10(np.concatenate(bands) + 0.1)


def _onsets(groups: Array) -> NDArray[np.float64]:
    """(3 · 16,) log of 1 + how often each group starts to rise by so much within 0.1 s."""
    # Before the clip there is nothing to rise from: its first frame lasts from ever.
    before = np.concatenate([np.repeat(groups[:1], _ONSET_FRAMES, axis=0), groups])
    rise = groups - before[: len(groups)]
    counts = []
    for rise_db in _ONSET_RISES_DB:
        above = rise > rise_db
        counts.append((above[1:] & ~above[:-1]).sum(axis=0))
    often: NDArray[np.float64] = np.minimum(np.concatenate(counts), _MOST_ONSETS).astype(np.float64)
    return np.log1p(often)


def _correlation(course: Array) -> NDArray[np.float64]:
    """(120,) of each two groups over time; a group that hardly moves correlates with none."""
    moves = course / (course.std(axis=0, dtype=np.float64) + 1)
    correlation: NDArray[np.float64] = moves.T @ moves / len(moves)
    return correlation[np.triu_indices(_GROUPS, 1)]
