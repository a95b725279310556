"""Validation scores of an epoch, and which epoch is the best.

Decides: scores come without intervals here (those belong to the final evaluation). Where there are
fewer validation clips than the 10 that mAP@10 looks at, the first N places are all there is, so
mAP@N stands in for it, under its own name, and training says so; a recall that always is 1 cannot
choose an epoch and is refused.
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
        self._cut_map_at: int | None = None
        batches = DistinctClipBatches(pairs.pair_clip.cpu(), config.batch_size)
        plan = batches.epoch(seeded_generator(config.seed, "validation batches"))
        self._plan = plan.to(pairs.audio.device)
        self._check_candidates()

    def _check_candidates(self) -> None:
        direction, _, name = self._metric.partition("_to_")
        measure, _, cutoff = name.partition("@")
        if not cutoff:
            return
        sides = {"text": self._pairs.audio, "audio": self._pairs.text}
        candidates, k = len(sides[direction]), int(cutoff)
        if measure.endswith("mAP"):
            if candidates < k:
                self._cut_map_at = candidates
                self.notes = (
                    f"{self._metric} needs {k} candidates and validation has {candidates}: the "
                    f"epoch is chosen by mAP@{candidates} instead.",
                )
        elif candidates <= k:
            message = (
                f"{self._metric} cannot choose an epoch: got {candidates} validation candidates, "
                f"of which the first {k} are always right, expected more than {k}. "
                "Use --selection-metric text_to_audio_mAP@10."
            )
            raise ConfigError(message)

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
