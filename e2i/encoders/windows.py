"""Which windows of a clip an audio encoder hears, and how they count.

Conventions: lengths and places are in samples of a waveform `(T,)`. A window is cut when it is
needed, so that of a clip on disk (a memory map) only the windows in hand are in memory. No window
depends on another clip.

| windowing | windows |
|---|---|
| `hear` | up to the window's length the clip as it is, padded with zeros to the shortest input; longer: mirrored by half a window at both ends, a window every hop, plain mean |
| `segments` | windows side by side over the whole clip, the last padded with zeros, each counted by the share of the clip in it |
| `dcase2025` | cut or padded with zeros to 30 s; of its three windows of 10 s the first one, two or three, for clips up to 10 s, up to 20 s, longer; plain mean |

Source: `hear` after hear21passt 0.0.26, `get_scene_embeddings`; `dcase2025` after the baseline of
DCASE 2025 Task 6.
"""  # noqa: E501 - a table

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

WindowingName = Literal["hear", "segments", "dcase2025"]

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Window:
    """One window of a clip.

    Attributes:
        start: first sample; below zero before the clip begins.
        length: samples.
        weight: share in the clip's mean; a clip's weights sum to 1.
        mirrored: whether the clip goes on mirrored beyond its ends, else it is silent there.
    """

    start: int
    length: int
    weight: float
    mirrored: bool = False


@dataclass(frozen=True, slots=True)
class Windowing:
    """How clips are cut.

    Attributes:
        name: which windowing.
        length: of a full window.
        hop: from window to window, for `hear`.
        shortest: shortest window that the model takes.
    """

    name: WindowingName
    length: int
    hop: int
    shortest: int

    def windows(self, num_samples: int) -> list[Window]:
        """The windows of a clip of T samples, at least one."""
        if self.name == "hear":
            return self._hear(num_samples)
        if self.name == "segments":
            return self._segments(num_samples)
        count = min(3, max(1, -(-num_samples // self.length)))
        return [Window(place * self.length, self.length, 1 / count) for place in range(count)]

    def _hear(self, num_samples: int) -> list[Window]:
        if num_samples <= self.length:
            return [Window(0, max(num_samples, self.shortest), 1.0)]
        first, count = -(self.length // 2), num_samples // self.hop + 1
        return [
            Window(first + place * self.hop, self.length, 1 / count, mirrored=True)
            for place in range(count)
        ]

    def _segments(self, num_samples: int) -> list[Window]:
        starts = range(0, max(num_samples, 1), self.length)
        return [
            Window(
                start,
                self.length,
                min(self.length, num_samples - start) / num_samples if num_samples else 1.0,
            )
            for start in starts
        ]


def cut(waveform: Array, window: Window) -> Array:
    """The samples of a window: float32 (window.length,), a copy; touches no other part of a clip.

    A mirrored window reaches beyond the clip by less than the clip's length.
    """
    total, stop = len(waveform), window.start + window.length
    samples = np.zeros(window.length, dtype=np.float32)
    first, last = max(0, window.start), min(total, stop)
    if last > first:
        samples[first - window.start : last - window.start] = waveform[first:last]
    if window.mirrored:
        if window.start < 0:  # sample -i is sample i
            before = -window.start
            samples[:before] = waveform[1 : before + 1][::-1]
        if stop > total:  # sample T - 1 + i is sample T - 1 - i
            beyond = stop - total
            samples[-beyond:] = waveform[total - 1 - beyond : total - 1][::-1]
    return samples
