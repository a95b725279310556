"""Validation scores and the choice of the best epoch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from e2i.errors import ConfigError
from e2i.heads.build import build_heads
from e2i.heads.config import HeadsConfig
from e2i.retrieval.config import EvaluationConfig
from e2i.retrieval.evaluation import evaluate_projections
from e2i.training.config import TrainingConfig
from e2i.training.pairs import join
from e2i.training.selection import Validation, chosen_by, is_better

CPU = torch.device("cpu")


@pytest.mark.parametrize("metric", ["text_to_audio_mAP@10", "audio_to_text_R@1"])
def test_higher_is_better_and_a_tie_keeps_the_earliest(metric):
    assert is_better(metric, 0.1, None)
    assert is_better(metric, 0.2, 0.1)
    assert not is_better(metric, 0.1, 0.1)
    assert not is_better(metric, 0.1, 0.2)


@pytest.mark.parametrize("metric", ["val_loss", "text_to_audio_median_rank"])
def test_lower_is_better_of_loss_and_rank(metric):
    assert is_better(metric, 0.1, 0.2)
    assert not is_better(metric, 0.1, 0.1)
    assert not is_better(metric, 0.2, 0.1)


def scores_of(cache, **config):
    heads = build_heads(HeadsConfig(hidden_dim=16, out_dim=8), 24, 16, seed=0)
    validation = Validation(join([cache]).to(CPU), TrainingConfig(**config))
    return validation, validation.scores(heads), heads


def test_scores_are_those_of_the_evaluation(make_cache):
    cache = make_cache()
    _, scores, heads = scores_of(cache)
    reference = evaluate_projections(
        heads.project_text(torch.from_numpy(cache.text)),
        heads.project_audio(torch.from_numpy(cache.audio)),
        cache.caption_clip,
        EvaluationConfig(bootstrap_resamples=0),
    )
    assert scores.pop("val_loss") > 0
    assert scores == {name: score.value for name, score in reference.scores.items()}


def test_validation_loss_of_one_direction_for_all_is_that_of_guessing(make_cache):
    # All projections alike: each row's softmax is uniform over the batch.
    cache = make_cache(
        20, 2, audio=np.ones((20, 24), np.float32), text=np.ones((40, 16), np.float32)
    )
    _, scores, _ = scores_of(cache, batch_size=10)
    assert scores["val_loss"] == pytest.approx(math.log(10), abs=1e-5)


@pytest.mark.parametrize("direction", ["text_to_audio", "audio_to_text"])
def test_few_clips_are_chosen_by_the_whole_list_and_it_says_so(make_cache, direction):
    metric = f"{direction}_mAP@10"
    validation, scores, _ = scores_of(make_cache(4, 2), selection_metric=metric)
    candidates = 4 if direction == "text_to_audio" else 8
    assert validation.notes == (
        f"{metric} needs 10 candidates and validation has {candidates}: the epoch is chosen by "
        f"mAP@{candidates} instead.",
    )
    assert metric not in scores
    standing_in = f"{direction}_mAP@{candidates}"
    assert 0 < scores[standing_in] <= 1
    assert chosen_by(metric, scores) == standing_in


def test_a_metric_that_is_there_chooses_itself(make_cache):
    _, scores, _ = scores_of(make_cache())
    for metric in ("text_to_audio_mAP@10", "audio_to_text_R@1", "val_loss"):
        assert chosen_by(metric, scores) == metric


def test_whole_list_by_hand(make_cache):
    # Untrained heads as a similarity: the oracle sorts and counts in plain Python.
    cache = make_cache(4, 1)
    _, scores, heads = scores_of(cache)
    similarity = (
        heads.project_text(torch.from_numpy(cache.text))
        @ heads.project_audio(torch.from_numpy(cache.audio)).T
    ).tolist()
    ranks = [1 + sum(other > row[index] for other in row) for index, row in enumerate(similarity)]
    assert scores["text_to_audio_mAP@4"] == pytest.approx(sum(1 / rank for rank in ranks) / 4)


@pytest.mark.parametrize("metric", ["text_to_audio_mAP@10", "text_to_audio_R@1", "val_loss"])
def test_one_clip_cannot_choose(make_cache, metric):
    # It is ranked first whatever the weights, and its loss is 0: each epoch would tie the first.
    with pytest.raises(ConfigError) as caught:
        scores_of(make_cache(1, 5), selection_metric=metric)
    assert str(caught.value) == (
        "one clip cannot choose an epoch: got 1 validation clip, which is always ranked first, "
        "expected at least 2. Give more validation clips."
    )
    scores_of(make_cache(2, 5), selection_metric=metric)


def test_a_recall_that_is_always_right_cannot_choose(make_cache):
    with pytest.raises(ConfigError) as caught:
        scores_of(make_cache(10, 2), selection_metric="text_to_audio_R@10")
    assert str(caught.value) == (
        "text_to_audio_R@10 cannot choose an epoch: got 10 validation candidates, of which the "
        "first 10 are always right, expected more than 10. "
        "Use --selection-metric text_to_audio_mAP@10."
    )
    scores_of(make_cache(11, 2), selection_metric="text_to_audio_R@10")
