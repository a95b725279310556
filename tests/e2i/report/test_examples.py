from __future__ import annotations

import numpy as np
import pytest
import torch

from e2i.errors import CacheError
from e2i.report import examples
from e2i.report.examples import ExampleFinder
from e2i.training.project import project


@pytest.fixture(scope="module")
def world(make_cache, scored):
    cache = make_cache()
    return cache, scored(cache)[0]


def oracle(cache, model):
    """The whole similarity matrix, (N, C)."""
    heads = model.checkpoint.heads()
    audio, text = project(heads, torch.from_numpy(cache.audio), torch.from_numpy(cache.text), 7)
    return (text @ audio.T).numpy()


def test_neighbors_are_those_of_the_whole_matrix(world, monkeypatch):
    cache, model = world
    monkeypatch.setattr(examples, "_BLOCK_CELLS", 70)
    monkeypatch.setattr(examples, "_PROJECT_ROWS", 4)
    finder = ExampleFinder(model.checkpoint, cache, model.evaluation, "cpu")
    queries = np.array([40, 3, 17, 59, 0])
    similarity = oracle(cache, model)
    for query, near in zip(queries, finder.neighbors(queries, 3), strict=True):
        row = similarity[query]
        assert near.clips == tuple(np.argsort(-row, kind="stable")[:3])
        assert near.scores == pytest.approx(np.sort(row)[::-1][:3], abs=1e-6)
        assert near.right == query // 2
        assert near.right_score == pytest.approx(row[query // 2], abs=1e-6)


def test_neighbors_agree_with_the_ranks_of_the_evaluation(world):
    cache, model = world
    finder = ExampleFinder(model.checkpoint, cache, model.evaluation, "cpu")
    for query, near in enumerate(finder.neighbors(np.arange(60), 30)):
        assert near.clips.index(near.right) + 1 == finder.ranks[query]


def test_best_are_the_widest_margins_and_worst_the_highest_ranks(world):
    cache, model = world
    finder = ExampleFinder(model.checkpoint, cache, model.evaluation, "cpu")
    best, worst = finder.choose(3)
    similarity = oracle(cache, model)
    right = similarity[np.arange(60), np.arange(60) // 2]
    others = similarity.copy()
    others[np.arange(60), np.arange(60) // 2] = -2
    margin = right - others.max(axis=1)
    by_margin = sorted(np.flatnonzero(finder.ranks == 1), key=lambda query: -margin[query])
    expected, clips = [], set()
    for query in by_margin:
        if query // 2 not in clips:
            expected.append(query)
            clips.add(query // 2)
    assert best.tolist() == expected[:3]
    assert finder.ranks[worst[0]] == finder.ranks.max() > 1
    assert (np.diff(finder.ranks[worst]) <= 0).all()
    assert len(set((worst // 2).tolist())) == 3


def test_no_caption_is_both_best_and_worst(make_cache, scored):
    cache = make_cache(clips=2)
    model = scored(cache)[0]
    best, worst = ExampleFinder(model.checkpoint, cache, model.evaluation, "cpu").choose(10)
    assert len(best) == 2
    assert not set(best.tolist()) & set(worst.tolist())


def test_one_clip_alone_is_found(make_cache, scored):
    cache = make_cache(clips=1)
    finder = ExampleFinder(None, cache, scored(cache)[1].evaluation, "cpu")
    best, worst = finder.choose(5)
    assert (best.size, worst.size) == (1, 1)
    assert finder.neighbors(best, 3)[0].clips == (0,)


def test_scores_of_another_cache_are_refused(world, make_cache):
    _, model = world
    with pytest.raises(CacheError) as caught:
        ExampleFinder(None, make_cache("other"), model.evaluation, "cpu")
    assert str(caught.value) == (
        "the scores are of another cache: got clip 'evaluation 0 <b>&amp;.wav', expected one of "
        "memory://other. Give the cache that was evaluated."
    )
