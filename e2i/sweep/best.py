"""The best head of a sweep, scored in more ways: alone, corrected for hubs, with a second seed.

Decides: of the winner's fresh seeds the one that validation likes best stands alone, and the second
best joins it in the ensemble. The bank that hubs are measured with is the first training cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from e2i.heads.checkpoint import load_checkpoint
from e2i.retrieval.config import EvaluationConfig
from e2i.retrieval.evaluation import Score
from e2i.retrieval.fewer_candidates import recall_among
from e2i.retrieval.intervals import QueryValues, bootstrap_intervals
from e2i.storage import Folder
from e2i.sweep.config import SweepConfig
from e2i.sweep.data import SweepData
from e2i.sweep.outcome import ArmOutcome
from e2i.sweep.runs import RunResult, checkpoint_name, selection_value
from e2i.training.evaluate import Evaluation, Extras, evaluate_checkpoint

FEWER_CANDIDATES = 100
FEWER_KEY = f"text_to_audio_R@10_among_{FEWER_CANDIDATES}"
_CUTOFF = 10


@dataclass(frozen=True, slots=True)
class BestHead:
    """The best head, scored in several ways on the same clips.

    Attributes:
        outcome: arm and budget.
        results: the two seeds, the better one first.
        variants: by what was done, all scores by key; `FEWER_KEY` is the recall that it would have
            among fewer candidates, where there are more than those.
        seen: whether any of the clips was trained or selected on.
    """

    outcome: ArmOutcome
    results: tuple[RunResult, RunResult]
    variants: dict[str, dict[str, Score]]
    seen: bool


def score_best(
    config: SweepConfig, outcome: ArmOutcome, data: SweepData, folder: Folder
) -> BestHead:
    """Score the best head alone, corrected for hubs, and together with a second seed.

    Raises:
        CheckpointError: a checkpoint is gone or broken.
        SeenClipsError: the evaluation part has clips that were trained or selected on.
        ConfigError: there are no training captions to correct with.
        StorageError: the store refused.
    """
    ranked = sorted(
        outcome.results, key=lambda result: selection_value(config, result), reverse=True
    )
    first, second = (load_checkpoint(folder, checkpoint_name(result)) for result in ranked[:2])
    extras = {
        "single model": Extras(),
        "corrected for hubs": Extras(bank=data.train[0]),
        "ensemble of two seeds": Extras(others=(second,)),
        "ensemble, corrected": Extras(others=(second,), bank=data.train[0]),
    }
    scored = {
        name: evaluate_checkpoint(
            first, data.evaluation, EvaluationConfig(), device=config.device, extras=extra
        )
        for name, extra in extras.items()
    }
    return BestHead(
        outcome=outcome,
        results=(ranked[0], ranked[1]),
        variants={name: _scores(evaluation) for name, evaluation in scored.items()},
        seen=any(evaluation.seen for evaluation in scored.values()),
    )


def _scores(evaluation: Evaluation) -> dict[str, Score]:
    """All scores, and the recall among fewer candidates."""
    scores = dict(evaluation.retrieval.scores)
    table = evaluation.retrieval.text_to_audio
    if evaluation.retrieval.num_clips <= FEWER_CANDIDATES:
        return scores
    values = recall_among(table.ranks, _CUTOFF, FEWER_CANDIDATES)
    settings = EvaluationConfig()
    clips, clip = np.unique(table.clip, return_inverse=True)
    interval = bootstrap_intervals(
        {FEWER_KEY: QueryValues(values, clip, "mean")},
        len(clips),
        settings.bootstrap_resamples,
        settings.bootstrap_seed,
    )[FEWER_KEY]
    chance = _CUTOFF / FEWER_CANDIDATES
    return {**scores, FEWER_KEY: Score(float(values.mean()), interval.low, interval.high, chance)}
