"""Recall among fewer candidates: against all draws there are, and against what is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from e2i.errors import RetrievalInputError
from e2i.retrieval.fewer_candidates import recall_among
from e2i.retrieval.metrics import recall_per_query
from e2i.retrieval.ranks import rank_positives


def _ranks(similarity: list[list[float]], positive: int = 0):
    return rank_positives(
        [torch.tensor(similarity)], torch.full((len(similarity), 1), positive, dtype=torch.int64)
    )


def _naive(row: list[float], k: int, candidates: int) -> float:
    """Mean over every choice of wrong candidates and every order of ties."""
    found = []
    for others in itertools.combinations(row[1:], candidates - 1):
        above = sum(score > row[0] for score in others)
        tied = sum(score == row[0] for score in others)
        found.append(min(max((k - above) / (tied + 1), 0.0), 1.0))
    return float(np.mean(found))


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("candidates", [3, 5, 8])
def test_it_is_the_mean_over_all_draws(k: int, candidates: int) -> None:
    rows = [
        [0.5, 0.1, 0.2, 0.9, 0.3, 0.8, 0.4, 0.7],
        [0.5, 0.5, 0.5, 0.9, 0.3, 0.8, 0.5, 0.7],
        [0.0, 0.5, 0.5, 0.9, 0.3, 0.8, 0.5, 0.7],
        [1.0, 0.5, 0.5, 0.9, 0.3, 0.8, 0.5, 0.7],
        [0.5] * 8,
    ]
    found = recall_among(_ranks(rows), k, candidates)
    assert found == pytest.approx([_naive(row, k, candidates) for row in rows], abs=1e-12)


def test_among_all_candidates_it_is_the_recall_itself() -> None:
    generator = torch.Generator().manual_seed(3)
    ranks = _ranks(torch.randn((50, 300), generator=generator).tolist())
    for k in (1, 10, 300):
        assert recall_among(ranks, k, 300) == pytest.approx(recall_per_query(ranks, k), abs=1e-9)


def test_what_cannot_be_drawn_is_refused() -> None:
    ranks = _ranks([[0.5, 0.1, 0.2]])
    with pytest.raises(RetrievalInputError, match="got k 2, 4 of 3 candidates"):
        recall_among(ranks, 2, 4)
    with pytest.raises(RetrievalInputError, match="got k 3, 2 of 3 candidates"):
        recall_among(ranks, 3, 2)
    several = rank_positives([torch.tensor([[0.5, 0.1, 0.2]])], torch.tensor([[0, 1]]))
    with pytest.raises(RetrievalInputError, match="up to 2 positives a query"):
        recall_among(several, 1, 2)
