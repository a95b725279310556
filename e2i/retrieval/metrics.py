"""Retrieval metrics: recall, average precision and the rank of the best positive.

Conventions: similarity (Q, N) float, higher is closer; positives (Q, N) bool, one or several a
query; k in [1, N]; rank 1 is best. Each metric is its expectation over all orders of tied
candidates, so a constant scorer gets chance: neither zero nor one. All is computed in float64 from
integer counts. `..._per_query` functions take the counts of `ranks`; the others a whole matrix.

For a tie group of n candidates, p of them positive, g candidates and a positives above it:
- the chance that none of its first j is positive is C(n − p, j) / C(n, j);
- place j is positive with probability p / n, and then (j − 1)(p − 1) / (n − 1) positives are
  expected before it in the group;
- the first positive is expected at place (n + 1) / (p + 1).

Source: McSherry and Najork, "Computing information retrieval performance measures efficiently in
the presence of tied scores", ECIR 2008.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from e2i.errors import RetrievalInputError
from e2i.retrieval.ranks import PositiveRanks, positive_columns, rank_positives


def recall_at_k(similarity: Tensor, positives: Tensor, k: int) -> float:
    """Share of queries with at least one positive among their k best candidates.

    Ties: with one positive, g candidates above it and t tied with it, the query counts
    clamp((k − g) / (t + 1), 0, 1).

    Args:
        similarity: (Q, N) float, higher is closer.
        positives: (Q, N) bool, at least one True in each row.
        k: cut-off in [1, N].

    Raises:
        RetrievalInputError: shapes differ, k is out of range, a score is NaN, or a query has no
            positive.

    Source: DCASE 2025 Task 6, text-to-audio recall; ties as McSherry and Najork 2008.
    """
    return float(recall_per_query(_matrix_ranks(similarity, positives), k).mean())


def average_precision_at_k(similarity: Tensor, positives: Tensor, k: int) -> NDArray[np.float64]:
    """Average precision of each query over its k best candidates.

    The sum over the positives found up to rank k of the precision there, divided by the number of
    positives: a query with more than k of them stays under 1.

    Ties: with one positive, g candidates above it and t tied with it, the query counts the sum
    over r from g + 1 to min(k, g + t + 1) of 1 / (r (t + 1)).

    Args:
        similarity: (Q, N) float, higher is closer.
        positives: (Q, N) bool, at least one True in each row.
        k: cut-off in [1, N].

    Returns:
        float64 (Q,).

    Raises:
        RetrievalInputError: shapes differ, k is out of range, a score is NaN, or a query has no
            positive.

    Source: DCASE 2025 Task 6, mAP@10; ties as McSherry and Najork 2008.
    """
    return average_precision_per_query(_matrix_ranks(similarity, positives), k)


def mean_average_precision_at_k(similarity: Tensor, positives: Tensor, k: int) -> float:
    """Mean of `average_precision_at_k` over the queries.

    Args:
        similarity: (Q, N) float, higher is closer.
        positives: (Q, N) bool, at least one True in each row.
        k: cut-off in [1, N].

    Raises:
        RetrievalInputError: shapes differ, k is out of range, a score is NaN, or a query has no
            positive.

    Source: DCASE 2025 Task 6, mAP@10; ties as McSherry and Najork 2008.
    """
    return float(average_precision_at_k(similarity, positives, k).mean())


def median_rank(similarity: Tensor, positives: Tensor) -> float:
    """Median over the queries of the rank of the best positive.

    Ties: with one positive, g candidates above it and t tied with it, its rank is g + 1 + t / 2.

    Args:
        similarity: (Q, N) float, higher is closer.
        positives: (Q, N) bool, at least one True in each row.

    Raises:
        RetrievalInputError: shapes differ, a score is NaN, or a query has no positive.
    """
    return float(np.median(rank_per_query(_matrix_ranks(similarity, positives))))


def recall_per_query(ranks: PositiveRanks, k: int) -> NDArray[np.float64]:
    """Probability that at least one positive is among the first k, float64 (Q,).

    Raises:
        RetrievalInputError: k is out of range.
    """
    _require_cutoff(k, ranks.num_candidates)
    tied = ranks.tied[:, 0]
    positives = ranks.positives_tied[:, 0]
    inside = np.clip(k - ranks.above[:, 0], 0, tied)
    # C(n − p, j) / C(n, j) = Π over i < p of (n − j − i) / (n − i): p factors, however large n is.
    missed = np.ones(len(tied), dtype=np.float64)
    for i in range(int(positives.max())):
        factor = np.maximum(tied - inside - i, 0) / np.maximum(tied - i, 1)
        missed *= np.where(i < positives, factor, 1.0)
    return 1.0 - missed


def average_precision_per_query(ranks: PositiveRanks, k: int) -> NDArray[np.float64]:
    """Expected average precision over the first k, float64 (Q,).

    Raises:
        RetrievalInputError: k is out of range.
    """
    _require_cutoff(k, ranks.num_candidates)
    above, tied = ranks.above, ranks.tied
    inside = np.clip(k - above, 0, tied)
    # The group gives p/n · Σ_j (a + 1 + (j − 1) c) / (g + j) over its places j up to `inside`,
    # c = (p − 1) / (n − 1); with H = Σ_j 1 / (g + j) this is p/n · ((a + 1 − c (g + 1)) H + c j).
    # Each of its p positives is an entry of its own here, so the factor p falls away.
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, k + 1))])
    start = np.minimum(above, k)
    reciprocals = harmonic[start + inside] - harmonic[start]
    slope = (ranks.positives_tied - 1) / np.maximum(tied - 1, 1)
    found = (ranks.positives_above + 1 - slope * (above + 1)) * reciprocals + slope * inside
    alone = np.where(inside > 0, (ranks.positives_above + 1) / (above + 1), 0.0)
    entries = np.where(tied == 1, alone, found / tied)
    total: NDArray[np.float64] = entries.sum(axis=1) / ranks.num_positives
    return total


def rank_per_query(ranks: PositiveRanks) -> NDArray[np.float64]:
    """Expected rank of the best positive, float64 (Q,)."""
    best: NDArray[np.float64] = ranks.above[:, 0] + (ranks.tied[:, 0] + 1) / (
        ranks.positives_tied[:, 0] + 1
    )
    return best


def _matrix_ranks(similarity: Tensor, positives: Tensor) -> PositiveRanks:
    if similarity.ndim != 2 or similarity.shape != positives.shape:
        raise RetrievalInputError(
            f"similarity and positives differ in shape: got {tuple(similarity.shape)} and "
            f"{tuple(positives.shape)}, expected (queries, candidates) both. "
            "Make one mask entry a score."
        )
    columns = positive_columns(positives)
    return rank_positives([similarity.detach()], columns)


def _require_cutoff(k: int, num_candidates: int) -> None:
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= num_candidates:
        raise RetrievalInputError(
            f"the cut-off k is out of range: got {k}, expected a whole number from 1 to "
            f"{num_candidates}, the number of candidates. Choose a smaller k."
        )
