"""What options refuse, in words."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from e2i.errors import ConfigError
from e2i.training.finetune.config import FinetuneConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"metric_mode": "min"},
            "metric_mode would choose the worst epoch: got 'min' for text_to_audio_mAP@10, "
            "expected 'max' or 'auto'. Leave --metric-mode out.",
        ),
        (
            {"metric_mode": "max", "selection_metric": "val_loss"},
            "got 'max' for val_loss, expected 'min' or 'auto'.",
        ),
        (
            {"min_lr": 1e-3},
            "min_lr is above max_lr: got 0.001 and 3e-06, expected at most as much. Lower --min-lr "
            "or raise --max-lr.",
        ),
        (
            {"warmup_epochs": 3, "epochs": 3},
            "the warm-up takes all epochs: got warmup_epochs 3 of epochs 3, expected fewer.",
        ),
        (
            {"val_fraction": 0.6, "test_fraction": 0.4},
            "leave nothing to train on: got 0.6 + 0.4, expected a sum below 1.",
        ),
        (
            {"devices": 33},
            "a device would be left without a pair: got batch_size 32 for 33 devices, expected at "
            "least one each. Raise --batch-size.",
        ),
        (
            {"max_failures": 1.5},
            "max_failures is neither a share nor a number: got 1.5, expected a share below 1",
        ),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        FinetuneConfig.model_validate(options)
    assert message in refused.value.errors()[0]["msg"]


def test_another_rate_than_the_encoders_is_refused() -> None:
    with pytest.raises(ConfigError, match="sample_rate is not the encoder's: got 16000, expected"):
        FinetuneConfig(sample_rate=16_000).encoders("cpu")


@pytest.mark.parametrize(("metric", "mode"), [("val_loss", "min"), ("audio_to_text_R@5", "max")])
def test_the_mode_that_a_metric_has_is_taken(metric: str, mode: str) -> None:
    assert FinetuneConfig(selection_metric=metric, metric_mode=mode).metric_mode == mode
