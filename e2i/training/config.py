"""How projection heads are trained on cached embeddings."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from e2i.configuration import Configuration

SelectionMetric = Literal[
    "text_to_audio_mAP@10",
    "text_to_audio_R@1",
    "text_to_audio_R@5",
    "text_to_audio_R@10",
    "text_to_audio_median_rank",
    "audio_to_text_mAP@10",
    "audio_to_text_R@1",
    "audio_to_text_R@5",
    "audio_to_text_R@10",
    "audio_to_text_median_rank",
    "val_loss",
]
"""What the best epoch may be chosen by; of `median_rank` and `val_loss` the lowest is best."""


class TrainingConfig(Configuration):
    """How projection heads are trained on cached embeddings."""

    epochs: int = Field(10, ge=1, le=100_000, description="Passes over all training pairs.")
    batch_size: int = Field(
        256,
        ge=2,
        le=1_048_576,
        description="Pairs in a training batch, at most; the batches of an epoch are made equally "
        "large.",
    )
    lr: float = Field(
        5e-4,
        gt=0.0,
        le=10.0,
        description="Highest learning rate: that of the first epoch behind the warm-up; a cosine "
        "takes it towards 0.",
    )
    warmup_epochs: int = Field(
        0,
        ge=0,
        le=100_000,
        description="Epochs in which the learning rate rises from 0, step by step.",
    )
    patience: int = Field(
        0,
        ge=0,
        le=100_000,
        description="End after so many epochs without a better one; 0 passes all of them.",
    )
    weight_decay: float = Field(1e-4, ge=0.0, le=10.0, description="Weight decay of AdamW.")
    temperature: float = Field(
        0.07, ge=0.01, le=1.0, description="Temperature of the contrastive softmax."
    )
    learn_temperature: bool = Field(
        False, description="Train the temperature too, starting from the one given."
    )
    repeat_clips: bool = Field(
        False,
        description="Draw pairs at random, so that a batch may hold a clip with several of its "
        "captions (all positives); off, a batch holds a clip at most once.",
    )
    val_fraction: float = Field(
        0.1,
        gt=0.0,
        lt=1.0,
        description="Share of the clips held out for validation where there is no validation "
        "cache.",
    )
    test_fraction: float = Field(
        0.1,
        ge=0.0,
        lt=1.0,
        description="Share of the clips held out for the final evaluation where there is no "
        "validation cache.",
    )
    seed: int = Field(
        13, ge=0, lt=2**63, description="Of the weights, batches, dropout and the parts held out."
    )
    device: str = Field(
        "auto", min_length=1, description="auto, cpu, cuda, cuda:<n> or mps; auto takes the best."
    )
    selection_metric: SelectionMetric = Field(
        "text_to_audio_mAP@10",
        description="Validation metric that the best epoch is chosen by, the earliest on ties.",
    )
    window_dropout: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="Share of a clip's windows left out at each step of training, one at least "
        "kept; takes a cache made with --store-windows.",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="What training multiplies in; weights, loss and all scores stay float32.",
    )

    @model_validator(mode="after")
    def _leave_epochs_behind_the_warm_up(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            message = (
                f"the warm-up takes all epochs: got warmup_epochs {self.warmup_epochs} of epochs "
                f"{self.epochs}, expected fewer. Lower one or raise the other."
            )
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _leave_clips_to_train_on(self) -> Self:
        if self.val_fraction + self.test_fraction >= 1.0:
            message = (
                "val_fraction and test_fraction leave nothing to train on: got "
                f"{self.val_fraction:g} + {self.test_fraction:g}, expected a sum below 1. "
                "Lower one of them."
            )
            raise ValueError(message)
        return self
