"""Evaluation of projections: both directions, chance, what is left out, and bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from e2i.errors import RetrievalInputError
from e2i.retrieval import similarity as similarity_module
from e2i.retrieval.config import EvaluationConfig
from e2i.retrieval.evaluation import Score, captions_by_clip, evaluate_projections, metric_names
from e2i.retrieval.metrics import mean_average_precision_at_k, median_rank, recall_at_k

KEYS = (
    "text_to_audio_R@1",
    "text_to_audio_R@5",
    "text_to_audio_R@10",
    "text_to_audio_mAP@10",
    "text_to_audio_median_rank",
    "audio_to_text_R@1",
    "audio_to_text_R@5",
    "audio_to_text_R@10",
    "audio_to_text_mAP@10",
    "audio_to_text_median_rank",
)
QUICK = EvaluationConfig(bootstrap_resamples=0)


def split(num_clips=30, width=16, noise=1.0, captions=5, seed=0):
    """Captions scattered around their clips, shuffled, so that no order gives them away."""
    generator = torch.Generator().manual_seed(seed)
    audio = torch.randn(num_clips, width, generator=generator)
    clip = torch.arange(num_clips).repeat_interleave(captions)
    clip = clip[torch.randperm(len(clip), generator=generator)]
    text = audio[clip] + noise * torch.randn(len(clip), width, generator=generator)
    return text, audio, clip.numpy()


def values(result):
    return {key: score.value for key, score in result.scores.items()}


def chances(result):
    return {key: score.chance for key, score in result.scores.items()}


def test_both_directions_agree_with_the_metrics_on_the_whole_matrix():
    text, audio, clip = split()
    result = evaluate_projections(text, audio, clip, QUICK)
    assert tuple(result.scores) == KEYS
    assert result.left_out == ()
    assert (result.num_captions, result.num_clips) == (150, 30)
    similarity = torch.nn.functional.cosine_similarity(text[:, None], audio[None], dim=-1)
    positives = torch.from_numpy(clip[:, None] == np.arange(30))
    for direction, s, p in (
        ("text_to_audio", similarity, positives),
        ("audio_to_text", similarity.T, positives.T),
    ):
        for k in (1, 5, 10):
            found = result.scores[f"{direction}_R@{k}"].value
            assert found == pytest.approx(recall_at_k(s, p, k), abs=1e-12)
            assert 0.1 < found <= 1.0
        found = result.scores[f"{direction}_mAP@10"].value
        assert found == pytest.approx(mean_average_precision_at_k(s, p, 10), abs=1e-12)
        assert result.scores[f"{direction}_median_rank"].value == median_rank(s, p)


@pytest.mark.parametrize("size", [1, 7, 64])
@pytest.mark.parametrize("cells_kept", [2**24, 0])
def test_block_size_changes_nothing(monkeypatch, size, cells_kept):
    text, audio, clip = split()
    expected = evaluate_projections(text, audio, clip, EvaluationConfig(bootstrap_resamples=50))
    monkeypatch.setattr(similarity_module, "_CELLS_KEPT", cells_kept)
    config = EvaluationConfig(bootstrap_resamples=50, sim_batch_size=size)
    assert evaluate_projections(text, audio, clip, config).scores == expected.scores


def test_a_perfect_model_scores_one_both_ways():
    text, audio, clip = split(noise=0.0, num_clips=40)
    config = EvaluationConfig(bootstrap_resamples=200)
    result = evaluate_projections(text, audio, clip, config)
    for key, score in result.scores.items():
        assert (score.value, score.low, score.high) == (1.0, 1.0, 1.0), key
        assert score.chance != 1.0


@pytest.mark.parametrize("captions", [1, 5])
@pytest.mark.parametrize(("num_clips", "width"), [(13, 768), (23, 33), (67, 100)])
@pytest.mark.parametrize("constant", ["a vector", "zero", "opposite lengths"])
def test_a_constant_scorer_gets_chance_exactly(num_clips, width, captions, constant):
    text, audio, clip = split(num_clips, width, captions=captions)
    text, audio = text[:1].expand(len(text), -1), audio[:1].expand(len(audio), -1)
    if constant == "zero":
        text = torch.zeros_like(text)
    if constant == "opposite lengths":
        audio = audio * 2.0 ** torch.arange(num_clips)[:, None]
    result = evaluate_projections(text, audio, clip, QUICK)
    assert values(result) == chances(result)


def test_captions_that_are_all_alike_are_at_chance_audio_to_text():
    text, audio, clip = split(23, 33)
    result = evaluate_projections(text[:1].expand(len(text), -1), audio, clip, QUICK)
    for key in KEYS[5:]:
        assert result.scores[key].value == result.scores[key].chance
    # Every caption finds the clips in one and the same order.
    assert result.scores["text_to_audio_R@1"].value == pytest.approx(1 / 23)


def test_chance_in_closed_form():
    text, audio, clip = split(num_clips=30)
    chance = chances(evaluate_projections(text, audio, clip, QUICK))
    for k in (1, 5, 10):
        assert chance[f"text_to_audio_R@{k}"] == pytest.approx(k / 30, abs=1e-12)
        missed = np.prod([(145 - i) / (150 - i) for i in range(k)])
        assert chance[f"audio_to_text_R@{k}"] == pytest.approx(1 - missed, abs=1e-12)
    harmonic = sum(1 / r for r in range(1, 11))
    assert chance["text_to_audio_mAP@10"] == pytest.approx(harmonic / 30, abs=1e-12)
    # Rank r is positive with 5/150, and then 4/149 of the r - 1 before it are expected to be.
    expected = sum(5 / 150 * (1 + (r - 1) * 4 / 149) / r for r in range(1, 11)) / 5
    assert chance["audio_to_text_mAP@10"] == pytest.approx(expected, abs=1e-12)
    assert chance["text_to_audio_median_rank"] == 31 / 2
    assert chance["audio_to_text_median_rank"] == 151 / 6


def test_unrelated_projections_are_near_chance():
    _, audio, clip = split(num_clips=200)
    text, _, _ = split(num_clips=200, seed=1)
    result = evaluate_projections(text, audio, clip, EvaluationConfig(bootstrap_resamples=500))
    for key in ("text_to_audio_R@10", "text_to_audio_mAP@10", "audio_to_text_R@10"):
        score = result.scores[key]
        assert score.low is not None
        assert score.high is not None
        width = score.high - score.low
        assert score.low - width < score.chance < score.high + width


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000))
def test_scores_do_not_move_when_clips_and_captions_are_permuted(seed):
    text, audio, clip = split()
    generator = np.random.default_rng(seed)
    clips, captions = generator.permutation(30), generator.permutation(150)
    moved = np.argsort(clips)[clip][captions]  # clips[i] now stands at i
    before = values(evaluate_projections(text, audio, clip, QUICK))
    after = values(evaluate_projections(text[captions], audio[clips], moved, QUICK))
    assert after == pytest.approx(before, abs=1e-12)


def test_k_beyond_the_candidates_is_left_out_and_said():
    text, audio, clip = split(num_clips=7, captions=2)
    result = evaluate_projections(text, audio, clip, QUICK)
    assert result.left_out == ("text_to_audio_R@10", "text_to_audio_mAP@10")
    assert tuple(result.scores) == tuple(key for key in KEYS if key not in result.left_out)
    assert "text_to_audio_R@5" in result.scores
    assert "R@10" not in result.text_to_audio.values
    assert "R@10" in result.audio_to_text.values


def test_one_clip_has_scores_but_no_interval():
    result = evaluate_projections(torch.ones(3, 4), torch.ones(1, 4), [0, 0, 0], EvaluationConfig())
    assert result.scores["text_to_audio_R@1"] == Score(1.0, None, None, 1.0)
    assert result.scores["audio_to_text_median_rank"] == Score(1.0, None, None, 1.0)
    assert "audio_to_text_R@5" in result.left_out


def test_intervals_enclose_the_value_and_follow_the_seed():
    text, audio, clip = split(noise=1.5)
    config = EvaluationConfig(bootstrap_resamples=400)
    first = evaluate_projections(text, audio, clip, config)
    assert first.scores == evaluate_projections(text, audio, clip, config).scores
    other = EvaluationConfig(bootstrap_resamples=400, bootstrap_seed=1)
    assert first.scores != evaluate_projections(text, audio, clip, other).scores
    for key, score in first.scores.items():
        assert score.low is not None
        assert score.high is not None
        assert score.low <= score.value <= score.high, key
        low, high = (1.0, 150.0) if key.endswith("median_rank") else (0.0, 1.0)
        assert low <= score.low
        assert score.high <= high
    without = evaluate_projections(text, audio, clip, QUICK)
    assert all(s.low is None and s.high is None for s in without.scores.values())
    assert values(without) == values(first)


def test_the_query_table_makes_the_scores_again():
    text, audio, clip = split(noise=1.5)
    audio[3] = audio[4]  # two clips that no caption can tell apart
    result = evaluate_projections(text, audio, clip, QUICK)
    for table, queries in ((result.text_to_audio, 150), (result.audio_to_text, 30)):
        columns = table.columns()
        assert list(columns) == [
            *("query", "clip", "num_positives", "above", "tied", "positives_tied"),
            *("R@1", "R@5", "R@10", "mAP@10", "rank"),
        ]
        assert {len(column) for column in columns.values()} == {queries}
        for name in ("R@1", "R@5", "R@10", "mAP@10"):
            assert columns[name].mean() == result.scores[f"{table.direction}_{name}"].value
        score = result.scores[f"{table.direction}_median_rank"]
        assert np.median(columns["rank"]) == score.value
    columns = result.text_to_audio.columns()
    np.testing.assert_array_equal(columns["clip"], clip)
    np.testing.assert_array_equal(columns["tied"], np.isin(clip, [3, 4]))
    np.testing.assert_array_equal(columns["rank"], columns["above"] + 1 + columns["tied"] / 2)
    assert set(result.audio_to_text.columns()["num_positives"]) == {5}


def test_clips_may_have_different_numbers_of_captions():
    text, audio, clip = split(num_clips=12)
    keep = np.flatnonzero((clip % 4 != 0) | (np.arange(60) % 3 == 0) | (clip == 0))
    text, clip = text[keep], clip[keep]
    assert len(set(np.bincount(clip, minlength=12))) > 1
    result = evaluate_projections(text, audio, clip, QUICK)
    similarity = torch.nn.functional.cosine_similarity(audio[:, None], text[None], dim=-1)
    positives = torch.from_numpy(np.arange(12)[:, None] == clip)
    expected = mean_average_precision_at_k(similarity, positives, 10)
    assert result.scores["audio_to_text_mAP@10"].value == pytest.approx(expected, abs=1e-12)


def test_captions_by_clip_is_ragged():
    columns = captions_by_clip(np.array([2, 0, 2, 1, 2]), 3)
    assert columns.tolist() == [[1, -1, -1], [3, -1, -1], [0, 2, 4]]


def test_metric_names_are_those_of_the_scores():
    assert tuple(f"text_to_audio_{name}" for name in metric_names()) == KEYS[:5]


@pytest.mark.parametrize(
    ("caption_clip", "message"),
    [
        ([0, 1, 2], r"no index: got int64 of shape \(3,\), expected one integer for each of 4 cap"),
        ([0.0, 1.0, 2.0, 0.0], r"no index: got float64 of shape \(4,\), expected one integer"),
        ([0, 1, 2, 3], "caption 3 belongs to no clip: got clip 3, expected 0 to 2"),
        ([0, 1, -1, 2], "caption 2 belongs to no clip: got clip -1, expected 0 to 2"),
        ([0, 2, 2, 0], "clip 1 has no caption: got 0, expected at least 1. Leave the clip out"),
    ],
)
def test_captions_that_do_not_join_are_named(caption_clip, message):
    with pytest.raises(RetrievalInputError, match=message):
        evaluate_projections(torch.rand(4, 2), torch.rand(3, 2), np.array(caption_clip), QUICK)


def test_projections_that_are_not_finite_are_named():
    text, audio, clip = split()
    audio[11, 2] = torch.nan
    with pytest.raises(RetrievalInputError, match="the projection of clip 11 is not finite: got n"):
        evaluate_projections(text, audio, clip, QUICK)


@pytest.mark.parametrize(
    "options",
    [{"sim_batch_size": 0}, {"bootstrap_resamples": -1}, {"bootstrap_seed": -1}, {"k": 5}],
)
def test_options_out_of_bounds_are_refused(options):
    with pytest.raises(ValidationError):
        EvaluationConfig(**options)


def test_options_keep_the_originals_default_and_are_described():
    assert EvaluationConfig().sim_batch_size == 512
    properties = EvaluationConfig.model_json_schema()["properties"]
    assert all(len(entry["description"]) > 20 for entry in properties.values())
