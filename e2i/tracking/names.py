"""The names of numbers in logs, in one place: what writes them and what draws them agree.

Conventions: a number of an epoch keeps its name, validation scores start with `validation_`; a
score starts with its split (`evaluation_text_to_audio_R@1`), with `_low` and `_high` behind it for
its interval. Those of another arm of one run start with the label of the arm.
"""

from __future__ import annotations

from typing import Literal

SELECTION = "text_to_audio_mAP@10"
"""What an epoch is chosen by, unless something else is asked for."""

SHOWN_SCORES = (
    SELECTION,
    "text_to_audio_R@1",
    "text_to_audio_R@5",
    "text_to_audio_R@10",
    "text_to_audio_median_rank",
    "audio_to_text_mAP@10",
    "audio_to_text_R@10",
)
"""Scores that a dashboard shows, the most telling first."""

EPOCH_NUMBERS = ("train_loss", "lr", "seconds", "pairs_per_s")
"""What every epoch comes with."""

ARMS = ("", "vision")
"""Labels of the full pipeline's arms."""

Part = Literal["value", "low", "high"]


def of_arm(label: str, name: str) -> str:
    """The name of an arm's number."""
    return f"{label}_{name}" if label else name


def validation(metric: str) -> str:
    """The name of a number on the validation clips; `val_loss` keeps its own."""
    return metric if metric.startswith("val") else f"validation_{metric}"


def score(split: str, metric: str, part: Part = "value", *, seen: bool = False) -> str:
    """The name of a score, or of an end of its interval."""
    name = f"{split}_seen_{metric}" if seen else f"{split}_{metric}"
    return name if part == "value" else f"{name}_{part}"
