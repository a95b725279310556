from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2i.report.breakdown import (
    edge_labels,
    group_score,
    quantile_groups,
    rank_edges,
    rank_shares,
)
from e2i.retrieval.config import EvaluationConfig
from e2i.retrieval.evaluation import QueryTable
from e2i.retrieval.metrics import recall_per_query
from e2i.retrieval.ranks import PositiveRanks


def ranks_of(above, tied, num_candidates):
    above, tied = np.array(above)[:, None], np.array(tied)[:, None]
    ones = np.ones(len(above), dtype=np.int64)
    return PositiveRanks(num_candidates, ones, above, tied, 0 * above, ones[:, None])


@pytest.mark.parametrize(
    ("candidates", "labels"),
    [
        (1, ("1",)),
        (4, ("1", "2", "3–4")),
        (5, ("1", "2", "3–5")),
        (6, ("1", "2", "3–5", "6")),
        (100, ("1", "2", "3–5", "6–10", "11–20", "21–50", "51–100")),
        (
            1045,
            (
                *("1", "2", "3–5", "6–10", "11–20", "21–50", "51–100", "101–200", "201–500"),
                *("501–1000", "1001–1045"),
            ),
        ),
    ],
)
def test_bins_of_ranks_end_at_1_2_5_10(candidates, labels):
    assert edge_labels(rank_edges(candidates)) == labels


def test_a_tie_group_counts_for_each_rank_it_spans():
    # Ranks 1; 5 to 8, of which 5 lies in the bin 3–5 and three lie in 6–10.
    shares = rank_shares(ranks_of([0, 4], [1, 4], 10), rank_edges(10))
    assert shares.tolist() == [0.5, 0.0, 0.125, 0.375]


@given(
    st.integers(10, 300).flatmap(
        lambda n: st.tuples(
            st.just(n),
            st.lists(
                st.integers(0, n - 1).flatmap(
                    lambda g: st.tuples(st.just(g), st.integers(1, n - g))
                ),
                min_size=1,
                max_size=20,
            ),
        )
    )
)
def test_ranks_up_to_k_are_the_recall_at_k(drawn):
    candidates, rows = drawn
    above, tied = zip(*rows, strict=True)
    ranks = ranks_of(above, tied, candidates)
    edges = rank_edges(candidates)
    shares = rank_shares(ranks, edges)
    assert shares.sum() == pytest.approx(1.0)
    for k in (1, 5, 10):
        inside = np.array(edges[1:]) <= k + 1
        assert shares[inside].sum() == pytest.approx(recall_per_query(ranks, k).mean())


@given(
    st.lists(st.integers(-5, 40) | st.floats(0, 30), min_size=1, max_size=60),
    st.integers(1, 10),
)
def test_groups_part_the_values_in_order(values, count):
    groups = quantile_groups(values, count)
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(values)))
    assert 1 <= len(groups) <= count
    ends = [(min(values[i] for i in g), max(values[i] for i in g)) for g in groups]
    assert all(before[1] < after[0] for before, after in pairwise(ends))


def test_groups_are_equally_large_where_values_allow():
    assert [len(group) for group in quantile_groups(np.arange(12), 4)] == [3, 3, 3, 3]
    assert [len(group) for group in quantile_groups([7.5] * 9, 4)] == [9]


def table(values, clip):
    return QueryTable(
        "text_to_audio",
        np.arange(len(clip)),
        np.array(clip),
        ranks_of([0], [1], 1),
        {"R@1": np.array(values)},
    )


def test_a_group_is_scored_over_its_own_queries():
    config = EvaluationConfig(bootstrap_resamples=200)
    queries = np.array([0, 1, 4, 5])
    score = group_score(
        table([1.0, 0.0, 9.0, 9.0, 1.0, 1.0], [7, 7, 1, 1, 3, 4]), "R@1", queries, config
    )
    assert score.value == 0.75
    assert 0.0 <= score.low < 0.75 < score.high <= 1.0


@pytest.mark.parametrize(
    ("values", "clip", "resamples"),
    [([1.0, 0.0], [3, 3], 50), ([1.0, 1.0], [0, 1], 50), ([1.0, 0.0], [0, 1], 0)],
    ids=["one clip", "all the same", "no resamples"],
)
def test_a_group_that_says_nothing_of_others_has_no_interval(values, clip, resamples):
    config = EvaluationConfig(bootstrap_resamples=resamples)
    score = group_score(table(values, clip), "R@1", np.array([0, 1]), config)
    assert (score.value, score.low, score.high) == (np.mean(values), None, None)
