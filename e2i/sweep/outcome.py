"""What a sweep came to: every arm at every budget, held against the MLP on the embedding.

Decides: the metric that selected is the one that is compared, on the evaluation part, over the
fresh seeds of either winner and over clips. All comparisons of a sweep are one family.

Conventions: scores are fractions; differences are an arm's score less the reference's at the same
budget.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq

from e2i.errors import RunFailedError, StorageNotFoundError
from e2i.retrieval.equivalence import SeedDifference, SeedValues, compare_over_seeds
from e2i.storage import Folder
from e2i.sweep.config import REFERENCE, ArmName, SweepConfig
from e2i.sweep.curve import expected_best
from e2i.sweep.data import SweepData
from e2i.sweep.matching import MatchedHeads, match_heads
from e2i.sweep.runs import RunResult, SweepRun, selection_value

CONTROLS: frozenset[ArmName] = frozenset({"mlp-decoded", "cnn-permuted"})
"""Arms that answer a question and are no heads to use."""

SETTINGS = ("lr", "weight_decay", "temperature")
"""What was searched for, of the training; the heads' dropout comes beside it."""


@dataclass(frozen=True, slots=True)
class ArmOutcome:
    """One arm at one budget.

    Attributes:
        arm: which.
        budget: trainable parameters asked for.
        matched: widths, parameters and operations.
        settings: of the winner, by name.
        winner: number of the trial that won.
        trial_values: what each trial is selected by, in their order; 0 where it diverged.
        curve: expected best of 1 to N trials.
        num_diverged: trials that diverged.
        seconds: of one training, the mean over all runs of this arm and budget.
        epochs: of one training.
        runs: the winner with each fresh seed.
        results: theirs.
        difference: to the reference at this budget; None for the reference itself.
    """

    arm: ArmName
    budget: int
    matched: MatchedHeads
    settings: dict[str, float]
    winner: int
    trial_values: tuple[float, ...]
    curve: tuple[float, ...]
    num_diverged: int
    seconds: float
    epochs: int
    runs: tuple[SweepRun, ...]
    results: tuple[RunResult, ...]
    difference: SeedDifference | None

    def seed_scores(self, metric: str) -> tuple[float, ...]:
        """The evaluation score of each fresh seed."""
        return tuple(result.evaluation[metric] for result in self.results)

    def mean(self, metric: str) -> float:
        """Mean over the fresh seeds."""
        return float(np.mean(self.seed_scores(metric)))

    def deviation(self, metric: str) -> float:
        """Standard deviation over the fresh seeds."""
        return float(np.std(self.seed_scores(metric), ddof=1))


def arm_outcomes(
    config: SweepConfig,
    data: SweepData,
    trials: Sequence[tuple[SweepRun, RunResult]],
    winners: Sequence[tuple[SweepRun, RunResult]],
    folder: Folder,
) -> tuple[ArmOutcome, ...]:
    """Put the runs of a sweep together, budget by budget, in the order of the arms.

    Args:
        config: of the sweep.
        data: that it worked on.
        trials: all of them with their results.
        winners: all fresh seeds of all winners with their results.
        folder: of the sweep, for the tables per query.

    Raises:
        RunFailedError: the tables of two runs are of different queries, or one is gone.
        StorageError: the store refused.
    """
    places = [(arm, budget) for budget in config.budgets for arm in config.arms]
    values = {place: _seed_values(config, _at(place, winners), folder) for place in places}
    differences = compare_over_seeds(
        {
            f"{arm} at {budget}": (values[arm, budget], values[REFERENCE, budget])
            for arm, budget in places
            if arm != REFERENCE
        },
        margin=config.margin,
        resamples=config.resamples,
        seed=config.seed,
    )
    return tuple(
        _outcome(
            place,
            config,
            match_heads(*place, data.audio_dim, data.text_dim, config),
            trials=_at(place, trials),
            winners=_at(place, winners),
            difference=differences.get(f"{place[0]} at {place[1]}"),
        )
        for place in places
    )


def best_arm(config: SweepConfig, outcomes: Sequence[ArmOutcome]) -> ArmOutcome:
    """The arm and budget that validation likes best, over all seeds; of those of use to anybody.

    Controls are left out: their heads see what no plain cache holds.
    """
    usable = [one for one in outcomes if one.arm not in CONTROLS]

    def validation(one: ArmOutcome) -> float:
        return float(np.mean([selection_value(config, result) for result in one.results]))

    return max(usable, key=validation)


def _at(
    place: tuple[ArmName, int], runs: Sequence[tuple[SweepRun, RunResult]]
) -> list[tuple[SweepRun, RunResult]]:
    return [pair for pair in runs if (pair[0].arm, pair[0].budget) == place]


def _outcome(
    place: tuple[ArmName, int],
    config: SweepConfig,
    matched: MatchedHeads,
    *,
    trials: Sequence[tuple[SweepRun, RunResult]],
    winners: Sequence[tuple[SweepRun, RunResult]],
    difference: SeedDifference | None,
) -> ArmOutcome:
    values = [selection_value(config, result) for _, result in trials]
    run = winners[0][0]
    training = run.training.model_dump(include=set(SETTINGS))
    passed = [result for _, result in (*trials, *winners) if not result.diverged]
    return ArmOutcome(
        arm=place[0],
        budget=place[1],
        matched=matched,
        settings={**training, "dropout": run.heads.dropout},
        winner=trials[values.index(max(values))][0].number,
        trial_values=tuple(values),
        curve=expected_best(values),
        num_diverged=sum(result.diverged for _, result in trials),
        seconds=float(np.mean([result.seconds for result in passed])),
        epochs=run.training.epochs,
        runs=tuple(run for run, _ in winners),
        results=tuple(result for _, result in winners),
        difference=difference,
    )


def _seed_values(
    config: SweepConfig, winners: Sequence[tuple[SweepRun, RunResult]], folder: Folder
) -> SeedValues:
    """The metric of a winner, query by query and seed by seed."""
    direction, name = (
        config.metric.rpartition("_")[0],
        config.metric.rpartition("_")[2],
    )
    rows, clips = [], []
    for run, result in winners:
        try:
            table = pq.read_table(io.BytesIO(folder.read(result.queries[direction])))
        except StorageNotFoundError as error:
            raise RunFailedError(
                f"the scores of a run are gone: got no {result.queries[direction]} of {run.name} "
                f"in {folder.url}, expected the table beside its result. Delete "
                f"runs/{result.fingerprint}.json and run the sweep again."
            ) from error
        rows.append(table.column(name).to_numpy())
        clips.append(table.column("clip_id").to_pylist())
    if any(clip != clips[0] for clip in clips[1:]):
        raise RunFailedError(
            f"the scores of {winners[0][0].name} are of different queries: got tables in "
            f"{folder.url} that differ in their clips, expected the same ones. Delete the folder "
            "runs there and run the sweep again."
        )
    _, clip = np.unique(clips[0], return_inverse=True)
    return SeedValues(np.stack(rows).astype(np.float64), clip.astype(np.int64))
