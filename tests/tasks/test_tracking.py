"""What tasks log, by which names."""

from __future__ import annotations

from e2i.training.epochs import EpochRecord
from tasks.tracking import epoch_values, labelled, score_values


def test_an_epoch() -> None:
    metrics = {"text_to_audio_R@10": 0.5, "val_loss": 2.0}
    epoch = EpochRecord(3, 10, 1e-3, 1.5, metrics, is_best=True, seconds=0.25, pairs_per_s=800.0)
    assert epoch_values(epoch) == {
        "train_loss": 1.5,
        "lr": 1e-3,
        "seconds": 0.25,
        "pairs_per_s": 800.0,
        "validation_text_to_audio_R@10": 0.5,
        "val_loss": 2.0,
    }


def test_scores() -> None:
    metrics = {
        "text_to_audio_R@1": {"value": 0.2, "low": 0.1, "high": 0.3, "chance": 0.01},
        "text_to_audio_median_rank": {"value": 4.0, "low": None, "high": None, "chance": 50.0},
    }
    assert score_values(metrics, "evaluation", seen=False) == {
        "evaluation_text_to_audio_R@1": 0.2,
        "evaluation_text_to_audio_R@1_low": 0.1,
        "evaluation_text_to_audio_R@1_high": 0.3,
        "evaluation_text_to_audio_median_rank": 4.0,
    }


def test_the_arms_of_one_run_do_not_overwrite_each_other() -> None:
    assert labelled({"lr": 1.0}, "") == {"lr": 1.0}
    assert labelled({"lr": 2.0}, "vision") == {"vision_lr": 2.0}


def test_scores_of_seen_clips_have_names_of_their_own() -> None:
    metrics = {"text_to_audio_R@1": {"value": 0.5, "low": 0.4, "high": 0.6, "chance": 0.1}}
    assert score_values(metrics, "evaluation", seen=True) == {
        "evaluation_seen_text_to_audio_R@1": 0.5,
        "evaluation_seen_text_to_audio_R@1_low": 0.4,
        "evaluation_seen_text_to_audio_R@1_high": 0.6,
    }
