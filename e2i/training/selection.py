"""Validation scores of an epoch, and which epoch is the best.

Decides: scores come without intervals here (those belong to the final evaluation). Where there are
fewer validation clips than the 10 that mAP@10 looks at, the first N places are all there is, so
mAP@N stands in for it, under its own name, and training says so; a recall that always is 1 cannot
choose an epoch and is refused, and so is a single clip.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from e2i.errors import ConfigError
from e2i.heads.build import ProjectionHeads, seeded_generator
from e2i.losses import contrastive_loss, positives_from_clips
from e2i.retrieval.config import EvaluationConfig
from e2i.retrieval.evaluation import evaluate_projections
from e2i.retrieval.metrics import mean_average_precision_at_k
from e2i.retrieval.similarity import CosineSimilarity
from e2i.training.batches import DistinctClipBatches
from e2i.training.config import TrainingConfig
from e2i.training.holdout import MIN_VALIDATION_CLIPS
from e2i.training.pairs import PairTensors
from e2i.training.project import project

_PROJECT_ROWS = 4096


def lower_is_better(metric: str) -> bool:
    """Whether the best epoch is the one with the lowest value."""
    return metric == "val_loss" or metric.endswith("median_rank")


def is_better(metric: str, value: float, best: float | None) -> bool:
    """Whether `value` beats the best so far; equal values do not, so the earliest epoch stays."""
    if best is None:
        return True
    return value < best if lower_is_better(metric) else value > best


def chosen_by(metric: str, scores: Mapping[str, float]) -> str:
    """The name of the score that chooses the epoch: the metric, or what stands in for it.

    Args:
        metric: the selection metric asked for.
        scores: validation scores of an epoch, by name.
    """
    if metric in scores:
        return metric
    shorter = re.compile(re.escape(metric.partition("@")[0]) + r"@\d+")
    return next((name for name in scores if shorter.fullmatch(name)), metric)


def places_that_choose(metric: str, num_clips: int, num_captions: int) -> int | None:
    """How many places of a ranking choose the epoch where the metric asks for more of them.

    Args:
        metric: the selection metric.
        num_clips: of validation.
        num_captions: of validation.

    Returns:
        The number of candidates, where they are fewer than mAP looks at; None where the metric is
        taken as it is.

    Raises:
        ConfigError: the metric says nothing on so few clips.
    """
    if num_clips < MIN_VALIDATION_CLIPS:
        message = (
            f"one clip cannot choose an epoch: got {num_clips} validation clip, which is always "
            f"ranked first, expected at least {MIN_VALIDATION_CLIPS}. Give more validation clips."
        )
        raise ConfigError(message)
    cutoff = _cutoff(metric)
    candidates = num_clips if metric.startswith("text_to_audio") else num_captions
    if cutoff is None or candidates > cutoff:
        return None
    if "mAP" in metric:
        return candidates if candidates < cutoff else None
    message = (
        f"{metric} cannot choose an epoch: got {candidates} validation candidates, of which the "
        f"first {cutoff} are always right, expected more than {cutoff}. "
        "Use --selection-metric text_to_audio_mAP@10."
    )
    raise ConfigError(message)


def _cutoff(metric: str) -> int | None:
    _, _, cutoff = metric.partition("@")
    return int(cutoff) if cutoff else None


class Validation:
    """Scores heads on the validation clips, the same way after every epoch."""

    def __init__(self, pairs: PairTensors, config: TrainingConfig) -> None:
        """Take the validation pairs.

        Raises:
            ConfigError: the selection metric says nothing on so few clips.
        """
        self._pairs = pairs
        self._metric = config.selection_metric
        self.notes: tuple[str, ...] = ()
        self._cut_map_at = places_that_choose(self._metric, len(pairs.audio), len(pairs.text))
        if self._cut_map_at is not None:
            places = self._cut_map_at
            self.notes = (
                f"{self._metric} needs {_cutoff(self._metric)} candidates and validation has "
                f"{places}: the epoch is chosen by mAP@{places} instead.",
            )
        batches = DistinctClipBatches(pairs.pair_clip.cpu(), config.batch_size)
        plan = batches.epoch(seeded_generator(config.seed, "validation batches"))
        self._plan = plan.to(pairs.audio.device)

    def scores(self, heads: ProjectionHeads) -> dict[str, float]:
        """All retrieval metrics of the validation clips, and `val_loss`, by name."""
        pairs = self._pairs
        audio, text = project(heads, pairs.audio_of(heads), pairs.text, _PROJECT_ROWS)
        evaluated = evaluate_projections(
            text, audio, pairs.pair_clip.cpu().numpy(), EvaluationConfig(bootstrap_resamples=0)
        )
        scores = {name: score.value for name, score in evaluated.scores.items()}
        if self._cut_map_at is not None:
            scores[f"{self._metric.partition('@')[0]}@{self._cut_map_at}"] = self._cut_map(
                audio, text
            )
        losses = []
        for batch in self._plan:
            clips = pairs.pair_clip[batch]
            loss = contrastive_loss(
                audio[clips], text[batch], positives_from_clips(clips), heads.logit_scale.detach()
            )
            losses.append(loss * len(batch))
        scores["val_loss"] = float(torch.stack(losses).sum()) / len(text)
        return scores

    def _cut_map(self, audio: torch.Tensor, text: torch.Tensor) -> float:
        """Mean average precision over all candidates: fewer than 10, so a small matrix."""
        (similarity,) = CosineSimilarity(text, audio).text_to_audio(len(text))
        clips = torch.arange(len(audio), device=audio.device)
        positives = self._pairs.pair_clip[:, None] == clips
        if self._metric.startswith("audio_to_text"):
            similarity, positives = similarity.T, positives.T
        return mean_average_precision_at_k(similarity, positives, int(self._cut_map_at or 1))
