"""Scores taken apart: by rank, and by what a caption or clip is like.

Conventions: Q queries; a query's rank is that of its best positive. Ties count as everywhere: a
query whose tie group spans several ranks counts for each of them by its share, so that the share of
ranks up to k is R@k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from e2i.retrieval.config import EvaluationConfig
from e2i.retrieval.evaluation import QueryTable
from e2i.retrieval.intervals import QueryValues, bootstrap_intervals
from e2i.retrieval.ranks import PositiveRanks


@dataclass(frozen=True, slots=True)
class GroupScore:
    """The mean of a metric over a group of queries.

    Attributes:
        value: the mean.
        low: lower end of its 95 % interval over clips; None where the group says nothing of
            others: one clip only, or the same value for all queries.
        high: upper end, likewise.
    """

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Group:
    """Captions that are alike in one respect.

    Attributes:
        low: smallest value of that respect in the group.
        high: largest.
        num_captions: queries in it.
        num_clips: clips that they describe.
        scores: of each model.
    """

    low: float
    high: float
    num_captions: int
    num_clips: int
    scores: tuple[GroupScore, ...]


@dataclass(frozen=True, slots=True)
class Breakdown:
    """A metric by groups of captions.

    Attributes:
        name: the respect, such as `caption length`.
        unit: of its values.
        groups: ascending; each caption is in one.
    """

    name: str
    unit: str
    groups: tuple[Group, ...]


def rank_edges(num_candidates: int) -> tuple[int, ...]:
    """The first rank of each bin, and one past the last.

    The bins end at 1, 2, 5, 10, 20, 50, 100, …, so that recalls can be read from them; the last one
    ends at `num_candidates`.
    """
    starts = {1, 2, 3}
    decade = 1
    while decade <= num_candidates:
        starts |= {5 * decade + 1, 10 * decade + 1, 20 * decade + 1}
        decade *= 10
    return (*sorted(start for start in starts if start <= num_candidates), num_candidates + 1)


def rank_shares(ranks: PositiveRanks, edges: ArrayLike) -> NDArray[np.float64]:
    """The share of queries whose rank lies in each bin, float64 (bins,), summing to 1.

    Args:
        ranks: of queries with one positive each.
        edges: the first rank of each bin, and one past the last, as `rank_edges` gives them.
    """
    bounds = np.asarray(edges, dtype=np.int64)
    first = ranks.above[:, :1] + 1
    last = ranks.above[:, :1] + ranks.tied[:, :1]
    inside = np.minimum(last, bounds[1:] - 1) - np.maximum(first, bounds[:-1]) + 1
    shares: NDArray[np.float64] = (np.maximum(inside, 0) / ranks.tied[:, :1]).mean(axis=0)
    return shares


def quantile_groups(values: ArrayLike, count: int) -> list[NDArray[np.int64]]:
    """Indices of the values in up to `count` groups, the smallest values first.

    The groups are as equally large as can be without parting equal values, none is empty, and each
    index is in exactly one.

    Args:
        values: (Q,), finite numbers, at least one.
        count: groups wanted, at least 1.
    """
    array = np.asarray(values)
    cuts = np.unique(np.quantile(array, np.arange(1, count) / count, method="inverted_cdf"))
    group = np.searchsorted(cuts, array, side="left")
    found = (np.flatnonzero(group == number) for number in range(len(cuts) + 1))
    return [indices for indices in found if len(indices)]


def group_score(
    table: QueryTable, metric: str, queries: NDArray[np.int64], config: EvaluationConfig
) -> GroupScore:
    """A metric over some of the queries of an evaluation; the candidates stay all of them.

    Args:
        table: one direction of the evaluation.
        metric: a mean over queries, named as in `table.values`.
        queries: indices of at least one query.
        config: resamples and seed of the interval.
    """
    values = table.values[metric][queries]
    clips, clip = np.unique(table.clip[queries], return_inverse=True)
    mean = float(values.mean())
    if len(clips) < 2 or config.bootstrap_resamples == 0 or np.ptp(values) == 0:
        return GroupScore(mean, None, None)
    interval = bootstrap_intervals(
        {metric: QueryValues(values, clip.astype(np.int64), "mean")},
        len(clips),
        config.bootstrap_resamples,
        config.bootstrap_seed,
    )[metric]
    return GroupScore(mean, interval.low, interval.high)


def breakdown(
    respect: tuple[str, str],
    values: NDArray[np.float64] | NDArray[np.int64],
    tables: Sequence[QueryTable],
    metric: str,
    *,
    groups: int,
    config: EvaluationConfig,
) -> Breakdown:
    """A metric by groups of captions.

    Args:
        respect: what the captions are grouped by, and its unit.
        values: (N,), that of each caption.
        tables: of each model, text→audio, on the same captions.
        metric: a mean over queries, named as in `QueryTable.values`.
        groups: how many, at most.
        config: resamples and seed of the intervals.
    """
    return Breakdown(
        *respect,
        groups=tuple(
            Group(
                low=float(values[queries].min()),
                high=float(values[queries].max()),
                num_captions=len(queries),
                num_clips=len(np.unique(tables[0].clip[queries])),
                scores=tuple(group_score(table, metric, queries, config) for table in tables),
            )
            for queries in quantile_groups(values, groups)
        ),
    )


def edge_labels(edges: tuple[int, ...]) -> tuple[str, ...]:
    """What the bins are called: 1, 2, 3–5 and so on."""
    return tuple(
        str(first) if after == first + 1 else f"{first}–{after - 1}"
        for first, after in pairwise(edges)
    )
