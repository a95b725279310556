"""Intervals: against a plain bootstrap, at the edges, and as often right as they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2i.errors import RetrievalInputError
from e2i.retrieval import intervals as intervals_module
from e2i.retrieval.intervals import Interval, QueryValues, bootstrap_intervals


def ragged_clips(num_clips, generator, most=7):
    return np.repeat(np.arange(num_clips), generator.integers(1, most + 1, num_clips))


def redrawn(metric, num_clips, resamples, seed):
    """Each resample written out: the clips drawn, all their queries, the statistic."""
    generator = np.random.default_rng(seed)
    queries = [metric.values[metric.clip == clip] for clip in range(num_clips)]
    statistic = np.mean if metric.statistic == "mean" else np.median
    for _ in range(resamples):
        picks = generator.integers(0, num_clips, num_clips)
        yield statistic(np.concatenate([queries[pick] for pick in picks]))


def test_medians_are_percentiles_of_medians_drawn_clip_by_clip():
    generator = np.random.default_rng(2)
    clip = ragged_clips(40, generator)
    metric = QueryValues(generator.integers(1, 200, len(clip)) / 2, clip, "median")
    expected = np.quantile(list(redrawn(metric, 40, 300, seed=9)), [0.025, 0.975])
    found = bootstrap_intervals({"rank": metric}, 40, 300, seed=9)["rank"]
    assert [found.low, found.high] == pytest.approx(expected.tolist(), abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 80), st.integers(1, 6), st.integers(0, 10_000))
def test_resampled_medians_are_exact_whatever_the_window(num_clips, most, seed):
    generator = np.random.default_rng(seed)
    clip = generator.permutation(ragged_clips(num_clips, generator, most))
    metric = QueryValues(generator.integers(1, 6, len(clip)) / 2, clip, "median")
    plan = intervals_module._Median.of(metric, num_clips)
    weights = np.stack(
        [np.bincount(generator.integers(0, num_clips, num_clips), minlength=num_clips)]
        + [num_clips * row for row in np.eye(num_clips, dtype=int)]  # one clip alone, many times
    ).astype(np.float64)
    expected = [np.median(np.repeat(metric.values, row[clip].astype(int))) for row in weights]
    assert plan.resampled(weights, weights @ plan.before).tolist() == expected


def test_a_median_window_leaves_most_queries_out():
    metric = QueryValues(np.arange(5_000.0), np.repeat(np.arange(1_000), 5), "median")
    window = intervals_module._Median.of(metric, 1_000).window
    assert window.stop - window.start < 1_000


def test_means_agree_with_scipy_over_clips():
    stats = pytest.importorskip("scipy.stats")
    # Skewed, so that plain percentiles (0.093 to 0.253) are well off.
    per_clip = np.random.default_rng(4).beta(0.3, 2.0, 25)
    # Equal numbers of captions: the mean over queries is the mean over clips, which scipy can do.
    metric = QueryValues(np.repeat(per_clip, 5), np.repeat(np.arange(25), 5), "mean")
    found = bootstrap_intervals({"mAP": metric}, 25, 10_000, 1)["mAP"]
    expected = stats.bootstrap(
        (per_clip,), np.mean, n_resamples=10_000, method="BCa", rng=np.random.default_rng(1)
    ).confidence_interval
    assert found.low == pytest.approx(expected.low, abs=0.004)
    assert found.high == pytest.approx(expected.high, abs=0.004)


def test_captions_of_a_clip_go_together():
    generator = np.random.default_rng(4)
    clip = np.repeat(np.arange(60), 5)
    hits = generator.binomial(1, np.repeat(generator.beta(0.4, 2.0, 60), 5)).astype(float)
    together = bootstrap_intervals({"R": QueryValues(hits, clip, "mean")}, 60, 2_000, 1)["R"]
    # Taken one by one they look far more certain than they are.
    apart = bootstrap_intervals({"R": QueryValues(hits, np.arange(300), "mean")}, 300, 2_000, 1)
    assert together.high - together.low > 1.2 * (apart["R"].high - apart["R"].low)


def test_the_seed_decides_and_the_company_does_not(monkeypatch):
    generator = np.random.default_rng(6)
    clip = ragged_clips(30, generator)
    mean = QueryValues(generator.random(len(clip)), clip, "mean")
    rank = QueryValues(np.ceil(50 * generator.random(30)), np.arange(30), "median")
    both = bootstrap_intervals({"mean": mean, "rank": rank}, 30, 500, 1)
    assert both == bootstrap_intervals({"rank": rank, "mean": mean}, 30, 500, 1)
    assert both["mean"] == bootstrap_intervals({"mean": mean}, 30, 500, 1)["mean"]
    assert both["mean"] != bootstrap_intervals({"mean": mean}, 30, 500, 2)["mean"]
    monkeypatch.setattr(intervals_module, "_BLOCK_CELLS", 1_000)
    assert bootstrap_intervals({"mean": mean, "rank": rank}, 30, 500, 1) == both


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1])
def test_a_metric_that_is_the_same_everywhere_has_no_width(value):
    metric = QueryValues(np.full(15, value), np.repeat(np.arange(5), 3), "mean")
    found = bootstrap_intervals({"R": metric}, 5, 200, 0)["R"]
    assert [found.low, found.high] == pytest.approx([value, value], abs=1e-15)


@pytest.mark.parametrize("hits", [1, 2, 49, 50])
def test_ends_stay_in_range_when_hits_are_rare(hits):
    values = np.zeros(51)
    values[:hits] = 1.0
    found = bootstrap_intervals({"R": QueryValues(values, np.arange(51), "mean")}, 51, 2_000, 0)
    assert 0.0 <= found["R"].low <= hits / 51 <= found["R"].high <= 1.0


@pytest.mark.parametrize("share", [0.1, 0.4, 0.9])
def test_intervals_hold_the_truth_about_as_often_as_they_say(share):
    # 200 studies of 100 clips, five captions each that are alike: nominal 95 %, and 89 % is more
    # than three standard deviations below. Percentiles of single captions hold it about 80 %.
    generator = np.random.default_rng(int(100 * share))
    clip = np.repeat(np.arange(100), 5)
    metrics = {}
    for study in range(200):
        chance = generator.beta(share * 1.5, (1 - share) * 1.5, 100)
        hits = generator.binomial(1, np.repeat(chance, 5)).astype(float)
        metrics[f"{study}"] = QueryValues(hits, clip, "mean")
    found = bootstrap_intervals(metrics, 100, 1_000, 3).values()
    held = np.mean([interval.low <= share <= interval.high for interval in found])
    assert 0.89 <= held <= 0.99


def test_one_clip_or_no_resample_is_an_error():
    metric = QueryValues(np.ones(3), np.zeros(3, dtype=np.int64), "mean")
    with pytest.raises(RetrievalInputError, match="got 1 clips and 10 resamples, expected at leas"):
        bootstrap_intervals({"R": metric}, 1, 10, 0)
    with pytest.raises(RetrievalInputError, match="got 2 clips and 0 resamples, expected at least"):
        bootstrap_intervals({"R": metric}, 2, 0, 0)


def test_clips_without_a_query_and_values_without_a_clip_are_errors():
    metric = QueryValues(np.ones(3), np.array([0, 0, 2]), "mean")
    with pytest.raises(RetrievalInputError, match="R does not cover the clips: got queries of 2 c"):
        bootstrap_intervals({"R": metric}, 3, 10, 0)
    short = QueryValues(np.ones(3), np.array([0, 1]), "mean")
    with pytest.raises(
        RetrievalInputError, match=r"R do not fit their clips: got shapes \(3,\) an"
    ):
        bootstrap_intervals({"R": short}, 2, 10, 0)


def test_no_metrics_no_intervals():
    assert bootstrap_intervals({}, 3, 10, 0) == {}
    assert Interval(0.1, 0.2) == Interval(low=0.1, high=0.2)
