"""95 % intervals of retrieval scores: a bootstrap over clips.

Conventions: what is drawn anew is the clips of the split, each with all its queries (a clip's
captions go together, they are alike); the candidates stay as they are. One draw serves all metrics
and both directions. The spread over training seeds is not in the interval.

Means get bias-corrected and accelerated limits (BCa), which at 100 clips miss about equally often
on either side where plain percentiles lean towards the middle of the scale; medians get
percentiles, because a median has no jackknife to take an acceleration from. A metric that is the
same for all clips gets an interval of no width.

Source: Efron, "Better bootstrap confidence intervals", JASA 1987; resampling whole clusters as
Davison and Hinkley, "Bootstrap methods and their application", 1997, section 3.8.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from e2i.errors import RetrievalInputError

CONFIDENCE = 0.95
"""Share of repeated studies whose interval is to hold the truth. Fixed: never an option."""

_BLOCK_CELLS = 2**20
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class QueryValues:
    """One metric, query by query.

    Attributes:
        values: float64 (Q,).
        clip: int64 (Q,), the clip that each query belongs to, in [0, C).
        statistic: how the metric is made of them.
    """

    values: NDArray[np.float64]
    clip: NDArray[np.int64]
    statistic: Literal["mean", "median"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval; both ends are values that the metric can take, or lie between two."""

    low: float
    high: float


def bootstrap_intervals(
    metrics: Mapping[str, QueryValues], num_clips: int, resamples: int, seed: int
) -> dict[str, Interval]:
    """Intervals of several metrics from the same resamples of the clips.

    Args:
        metrics: by name; every clip has at least one query in each.
        num_clips: C, at least 2: one clip says nothing of others.
        resamples: draws, at least 1.
        seed: the same seed and values give the same intervals.

    Raises:
        RetrievalInputError: fewer than two clips, no resample, or a clip has no query.
    """
    if num_clips < 2 or resamples < 1:
        raise RetrievalInputError(
            f"no interval can be drawn: got {num_clips} clips and {resamples} resamples, expected "
            "at least 2 and 1. State the score without an interval."
        )
    for name, metric in metrics.items():
        _require_all_clips(name, metric, num_clips)
    if not metrics:
        return {}
    drawn = _resampled(metrics, num_clips, resamples, seed)
    intervals: dict[str, Interval] = {}
    for name, metric in metrics.items():
        values = np.sort(drawn[name])
        if metric.statistic == "mean":
            levels = _accelerated(values, metric, num_clips)
        else:
            levels = _plain_levels()
        low, high = np.quantile(values, levels)
        intervals[name] = Interval(float(low), float(high))
    return intervals


def bootstrap_median_differences(
    first: QueryValues, second: QueryValues, num_clips: int, resamples: int, seed: int
) -> Interval:
    """The interval of the difference of two medians, both taken of the same resampled clips.

    Args:
        first: a median.
        second: another, of the same clips.
        num_clips: C, at least 2.
        resamples: draws, at least 1.
        seed: the same seed and values give the same interval.
    """
    drawn = _resampled({"first": first, "second": second}, num_clips, resamples, seed)
    low, high = np.quantile(drawn["first"] - drawn["second"], _plain_levels())
    return Interval(float(low), float(high))


