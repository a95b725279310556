"""Two models on the same queries: the difference, its interval, and whether it is more than luck.

Conventions: one value a query and model, both in one order; a clip's queries go together. A
difference is the first model less the second; of medians it is that of the two medians, of means
the mean difference.

The test flips signs: were the models alike, a clip's queries might as well have come from either,
so swapping both models' values of random clips shows what differences luck makes. With b of B
random swaps as far from zero as what was found, or farther, p = (1 + b) / (1 + B), two-sided. A
swap that comes exactly as far counts half, but for a swap of nothing or of everything, which
counts whole: recalls are whole numbers of captions, and counted whole their many ties would make
the test reject a true null in 3 % of the cases where it says 5 %. One metric is tested first, on
its own; the others share one level by Holm's steps.

Source: Phipson and Smyth, "Permutation P-values should never be zero", 2010; Lancaster,
"Significance tests in discrete distributions", 1961, for the ties; Holm, "A simple sequentially
rejective multiple test procedure", 1979.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from e2i.errors import RetrievalInputError
from e2i.retrieval.intervals import (
    Interval,
    QueryValues,
    bootstrap_intervals,
    bootstrap_median_differences,
)

FIRST_METRIC = "text_to_audio_mAP@10"
"""Tested on its own, before all others."""

LEVEL = 0.05

_BLOCK_CELLS = 2**22
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class Difference:
    """How two models differ in one metric.

    Attributes:
        first: the first model's value.
        second: the second's.
        value: first less second.
        low: lower end of the 95 % interval of the difference over clips; None where there is one
            clip only.
        high: upper end, likewise.
        p: of the test, two-sided.
        p_holm: the same, adjusted together with all metrics but the first; of the first as it is.
    """

    first: float
    second: float
    value: float
    low: float | None
    high: float | None
    p: float
    p_holm: float


def compare_values(
    metrics: Mapping[str, tuple[QueryValues, QueryValues]], *, resamples: int, flips: int, seed: int
) -> dict[str, Difference]:
    """Compare two models in all metrics.

    Args:
        metrics: by key, the values of either model: the same queries in the same order, with the
            same clips, numbered from 0 without a gap.
        resamples: of the clips, behind the intervals.
        flips: B, random swaps behind each p, at least 1.
        seed: the same seed and values give the same numbers.

    Raises:
        RetrievalInputError: queries differ, a clip has none, or there is no swap.
    """
    found: dict[str, Difference] = {}
    for name, (first, second) in metrics.items():
        _require_paired(name, first, second)
        values = _aggregate(first), _aggregate(second)
        interval = _interval(name, first, second, resamples, seed)
        p = sign_flip_p(first, second, flips, seed)
        low, high = (None, None) if interval is None else (interval.low, interval.high)
        found[name] = Difference(*values, values[0] - values[1], low, high, p, p)
    others = {name: d.p for name, d in found.items() if name != FIRST_METRIC}
    for name, p in holm(others).items():
        d = found[name]
        found[name] = Difference(d.first, d.second, d.value, d.low, d.high, d.p, p)
    return found


def sign_flip_p(first: QueryValues, second: QueryValues, flips: int, seed: int) -> float:
    """The p of the sign-flip test over clips that both models are alike.

    Args:
        first: of one model.
        second: of the other, the same queries in the same order.
        flips: B, at least 1.
        seed: of the swaps.

    Raises:
        RetrievalInputError: there is no swap.
    """
    if flips < 1:
        raise RetrievalInputError(
            f"no difference can be tested without swaps: got {flips}, expected at least 1. "
            "Ask for some."
        )
    num_clips = int(first.clip.max()) + 1
    generator = np.random.default_rng(seed)
    differ = np.bincount(first.clip, first.values != second.values, num_clips) > 0
    mean = first.statistic == "mean"
    apart = np.bincount(first.clip, first.values - second.values, num_clips)
    found = abs(apart.sum() if mean else _aggregate(first) - _aggregate(second))
    rounding = _ROUNDING * (np.abs(apart).sum() if mean else 1.0)
    beyond = 0.0
    for swapped in _swaps(generator, flips, num_clips, num_clips if mean else len(first.values)):
        if mean:
            drawn = np.abs((1.0 - 2.0 * swapped) @ apart)
        else:
            drawn = _swapped_medians(first, second, swapped[:, first.clip] == 1)
        moved = swapped[:, differ].sum(axis=1)
        whole = (moved == 0) | (moved == differ.sum())
        tied = np.abs(drawn - found) <= rounding
        beyond += float(np.where(tied, np.where(whole, 1.0, 0.5), drawn > found).sum())
    return (1.0 + beyond) / (1.0 + flips)


def _swapped_medians(
    first: QueryValues, second: QueryValues, picks: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """How far the medians are apart after swapping the queries picked, (b, Q): float64 (b,)."""
    one = np.median(np.where(picks, second.values, first.values), axis=1)
    other = np.median(np.where(picks, first.values, second.values), axis=1)
    apart: NDArray[np.float64] = np.abs(one - other)
    return apart


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values: those under a level are found together at that level.

    Args:
        p_values: by name.
    """
    adjusted: dict[str, float] = {}
    largest = 0.0
    for place, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = largest
    return adjusted


def _swaps(
    generator: np.random.Generator, flips: int, num_clips: int, width: int
) -> Iterator[NDArray[np.uint8]]:
    """Which clips are swapped, 0 or 1, in blocks (b, C) that bound memory to b × `width`."""
    rows = max(1, _BLOCK_CELLS // width)
    for start in range(0, flips, rows):
        b = min(rows, flips - start)
        # Whole words a row, so that the block size changes no row.
        words = generator.integers(0, 2**64, (b, -(-num_clips // 64)), dtype=np.uint64)
        yield np.unpackbits(words.astype("<u8").view(np.uint8), axis=1, count=num_clips)


def _interval(
    name: str, first: QueryValues, second: QueryValues, resamples: int, seed: int
) -> Interval | None:
    num_clips = int(first.clip.max()) + 1
    if num_clips < 2 or resamples < 1:
        return None
    if first.statistic == "median":
        return bootstrap_median_differences(first, second, num_clips, resamples, seed)
    apart = QueryValues(first.values - second.values, first.clip, "mean")
    return bootstrap_intervals({name: apart}, num_clips, resamples, seed)[name]


def _aggregate(metric: QueryValues) -> float:
    values = metric.values
    return float(values.mean() if metric.statistic == "mean" else np.median(values))


def _require_paired(name: str, first: QueryValues, second: QueryValues) -> None:
    if first.statistic != second.statistic or not np.array_equal(first.clip, second.clip):
        raise RetrievalInputError(
            f"the values of {name} are of different queries: got {len(first.values)} and "
            f"{len(second.values)}, expected the same queries of the same clips in one order. "
            "Evaluate both on one cache."
        )
