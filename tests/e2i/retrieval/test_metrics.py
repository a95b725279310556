"""Metrics: against the naive oracle, by hand, and on the structure of Clotho."""

from __future__ import annotations

import csv
import itertools
import os
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from e2i.errors import RetrievalInputError
from e2i.retrieval import ranks as ranks_module
from e2i.retrieval.metrics import (
    average_precision_at_k,
    mean_average_precision_at_k,
    median_rank,
    recall_at_k,
)

# Rows: clips a to d; columns: their captions, two each. Made up; b is tied with a's captions, d's
# captions are tied with each other, c4 stands between two clips of equal score.
GOLDEN = torch.tensor(
    [
        [9, 4, 7, 1, 1, 0, 3, 2],
        [5, 5, 5, 2, 1, 0, 3, 4],
        [8, 7, 6, 5, 4, 3, 2, 1],
        [0, 1, 2, 3, 4, 4, 9, 9],
    ],
    dtype=torch.float32,
)
GOLDEN_POSITIVES = torch.eye(4, dtype=torch.bool).repeat_interleave(2, dim=1)


@st.composite
def tasks(draw):
    """Few distinct scores, so that most candidates are tied; one or several positives."""
    queries, candidates = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    row = st.lists(st.integers(0, 3), min_size=candidates, max_size=candidates)
    mask = st.lists(st.booleans(), min_size=candidates, max_size=candidates).filter(any)
    similarity = draw(st.lists(row, min_size=queries, max_size=queries))
    positives = draw(st.lists(mask, min_size=queries, max_size=queries))
    return similarity, positives, draw(st.integers(1, candidates))


@pytest.mark.parametrize("sort_from", [1, 24], ids=["rows sorted", "rows compared"])
def test_agrees_with_the_mean_over_all_orders_of_ties(oracle, monkeypatch, sort_from):
    monkeypatch.setattr(ranks_module, "_SORT_FROM", sort_from)

    @settings(deadline=None, max_examples=150)
    @given(tasks())
    def check(task):
        scores, mask, k = task
        expected = [oracle(row, marks, k) for row, marks in zip(scores, mask, strict=True)]
        similarity, positives = torch.tensor(scores, dtype=torch.float32), torch.tensor(mask)
        recall = statistics.mean(r for r, _, _ in expected)
        precision = statistics.mean(p for _, p, _ in expected)
        rank = statistics.median(r for _, _, r in expected)
        assert recall_at_k(similarity, positives, k) == pytest.approx(float(recall), abs=1e-9)
        found = average_precision_at_k(similarity, positives, k)
        np.testing.assert_allclose(found, [float(p) for _, p, _ in expected], atol=1e-9, rtol=0)
        mean = mean_average_precision_at_k(similarity, positives, k)
        assert mean == pytest.approx(float(precision), abs=1e-9)
        assert median_rank(similarity, positives) == pytest.approx(float(rank), abs=1e-9)

    check()


def test_golden_audio_to_text():
    # a: its captions at 1 and 3. b: one among three tied at the top, one at 6. c: at 5 and 6.
    # d: both tied at the top.
    assert recall_at_k(GOLDEN, GOLDEN_POSITIVES, 1) == pytest.approx((1 + 1 / 3 + 0 + 1) / 4)
    assert recall_at_k(GOLDEN, GOLDEN_POSITIVES, 2) == pytest.approx((1 + 2 / 3 + 0 + 1) / 4)
    assert recall_at_k(GOLDEN, GOLDEN_POSITIVES, 5) == 1.0
    precision = average_precision_at_k(GOLDEN, GOLDEN_POSITIVES, 5)
    expected = [(1 + 2 / 3) / 2, (1 + 1 / 2 + 1 / 3) / 3 / 2, (1 / 5) / 2, 1.0]
    np.testing.assert_allclose(precision, expected, atol=1e-12)
    mean = mean_average_precision_at_k(GOLDEN, GOLDEN_POSITIVES, 5)
    assert mean == pytest.approx(403 / 720, abs=1e-12)
    assert median_rank(GOLDEN, GOLDEN_POSITIVES) == 1.5  # of 1, 2, 5 and 1


def test_golden_text_to_audio():
    similarity, positives = GOLDEN.T, GOLDEN_POSITIVES.T
    # Ranks 1, 3, 3, 3, 1 or 2 (tied), 2, 1, 1.
    assert recall_at_k(similarity, positives, 1) == 3.5 / 8
    assert recall_at_k(similarity, positives, 2) == 5 / 8
    assert recall_at_k(similarity, positives, 3) == 1.0
    precision = average_precision_at_k(similarity, positives, 3)
    expected = [1, 1 / 3, 1 / 3, 1 / 3, (1 + 1 / 2) / 2, 1 / 2, 1, 1]
    np.testing.assert_allclose(precision, expected, atol=1e-15)
    assert mean_average_precision_at_k(similarity, positives, 3) == pytest.approx(5.25 / 8)
    assert median_rank(similarity, positives) == 1.75  # between 1.5 and 2


