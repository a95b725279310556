"""Counts of positives: blocks of any size, ragged rows, and what is refused."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from e2i.errors import RetrievalInputError
from e2i.retrieval import ranks as ranks_module
from e2i.retrieval.ranks import PositiveRanks, positive_columns, rank_positives


def ragged_task(queries=23, candidates=40, seed=5):
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.randint(0, 12, (queries, candidates), generator=generator).float()
    positives = torch.rand(queries, candidates, generator=generator) < 0.1
    positives[torch.arange(queries), torch.arange(queries)] = True
    return similarity, positives


def assert_same(left: PositiveRanks, right: PositiveRanks) -> None:
    assert left.num_candidates == right.num_candidates
    for name in ("num_positives", "above", "tied", "positives_above", "positives_tied"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), err_msg=name)


def test_counts_are_what_counting_one_by_one_gives():
    similarity, positives = ragged_task()
    found = rank_positives([similarity], positive_columns(positives))
    assert found.above.dtype == np.int64
    for query, (row, marks) in enumerate(zip(similarity.numpy(), positives.numpy(), strict=True)):
        scores = np.sort(row[marks])[::-1]
        width = len(scores)
        assert found.num_positives[query] == width
        expected = [[(row > s).sum() for s in scores], [(row == s).sum() for s in scores]]
        expected += [[(scores > s).sum() for s in scores], [(scores == s).sum() for s in scores]]
        counts = (found.above, found.tied, found.positives_above, found.positives_tied)
        assert [count[query, :width].tolist() for count in counts] == expected
        assert found.is_entry[query].sum() == width
        filled = [count[query, width:].tolist() for count in counts]
        rest = found.above.shape[1] - width
        assert filled == [[40] * rest, [1] * rest, [width] * rest, [1] * rest]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12))
def test_uneven_blocks_give_what_the_whole_gives(sizes):
    similarity, positives = ragged_task(queries=sum(sizes), candidates=108, seed=sum(sizes))
    columns = positive_columns(positives)
    assert_same(
        rank_positives(similarity.split(sizes), columns), rank_positives([similarity], columns)
    )


def test_sorting_a_row_gives_what_comparing_gives(monkeypatch):
    similarity, positives = ragged_task()
    columns = positive_columns(positives)
    compared = rank_positives([similarity], columns)
    monkeypatch.setattr(ranks_module, "_SORT_FROM", 1)
    assert_same(rank_positives([similarity], columns), compared)
    # Views with other strides too.
    assert_same(rank_positives([similarity.T.contiguous().T], columns), compared)


def test_positive_columns_are_filled_with_minus_one():
    mask = torch.tensor([[False, True, True], [True, False, False]])
    assert positive_columns(mask).tolist() == [[1, 2], [0, -1]]


def test_tiles_of_a_block_change_nothing(monkeypatch):
    similarity, positives = ragged_task()
    columns = positive_columns(positives)
    expected = rank_positives([similarity], columns)
    monkeypatch.setattr(ranks_module, "_TILE_CELLS", 100)  # two rows and a bit
    assert_same(rank_positives(similarity.split(9), columns), expected)
    similarity[17, 3] = torch.nan
    with pytest.raises(RetrievalInputError, match="a score of query 17 is NaN"):
        rank_positives(similarity.split(9), columns)


def test_constant_scorer_is_a_matrix_of_one_value():
    positives = ragged_task()[1]
    columns = positive_columns(positives)
    counted = rank_positives([torch.zeros(positives.shape)], columns)
    assert_same(PositiveRanks.of_constant_scorer(40, counted.num_positives), counted)


def test_blocks_are_let_go_one_after_another():
    similarity, positives = ragged_task()
    made: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def blocks():
        for row in similarity:
            alive.append(sum(block() is not None for block in made))
            block = row[None].clone()
            made.append(weakref.ref(block))
            yield block
            del block

    rank_positives(blocks(), positive_columns(positives))
    assert len(alive) == 23
    assert max(alive) <= 1


def test_nan_names_the_query_across_blocks():
    similarity, positives = ragged_task()
    similarity[17, 3] = torch.nan
    with pytest.raises(
        RetrievalInputError,
        match=r"a score of query 17 is NaN: got nan, expected a number\. Look for NaN in its embed",
    ):
        rank_positives(similarity.split(5), positive_columns(positives))


@pytest.mark.parametrize(("rows", "told"), [(22, "got 22 and 23"), (24, "got at least 24 and 23")])
def test_too_few_and_too_many_rows_are_errors(rows, told):
    _, positives = ragged_task()
    with pytest.raises(RetrievalInputError, match=f"differ in queries: {told}, expected one row"):
        rank_positives(torch.zeros(rows, 40).split(7), positive_columns(positives))


def test_blocks_of_different_widths_are_an_error():
    blocks = [torch.zeros(2, 4), torch.zeros(1, 5)]
    with pytest.raises(RetrievalInputError, match="got 5 from query 2 on, expected 4 as before"):
        rank_positives(blocks, torch.zeros(3, 1, dtype=torch.int64))


def test_a_positive_that_is_no_candidate_is_an_error():
    with pytest.raises(
        RetrievalInputError, match="no candidate: got column 4, expected less than 4"
    ):
        rank_positives([torch.zeros(1, 4)], torch.tensor([[4]]))


def test_queries_without_positives_are_errors():
    with pytest.raises(RetrievalInputError, match="query 1 has no positive: got 0, expected at le"):
        rank_positives([torch.zeros(2, 4)], torch.tensor([[0], [-1]]))
    with pytest.raises(RetrievalInputError, match=r"got positives of shape \(0, 1\), expected"):
        rank_positives([], torch.zeros(0, 1, dtype=torch.int64))
