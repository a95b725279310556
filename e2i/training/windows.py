"""The embeddings of clips' windows in training: read from caches, on a device, in padded batches.

Decides: windows lie on the device one clip's after the other, and a batch is an index into them,
padded to its own longest clip; how long that is, is known on the CPU, so the device is not waited
for. Without a batch (validation, evaluation), clips of equally many windows go together and nothing
is padded, so that a clip's embedding depends on its clip alone.

A window's share in its clip's mean is not stored: it is 1 but for the last window of PaSST's
`segments`, which counts by the part of it that the clip fills. That the mean by shares is the
stored embedding is held for every clip.

Shape letters: C clips, M windows of all clips, B batch, W windows of one clip, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from e2i.cache.embeddings import CachedEmbeddings
from e2i.cache.reader import Cache, open_cache
from e2i.cache.windows import read_windows
from e2i.encoders.protocols import Settings
from e2i.errors import CacheError, ConfigError
from e2i.heads.build import ProjectionHeads
from e2i.heads.pooling import Windows
from e2i.storage import Folder

_FARTHEST = 1e-3
"""Most that the mean of a clip's windows may be off its embedding, as a share of its length."""

_POOLED_AT_ONCE_BYTES = 64 * 2**20
_SMALLEST_SHARE = 1e-6


@dataclass(frozen=True, slots=True)
class ClipWindows:
    """The windows of C clips.

    Attributes:
        rows: float32 (M, D), one clip's after the other.
        counts: int64 (C,), windows of each clip, at least 1.
        shares: float32 (M,), of each window in the mean of its clip, up to a factor.
        normalized: whether the embedding of a clip has length 1.
    """

    rows: NDArray[np.float32]
    counts: NDArray[np.int64]
    shares: NDArray[np.float32]
    normalized: bool

    def of_clips(self, clips: NDArray[np.int64]) -> ClipWindows:
        """Those of some clips, in this order."""
        ends = np.cumsum(self.counts)
        taken = [np.arange(ends[clip] - self.counts[clip], ends[clip]) for clip in clips]
        rows = np.concatenate(taken) if taken else np.zeros(0, dtype=np.int64)
        return ClipWindows(self.rows[rows], self.counts[clips], self.shares[rows], self.normalized)

    def means(self) -> NDArray[np.float32]:
        """The mean of each clip by shares: float32 (C, D), of length 1 where that is asked for."""
        starts = np.cumsum(self.counts) - self.counts
        weighted = self.shares[:, None].astype(np.float64) * self.rows
        sums = np.add.reduceat(weighted, starts, axis=0)
        means = sums / np.add.reduceat(self.shares, starts)[:, None]
        if self.normalized:
            means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-30)
        rounded: NDArray[np.float32] = means.astype(np.float32)
        return rounded


LoadWindows = Callable[[CachedEmbeddings], ClipWindows]
"""The windows of a cache's clips, in its order; raises CacheError where there are none."""


def joined(parts: Sequence[ClipWindows]) -> ClipWindows:
    """The windows of several caches, one after the other."""
    return ClipWindows(
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.counts for part in parts]),
        np.concatenate([part.shares for part in parts]),
        all(part.normalized for part in parts),
    )


def stored_windows_of(*folders: Folder) -> LoadWindows:
    """Reads the windows that the caches in these folders hold."""
    by_url = {folder.url: folder for folder in folders}

    def load(cache: CachedEmbeddings) -> ClipWindows:
        return load_windows(open_cache(by_url[cache.url]), cache)

    return load


def load_windows(opened: Cache, cache: CachedEmbeddings) -> ClipWindows:
    """The windows of a cache's clips, in its order.

    Args:
        opened: the cache.
        cache: what it holds.

    Raises:
        CacheError: it was made without windows, lacks those of a clip, or their mean is not the
            clip's embedding.
        CacheCorruptError: a shard is missing, damaged, or not as the manifest has it.
        StorageError: the store refused.
    """
    place = {clip_id: row for row, clip_id in enumerate(cache.clip_ids)}
    found: dict[int, NDArray[np.float32]] = {}
    for clip_id, rows in read_windows(opened):
        if clip_id in place:
            found[place[clip_id]] = rows
    lacking = next((row for row in range(len(place)) if not len(found.get(row, ()))), None)
    if lacking is not None:
        message = (
            f"a clip has no windows: got none of {cache.clip_ids[lacking]!r} in {cache.url}, "
            "expected at least 1. Run `e2i cache-embeddings --store-windows --force`."
        )
        raise CacheError(message)
    counts = np.array([len(found[row]) for row in range(len(place))], dtype=np.int64)
    settings = opened.header.audio.settings
    windows = ClipWindows(
        np.concatenate([found[row] for row in range(len(place))]),
        counts,
        _shares(settings, counts, cache.duration_s),
        bool(settings.get("normalize", False)),
    )
    _require_stored_means(windows, cache)
    return windows