def _resampled(
    metrics: Mapping[str, QueryValues], num_clips: int, resamples: int, seed: int
) -> dict[str, NDArray[np.float64]]:
    """Each metric on each resample of the clips, float64 (resamples,), one draw for all."""
    means = {name: m for name, m in metrics.items() if m.statistic == "mean"}
    medians = {name: _Median.of(m, num_clips) for name, m in metrics.items() if name not in means}
    sums = [_per_clip(m.clip, num_clips, m.values) for m in means.values()]
    counts = [_per_clip(m.clip, num_clips) for m in means.values()]
    table = np.stack([*sums, *counts, *(m.before for m in medians.values())], axis=1)
    drawn: dict[str, list[NDArray[np.float64]]] = {name: [] for name in metrics}
    widest = max(len(m.values) for m in metrics.values())
    for weights in clip_draws(num_clips, resamples, seed, max(1, _BLOCK_CELLS // widest)):
        totals = weights @ table
        for i, name in enumerate(means):
            drawn[name].append(totals[:, i] / totals[:, len(means) + i])
        for i, (name, median) in enumerate(medians.items()):
            drawn[name].append(median.resampled(weights, totals[:, 2 * len(means) + i]))
    return {name: np.concatenate(blocks) for name, blocks in drawn.items()}


def clip_draws(
    num_clips: int, resamples: int, seed: int, rows: int
) -> Iterator[NDArray[np.float64]]:
    """How often each clip is drawn, (b, C) float64, in blocks of up to `rows` resamples."""
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, rows):
        b = min(rows, resamples - start)
        picks = generator.integers(0, num_clips, (b, num_clips), dtype=np.int64)
        picks += np.arange(b)[:, None] * num_clips
        counts = np.bincount(picks.ravel(), minlength=b * num_clips)
        yield counts.reshape(b, num_clips).astype(np.float64)


def _plain_levels() -> tuple[float, float]:
    return (1.0 - CONFIDENCE) / 2.0, (1.0 + CONFIDENCE) / 2.0


def _accelerated(
    resampled: NDArray[np.float64], metric: QueryValues, num_clips: int
) -> tuple[float, float]:
    """The two quantile levels of BCa for a mean over queries, `resampled` sorted."""
    value = metric.values.mean()
    counts = _per_clip(metric.clip, num_clips)
    influence = _per_clip(metric.clip, num_clips, metric.values) - value * counts
    spread = float((influence**2).sum())
    # Of a mean of equals nothing but rounding is left.
    tolerance = 1e-9 * max(1.0, abs(value))
    if spread <= num_clips * tolerance**2:
        return _plain_levels()
    acceleration = float((influence**3).sum()) / (6.0 * spread**1.5)
    # Resamples that give the very value count half to either side.
    below = np.searchsorted(resampled, value - tolerance)
    up_to = np.searchsorted(resampled, value + tolerance)
    share = (below + up_to) / (2.0 * len(resampled))
    edge = 0.5 / len(resampled)
    bias = _NORMAL.inv_cdf(float(np.clip(share, edge, 1.0 - edge)))

    def level(plain: float) -> float:
        shifted = bias + _NORMAL.inv_cdf(plain)
        return _NORMAL.cdf(bias + shifted / (1.0 - acceleration * shifted))

    low, high = _plain_levels()
    return level(low), level(high)


@dataclass(frozen=True, slots=True)
class _Median:
    """A median to be taken under many weightings of the clips.

    Sorted once. The median of a resample stays near the median of all, so only a window around it
    is added up query by query; what lies before it comes as one number a clip. The few resamples
    that leave the window are done over all queries.
    """

    values: NDArray[np.float64]
    clip: NDArray[np.int64]
    queries_a_clip: NDArray[np.float64]
    before: NDArray[np.float64]
    window: slice

    @classmethod
    def of(cls, metric: QueryValues, num_clips: int) -> _Median:
        order = np.argsort(metric.values, kind="stable")
        clip = metric.clip[order]
        queries_a_clip = _per_clip(clip, num_clips)
        # Five standard deviations of the number of queries below the median, at its largest:
        # when all queries of a clip fall on one side.
        reach = 5.0 * 0.5 * float(np.sqrt((queries_a_clip**2).sum()))
        middle = len(clip) / 2
        window = slice(max(0, int(middle - reach)), min(len(clip), int(middle + reach) + 2))
        before = _per_clip(clip[: window.start], num_clips)
        return cls(metric.values[order], clip, queries_a_clip, before, window)

    def resampled(
        self, weights: NDArray[np.float64], before: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Medians under weights (b, C), given the weight before the window, (b,)."""
        total = weights @ self.queries_a_clip
        result, inside = self._within(weights, before, total, self.window)
        if not inside.all():
            rest = ~inside
            everything = slice(0, len(self.clip))
            nothing = np.zeros(int(rest.sum()))
            result[rest], _ = self._within(weights[rest], nothing, total[rest], everything)
        return result

    def _within(
        self,
        weights: NDArray[np.float64],
        before: NDArray[np.float64],
        total: NDArray[np.float64],
        window: slice,
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """The medians, and whether each lies in the window (else it is meaningless)."""
        values = self.values[window]
        running = np.cumsum(weights[:, self.clip[window]], axis=1) + before[:, None]
        lower, upper = (total - 1) // 2, total // 2
        at_lower = (running <= lower[:, None]).sum(axis=1)
        at_upper = (running <= upper[:, None]).sum(axis=1)
        inside = (before <= lower) & (at_upper < len(values))
        last = len(values) - 1
        middle = values[np.minimum(at_lower, last)] + values[np.minimum(at_upper, last)]
        return middle / 2.0, inside


def _per_clip(
    clip: NDArray[np.int64], num_clips: int, values: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Number of queries of each clip, or the sum of their values: float64 (C,)."""
    return np.bincount(clip, weights=values, minlength=num_clips).astype(np.float64)


def _require_all_clips(name: str, metric: QueryValues, num_clips: int) -> None:
    if metric.values.shape != metric.clip.shape or metric.values.ndim != 1:
        raise RetrievalInputError(
            f"the values of {name} do not fit their clips: got shapes {metric.values.shape} and "
            f"{metric.clip.shape}, expected one clip a value. Check both come from one evaluation."
        )
    counts = np.bincount(metric.clip, minlength=num_clips)
    if len(counts) > num_clips or not counts.all():
        raise RetrievalInputError(
            f"{name} does not cover the clips: got queries of {int((counts > 0).sum())} clips, "
            f"expected each of {num_clips}. Leave out the clips without a query."
        )