def test_more_positives_than_k_stay_under_one():
    similarity = torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0, 0.0]])
    positives = torch.tensor([[True, True, True, True, True, False]])
    assert average_precision_at_k(similarity, positives, 2)[0] == 2 / 5
    assert average_precision_at_k(similarity, positives, 6)[0] == 1.0


@settings(deadline=None, max_examples=60)
@given(tasks())
def test_recall_grows_with_k_and_is_one_at_the_end(task):
    similarity, positives = torch.tensor(task[0], dtype=torch.float32), torch.tensor(task[1])
    recalls = [recall_at_k(similarity, positives, k + 1) for k in range(similarity.shape[1])]
    assert all(low <= high for low, high in itertools.pairwise(recalls))
    assert recalls[-1] == 1.0


@settings(deadline=None, max_examples=60)
@given(tasks(), st.randoms(use_true_random=False))
def test_the_order_of_candidates_and_queries_does_not_matter(task, random):
    similarity, positives = torch.tensor(task[0], dtype=torch.float32), torch.tensor(task[1])
    rows, columns = list(range(len(similarity))), list(range(similarity.shape[1]))
    random.shuffle(rows)
    random.shuffle(columns)
    moved, moved_positives = similarity[rows][:, columns], positives[rows][:, columns]
    k = task[2]
    assert recall_at_k(moved, moved_positives, k) == pytest.approx(
        recall_at_k(similarity, positives, k), abs=1e-12
    )
    np.testing.assert_array_equal(
        average_precision_at_k(moved, moved_positives, k),
        average_precision_at_k(similarity, positives, k)[rows],
    )
    assert median_rank(moved, moved_positives) == median_rank(similarity, positives)


def test_many_positives_and_long_tie_groups_stay_exact():
    # Everything tied: the closed form against its sum, term by term.
    candidates, positive, k = 40_000, 3, 20_000
    mask = torch.zeros(1, candidates, dtype=torch.bool)
    mask[0, [5, 77, 30_000]] = True
    similarity = torch.zeros(1, candidates)
    place = np.arange(1, k + 1, dtype=np.float64)
    before = (place - 1) * (positive - 1) / (candidates - 1)
    terms = positive / candidates * (1 + before) / place / positive
    found = average_precision_at_k(similarity, mask, k)[0]
    assert found == pytest.approx(float(terms.sum()), abs=1e-12)
    half = recall_at_k(similarity, mask, k)
    missed = np.prod([(candidates - k - i) / (candidates - i) for i in range(positive)])
    assert half == pytest.approx(1 - missed, abs=1e-12)
    assert median_rank(similarity, mask) == (candidates + 1) / (positive + 1)


def test_half_of_the_candidates_positive():
    generator = torch.Generator().manual_seed(3)
    similarity = torch.randint(0, 20, (30, 200), generator=generator).float()
    positives = torch.rand(30, 200, generator=generator) < 0.5
    precision = average_precision_at_k(similarity, positives, 50)
    for query in range(30):
        row, marks = similarity[query].numpy(), positives[query].numpy()
        expected, place, found = 0.0, 0, 0
        for value in sorted(set(row.tolist()), reverse=True):
            n, p = int((row == value).sum()), int((marks & (row == value)).sum())
            for j in range(1, n + 1):
                if place + j <= 50:
                    before = (j - 1) * (p - 1) / (n - 1) if n > 1 else 0.0
                    expected += p / n * (found + 1 + before) / (place + j)
            place, found = place + n, found + p
        assert precision[query] == pytest.approx(expected / int(marks.sum()), abs=1e-12)


def test_means_are_taken_in_float64():
    # In float32 a tenth itself is off by 1.5e-9.
    similarity = torch.zeros(300_000, 10)
    positives = torch.zeros(300_000, 10, dtype=torch.bool)
    positives[:, 4] = True
    assert recall_at_k(similarity, positives, 1) == pytest.approx(0.1, abs=1e-13)


def test_infinite_scores_are_scores():
    similarity = torch.tensor([[torch.inf, 0.0, -torch.inf, -torch.inf]])
    positives = torch.tensor([[False, False, True, False]])
    assert median_rank(similarity, positives) == 3.5


@pytest.mark.parametrize("k", [0, -1, 9, 2.0, True])
def test_k_out_of_range_is_an_error(k):
    message = (
        rf"the cut-off k is out of range: got {k}, expected a whole number from 1 to 8, "
        r"the number of candidates\. Choose a smaller k\."
    )
    with pytest.raises(RetrievalInputError, match=message):
        recall_at_k(GOLDEN, GOLDEN_POSITIVES, k)
    with pytest.raises(RetrievalInputError, match=message):
        mean_average_precision_at_k(GOLDEN, GOLDEN_POSITIVES, k)


def test_nan_names_the_query():
    similarity = GOLDEN.clone()
    similarity[2, 7] = torch.nan
    with pytest.raises(RetrievalInputError, match="a score of query 2 is NaN: got nan, expected"):
        median_rank(similarity, GOLDEN_POSITIVES)


