"""Figures about the embeddings of a cache, to see at a glance whether they can be right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from e2i.cache.embeddings import CachedEmbeddings

_BLOCK_ROWS = 8192


@dataclass(frozen=True, slots=True)
class SideStatistics:
    """One side.

    Attributes:
        rows: clips or captions.
        dim: D.
        norm_min: smallest length of an embedding.
        norm_mean: mean length.
        norm_max: greatest length.
        mean: over all values.
        std: over all values.
    """

    rows: int
    dim: int
    norm_min: float
    norm_mean: float
    norm_max: float
    mean: float
    std: float

    def in_words(self, what: str) -> str:
        """One line for people."""
        return (
            f"{what}: {self.rows:,} x {self.dim:,}, lengths {self.norm_min:.3f} to "
            f"{self.norm_max:.3f} (mean {self.norm_mean:.3f}), values {self.mean:.4f} ± "
            f"{self.std:.4f}"
        )


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """Both sides."""

    audio: SideStatistics
    text: SideStatistics


def cache_statistics(cache: CachedEmbeddings) -> CacheStatistics:
    """Figures about a cache that holds at least one row a side."""
    return CacheStatistics(_of(cache.audio), _of(cache.text))


def _of(rows: NDArray[np.float32]) -> SideStatistics:
    norms = np.concatenate(
        [
            np.linalg.norm(rows[start : start + _BLOCK_ROWS], axis=1)
            for start in range(0, len(rows), _BLOCK_ROWS)
        ]
    ).astype(np.float64)
    return SideStatistics(
        rows=len(rows),
        dim=rows.shape[1],
        norm_min=float(norms.min()),
        norm_mean=float(norms.mean()),
        norm_max=float(norms.max()),
        mean=float(rows.mean(dtype=np.float64)),
        std=float(rows.std(dtype=np.float64)),
    )