def _shares(
    settings: Settings, counts: NDArray[np.int64], duration_s: NDArray[np.float64]
) -> NDArray[np.float32]:
    shares = np.ones(int(counts.sum()), dtype=np.float32)
    if settings.get("encoder") == "passt" and settings.get("windowing") == "segments":
        window_s = float(settings["window_s"] or 1.0)
        filled = (duration_s - (counts - 1) * window_s) / window_s
        shares[np.cumsum(counts) - 1] = np.clip(filled, _SMALLEST_SHARE, 1.0)
    return shares


def _require_stored_means(windows: ClipWindows, cache: CachedEmbeddings) -> None:
    stored = cache.audio.astype(np.float64)
    off = np.linalg.norm(windows.means() - stored, axis=1)
    near = off <= _FARTHEST * np.linalg.norm(stored, axis=1)
    far = np.flatnonzero(~near)  # what is no number is not near
    if len(far):
        message = (
            "the windows of a clip do not average to its embedding: got a mean that is off by "
            f"{off[far[0]]:.2g} for {cache.clip_ids[far[0]]!r} in {cache.url}, expected the stored "
            "one. Train without --audio-pooling attention and --window-dropout."
        )
        raise CacheError(message)


class WindowTensors:
    """Windows of C clips on a device.

    Attributes:
        counts: int64 (C,) on the CPU, windows of each clip.
    """

    def __init__(self, windows: ClipWindows, device: torch.device) -> None:
        """Bring them there."""
        self._rows = torch.from_numpy(windows.rows).to(device)
        self._shares = torch.from_numpy(windows.shares).to(device)
        self.counts = torch.from_numpy(windows.counts)
        self._counts_there = self.counts.to(device)
        self._starts_there = self._counts_there.cumsum(0) - self._counts_there
        self._normalized = windows.normalized

    def batch(self, clips: Tensor, longest: int) -> Windows:
        """The windows of some clips, padded to the longest of them.

        Args:
            clips: int64 (B,) on the device.
            longest: most windows that one of them has.
        """
        place = torch.arange(longest, device=clips.device)
        counts = self._counts_there[clips][:, None]
        index = self._starts_there[clips][:, None] + torch.minimum(place, counts - 1)
        shares = self._shares[index].masked_fill(place >= counts, 0.0)
        rows = self._rows.index_select(0, index.flatten()).view(*index.shape, -1)
        return Windows(rows, shares, self._normalized)

    @torch.no_grad()
    def pooled(self, heads: ProjectionHeads) -> Tensor:
        """The embeddings (C, D) of all clips, each of all of its windows."""
        found = self._rows.new_empty((len(self.counts), self._rows.shape[1]))
        for clips, longest in self._alike():
            there = clips.to(found.device)
            found[there] = heads.pool(self.batch(there, longest))
        return found

    def _alike(self) -> Iterator[tuple[Tensor, int]]:
        """Clips of equally many windows, as many as bounded memory takes."""
        for longest in torch.unique(self.counts).tolist():
            clips = (self.counts == longest).nonzero()[:, 0]
            step = max(1, _POOLED_AT_ONCE_BYTES // (4 * longest * self._rows.shape[1]))
            for part in torch.split(clips, step):
                yield part, longest


def read_all(
    caches: Sequence[CachedEmbeddings], load_windows_of: LoadWindows | None
) -> ClipWindows:
    """The windows of all clips of the caches, one after the other.

    Raises:
        ConfigError: there is nothing to read from.
        CacheError: as `load_windows`.
    """
    if load_windows_of is None:
        message = (
            "windows cannot be read here: got no folder to read from, expected a cache's folder. "
            "Use --audio-pooling mean and --window-dropout 0."
        )
        raise ConfigError(message)
    return joined([load_windows_of(cache) for cache in caches])
