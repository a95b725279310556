"""Differences of two models: against every swap written out, by hand, in company."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from e2i.errors import RetrievalInputError
from e2i.retrieval import comparison as comparison_module
from e2i.retrieval.comparison import FIRST_METRIC, compare_values, holm, sign_flip_p
from e2i.retrieval.intervals import QueryValues

CLIP = np.array([0, 0, 1, 2, 2, 2, 3, 4, 5, 5])


def values(seed, statistic="mean", clip=CLIP):
    generator = np.random.default_rng(seed)
    return QueryValues(np.round(9 * generator.random(len(clip))), clip, statistic)


def difference(first, second, swapped=()):
    take = np.isin(first.clip, swapped)
    one = np.where(take, second.values, first.values)
    other = np.where(take, first.values, second.values)
    statistic = np.mean if first.statistic == "mean" else np.median
    return statistic(one) - statistic(other)


def weight(first, second, swapped):
    """What a swap counts: 1 beyond, a half in a tie, but 1 where it swaps nothing or all."""
    found, drawn = abs(difference(first, second)), abs(difference(first, second, swapped))
    differing = {int(c) for c in first.clip[first.values != second.values]}
    if abs(drawn - found) > 1e-12:
        return float(drawn > found)
    return 1.0 if len(differing & set(swapped)) in {0, len(differing)} else 0.5


@pytest.mark.parametrize("statistic", ["mean", "median"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_p_is_the_share_of_swaps_that_reach_as_far(seed, statistic):
    first, second = values(seed, statistic), values(seed + 10, statistic)
    every = [s for n in range(7) for s in itertools.combinations(range(6), n)]
    exact = np.mean([weight(first, second, swapped) for swapped in every])
    assert sign_flip_p(first, second, 20_000, 0) == pytest.approx(exact, abs=0.015)


def test_few_clips_cannot_be_sure():
    # All three clips agree: 2 of 8 swaps are as far apart, whatever the values.
    first = QueryValues(np.array([1.0, 2.5, 4.0]), np.arange(3), "mean")
    second = QueryValues(np.zeros(3), np.arange(3), "mean")
    assert sign_flip_p(first, second, 20_000, 0) == pytest.approx(0.25, abs=0.01)


def test_equal_models_are_never_told_apart():
    assert sign_flip_p(values(1), values(1), 99, 0) == 1.0


def test_no_p_is_zero():
    clip = np.arange(200)
    first = QueryValues(np.ones(200), clip, "mean")
    second = QueryValues(np.zeros(200), clip, "mean")
    assert sign_flip_p(first, second, 999, 0) == 1 / 1000


def test_blocks_and_company_change_nothing(monkeypatch):
    pairs = {"a": (values(1), values(2)), "b": (values(3, "median"), values(4, "median"))}
    both = compare_values(pairs, resamples=50, flips=500, seed=7)
    monkeypatch.setattr(comparison_module, "_BLOCK_CELLS", 100)
    assert compare_values(pairs, resamples=50, flips=500, seed=7) == both
    alone = compare_values({"a": pairs["a"]}, resamples=50, flips=500, seed=7)["a"]
    assert (alone.p, alone.low, alone.high) == (both["a"].p, both["a"].low, both["a"].high)


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_a_difference_lies_in_its_interval_and_turns_its_sign(statistic):
    clip = np.repeat(np.arange(60), 3)
    first, second = values(1, statistic, clip), values(2, statistic, clip)
    there = compare_values({"m": (first, second)}, resamples=500, flips=99, seed=0)["m"]
    back = compare_values({"m": (second, first)}, resamples=500, flips=99, seed=0)["m"]
    assert there.value == pytest.approx(difference(first, second))
    assert there.low is not None
    assert there.high is not None
    assert there.low <= there.value <= there.high
    assert (back.value, back.p) == (-there.value, there.p)
    assert [back.low, back.high] == pytest.approx([-there.high, -there.low], abs=0.05)


def test_one_clip_has_no_interval():
    one = QueryValues(np.ones(3), np.zeros(3, dtype=np.int64), "mean")
    found = compare_values({"m": (one, one)}, resamples=100, flips=99, seed=0)["m"]
    assert (found.low, found.high, found.p) == (None, None, 1.0)


def test_holm_by_hand():
    # 0.01 · 4; 0.02 · 3; 0.03 · 2 is less, so it stays 0.06; 0.5 · 1.
    found = holm({"a": 0.5, "b": 0.01, "c": 0.03, "d": 0.02})
    assert found == pytest.approx({"b": 0.04, "d": 0.06, "c": 0.06, "a": 0.5})
    assert holm({"a": 0.9, "b": 0.8}) == {"b": 1.0, "a": 1.0}
    assert holm({}) == {}


def test_the_first_metric_stands_alone():
    pairs = {FIRST_METRIC: (values(1), values(2)), "x": (values(3), values(4))}
    pairs["y"] = (values(5), values(6))
    found = compare_values(pairs, resamples=20, flips=199, seed=0)
    assert found[FIRST_METRIC].p_holm == found[FIRST_METRIC].p
    rest = {name: found[name].p for name in ("x", "y")}
    assert {name: found[name].p_holm for name in rest} == holm(rest)


def test_other_queries_and_no_swaps_are_errors():
    with pytest.raises(RetrievalInputError, match="the values of m are of different queries: got"):
        compare_values(
            {"m": (values(1), QueryValues(np.ones(3), np.arange(3), "mean"))},
            resamples=9,
            flips=99,
            seed=0,
        )
    with pytest.raises(RetrievalInputError, match="without swaps: got 0, expected at least 1"):
        sign_flip_p(values(1), values(2), 0, 0)