def test_shapes_that_differ_are_an_error():
    with pytest.raises(
        RetrievalInputError,
        match=r"differ in shape: got \(8, 4\) and \(4, 8\), expected \(queries, candidates\) both",
    ):
        recall_at_k(GOLDEN.T, GOLDEN_POSITIVES, 1)


def test_a_query_without_a_positive_is_named():
    positives = GOLDEN_POSITIVES.clone()
    positives[3] = False
    with pytest.raises(RetrievalInputError, match="query 3 has no positive: got 0, expected at"):
        recall_at_k(GOLDEN, positives, 1)


def test_positives_must_be_bool_and_scores_float():
    with pytest.raises(RetrievalInputError, match=r"no mask: got torch\.int64, expected torch\.b"):
        recall_at_k(GOLDEN, GOLDEN_POSITIVES.long(), 1)
    with pytest.raises(RetrievalInputError, match=r"no matrix of scores: got torch\.int64 of shap"):
        recall_at_k(GOLDEN.long(), GOLDEN_POSITIVES, 1)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0)])
def test_no_query_or_no_candidate_is_an_error(shape):
    with pytest.raises(RetrievalInputError, match="positives are no task: got shape"):
        recall_at_k(torch.zeros(shape), torch.zeros(shape, dtype=torch.bool), 1)


def clotho_caption_counts() -> list[int]:
    folder = os.environ.get("E2I_CLOTHO_CAPTIONS")
    if not folder:
        pytest.skip("E2I_CLOTHO_CAPTIONS is not set: no Clotho captions here")
    path = Path(folder) / "clotho_captions_evaluation.csv"
    with path.open(encoding="utf-8", errors="replace", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [sum(bool(text) for key, text in row.items() if key != "file_name") for row in rows]


def naive_scores(order: np.ndarray, positives: np.ndarray) -> tuple[list[float], float, float]:
    """R@1, R@5, R@10, mAP@10 and median rank of rankings without ties, query by query."""
    hits, precisions, firsts = [], [], []
    for ranking, marks in zip(order, positives, strict=True):
        places = np.flatnonzero(marks[ranking]) + 1
        hits.append([places[0] <= k for k in (1, 5, 10)])
        early = [(i + 1) / place for i, place in enumerate(places) if place <= 10]
        precisions.append(sum(early) / len(places))
        firsts.append(places[0])
    recalls = [statistics.fmean(column) for column in zip(*hits, strict=True)]
    return recalls, statistics.fmean(precisions), float(statistics.median(firsts))


def test_on_the_structure_of_clotho():
    counts = clotho_caption_counts()
    assert len(counts) == 1_045
    assert sum(counts) == 5_225
    clip = np.repeat(np.arange(1_045), counts)
    generator = np.random.default_rng(11)
    text_to_audio = clip[:, None] == np.arange(1_045)
    for positives in (text_to_audio, text_to_audio.T):
        # Distinct whole numbers below 2^24 are exact in float32, so nothing is tied; positives are
        # lifted so that a good part of them is found.
        noise = generator.random(positives.shape) + 0.25 * positives
        order = np.argsort(-noise, axis=1)
        scores = np.empty(positives.shape, dtype=np.float32)
        np.put_along_axis(scores, order, np.arange(positives.shape[1], 0, -1, np.float32)[None], 1)
        recalls, precision, median = naive_scores(order, positives)
        similarity, mask = torch.from_numpy(scores), torch.from_numpy(positives)
        assert 0.0 < recalls[0] < recalls[2]
        found = [recall_at_k(similarity, mask, k) for k in (1, 5, 10)]
        np.testing.assert_allclose(found, recalls, atol=1e-9, rtol=0)
        mean = mean_average_precision_at_k(similarity, mask, 10)
        assert mean == pytest.approx(precision, abs=1e-9)
        assert median_rank(similarity, mask) == median


def test_on_the_structure_of_clotho_with_ties():
    counts = clotho_caption_counts()
    clip = np.repeat(np.arange(len(counts)), counts)
    positives = clip[:, None] == np.arange(len(counts))
    generator = np.random.default_rng(12)
    scores = np.round(40 * generator.random(positives.shape) + 3 * positives).astype(np.float32)
    recall, precision, ranks = [], [], []
    for row, own in zip(scores, clip, strict=True):
        above, tied = int((row > row[own]).sum()), int((row == row[own]).sum()) - 1
        recall.append(min(max((10 - above) / (tied + 1), 0.0), 1.0))
        places = range(above + 1, min(10, above + tied + 1) + 1)
        precision.append(sum(1.0 / (r * (tied + 1)) for r in places))
        ranks.append(above + 1 + tied / 2)
    similarity, mask = torch.from_numpy(scores), torch.from_numpy(positives)
    assert 0.0 < statistics.fmean(recall) < 1.0
    assert recall_at_k(similarity, mask, 10) == pytest.approx(statistics.fmean(recall), abs=1e-9)
    mean = mean_average_precision_at_k(similarity, mask, 10)
    assert mean == pytest.approx(statistics.fmean(precision), abs=1e-9)
    assert median_rank(similarity, mask) == statistics.median(ranks)
