"""The runs of a sweep: trials of the search, and winners with fresh seeds; made once, stored.

Decides: a run is stored as `runs/<fingerprint>.json` below the sweep's folder, written last and in
one step. The fingerprint covers data, heads, training and versions, so a sweep that was killed, or
that is given more trials, seeds or arms, makes what is not stored and nothing else. A winner's
checkpoint and scores lie beside it as `runs/<fingerprint>.safetensors` and `runs/<fingerprint>/`.
A trial whose loss leaves the finite numbers is a result: it is stored as having diverged, and
counts as the worst value there is.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from pydantic import Field, ValidationError

import e2i
from e2i.cache.embeddings import CachedEmbeddings
from e2i.configuration import Configuration
from e2i.device import resolve_device
from e2i.errors import ConfigError, RunFailedError, StorageNotFoundError
from e2i.heads.build import seeded_generator
from e2i.heads.checkpoint import Checkpoint, checkpoint_bytes
from e2i.heads.config import HeadsConfig
from e2i.report.scores import write_query_tables
from e2i.retrieval.config import EvaluationConfig
from e2i.storage import Folder
from e2i.sweep.arms import images_for, seen_by
from e2i.sweep.config import ArmName, SweepConfig
from e2i.sweep.data import SweepData
from e2i.sweep.matching import match_heads
from e2i.sweep.search import drawn_settings
from e2i.training.batches import DistinctClipBatches
from e2i.training.config import TrainingConfig
from e2i.training.epochs import EpochRecord
from e2i.training.evaluate import evaluate_checkpoint
from e2i.training.train import train_heads

FOLDER = "runs"
# Their intervals are those of seeds and clips together, drawn when the winners are compared.
_NO_INTERVALS = EvaluationConfig(bootstrap_resamples=0)


class SweepRun(Configuration):
    """One training of a sweep."""

    arm: ArmName = Field(description="Which audio head.")
    budget: int = Field(ge=1, description="Trainable parameters asked for.")
    kind: Literal["trial", "winner"] = Field(description="Of the search, or of a winner.")
    number: int = Field(ge=1, description="Of the trial, or of the fresh seed; from 1.")
    heads: HeadsConfig = Field(description="What the heads look like.")
    training: TrainingConfig = Field(description="How they are trained.")
    view_seed: int = Field(ge=0, description="Of the cells' permutation.")

    @property
    def name(self) -> str:
        """What it is called: `cnn-native-100000-trial-03`."""
        return f"{self.arm}-{self.budget}-{self.kind}-{self.number:02}"

    def fingerprint(self, digest: str) -> str:
        """Of all that the outcome depends on; `digest` is that of the data."""
        facts = {
            "e2i": e2i.__version__,
            "torch": torch.__version__,
            "device": resolve_device(self.training.device).type,
            "data": digest,
            "run": self.model_dump(mode="json", exclude={"number", "budget"}),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


class RunResult(Configuration):
    """What a run came to, as it is stored."""

    name: str = Field(description="Of the run.")
    fingerprint: str = Field(description="Of the run.")
    diverged: bool = Field(description="Whether the loss left the finite numbers.")
    best_epoch: int = Field(ge=0, description="That was kept; 0 where none was.")
    epochs: int = Field(ge=0, description="That were passed.")
    seconds: float = Field(ge=0.0, description="Training took, validation included.")
    device: str = Field(description="That it was trained on.")
    validation: dict[str, float] = Field(description="Scores of the epoch that was kept.")
    evaluation: dict[str, float] = Field(description="Of a winner: scores by name.")
    queries: dict[str, str] = Field(description="Of a winner: tables per query, by direction.")


def planned_trials(config: SweepConfig, data: SweepData) -> list[SweepRun]:
    """All trials of a sweep, arm by arm and budget by budget.

    Raises:
        ConfigError: an arm cannot be brought to a budget, or there is too little to evaluate on.
    """
    _require_candidates(config, data)
    runs = []
    for budget in config.budgets:
        for arm in config.arms:
            matched = match_heads(arm, budget, data.audio_dim, data.text_dim, config)
            for trial in range(config.trials):
                drawn = drawn_settings(config.search, config.seed, trial)
                runs.append(
                    SweepRun(
                        arm=arm,
                        budget=budget,
                        kind="trial",
                        number=trial + 1,
                        heads=matched.heads.model_copy(update={"dropout": drawn.pop("dropout")}),
                        training=_training(config, data, drawn),
                        view_seed=config.seed,
                    )
                )
    return runs


def winners(
    config: SweepConfig, runs: Sequence[SweepRun], results: Sequence[RunResult]
) -> list[SweepRun]:
    """The best trial of each arm and budget, to be trained with fresh seeds.

    Args:
        config: how many seeds, and by what is selected.
        runs: all trials.
        results: theirs, in the same order. Of equals the earliest wins.

    Raises:
        RunFailedError: every trial of an arm diverged.
    """
    best: dict[tuple[ArmName, int], tuple[float, SweepRun]] = {}
    for run, result in zip(runs, results, strict=True):
        value = selection_value(config, result)
        place = run.arm, run.budget
        if not result.diverged and (place not in best or value > best[place][0]):
            best[place] = value, run
    for run in runs:
        if (run.arm, run.budget) not in best:
            message = (
                f"every trial of an arm diverged: got no finite loss of '{run.arm}' at "
                f"{run.budget:,} parameters in {config.trials} trials, expected one. Lower the "
                "range of lr in the sweep's search."
            )
            raise RunFailedError(message)
    return [
        run.model_copy(
            update={
                "kind": "winner",
                "number": fresh,
                "training": run.training.model_copy(update={"seed": config.seed + fresh}),
            }
        )
        for _, run in best.values()
        for fresh in range(1, config.seeds + 1)
    ]


def selection_value(config: SweepConfig, result: RunResult) -> float:
    """What a run is selected by; 0, the worst there is, where it diverged.

    With fewer than 10 validation clips mAP@N stands in for mAP@10, as in every training.
    """
    if result.diverged:
        return 0.0
    if config.metric in result.validation:
        return result.validation[config.metric]
    shorter = re.compile(re.escape(config.metric.partition("@")[0]) + r"@\d+")
    return next(v for name, v in result.validation.items() if shorter.fullmatch(name))


def make_run(
    run: SweepRun,
    data: SweepData,
    folder: Folder,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> RunResult:
    """Train, score a winner, and store what came of it.

    Args:
        run: which.
        data: what it works on.
        folder: of the sweep.
        on_epoch: called after each epoch; what it raises ends the run.

    Raises:
        E2IError: as `train_heads` and `evaluate_checkpoint`.
        RunFailedError: the loss of a winner left the finite numbers; that of a trial is a result.
        StorageError: the store refused.
    """
    fingerprint = run.fingerprint(data.digest)
    history: list[EpochRecord] = []

    def record(epoch: EpochRecord) -> None:
        history.append(epoch)
        if on_epoch is not None:
            on_epoch(epoch)

    trained = None
    try:
        trained = train_heads(
            [_seen(run, cache, data) for cache in data.train],
            _seen(run, data.validation, data),
            run.heads,
            run.training,
            record,
            load_stored=images_for(run.arm, run.view_seed),
        )
    except RunFailedError:
        if run.kind == "winner":
            raise
    evaluation: dict[str, float] = {}
    queries: dict[str, str] = {}
    if run.kind == "winner" and trained is not None:
        evaluation, queries = _scored(run, trained.checkpoint, data, folder, fingerprint)
    result = RunResult(
        name=run.name,
        fingerprint=fingerprint,
        diverged=trained is None,
        best_epoch=0 if trained is None else trained.best.epoch,
        epochs=len(history),
        seconds=sum(epoch.seconds for epoch in history),
        device=str(resolve_device(run.training.device)),
        validation={} if trained is None else dict(trained.best.metrics),
        evaluation=evaluation,
        queries=queries,
    )
    text = json.dumps(result.model_dump(mode="json"), indent=2, allow_nan=False)
    folder.write(f"{FOLDER}/{fingerprint}.json", text.encode() + b"\n")
    return result


def stored_result(run: SweepRun, digest: str, folder: Folder) -> RunResult | None:
    """What came of a run, if it was made before; None where it was not, or not all is there."""
    fingerprint = run.fingerprint(digest)
    try:
        result = RunResult.model_validate_json(folder.read(f"{FOLDER}/{fingerprint}.json"))
    except (StorageNotFoundError, ValidationError):
        return None
    if run.kind == "winner":
        parts = (checkpoint_name(result), *result.queries.values())
        if not result.queries or any(folder.info(name) is None for name in parts):
            return None
    return result.model_copy(update={"name": run.name})


def steps_an_epoch(data: SweepData, batch_size: int) -> int:
    """Optimizer steps in which all training pairs are passed once."""
    batches = DistinctClipBatches(torch.from_numpy(data.pair_clip), batch_size)
    return len(batches.epoch(seeded_generator(0, "steps")).sizes)


def checkpoint_name(result: RunResult) -> str:
    """Where a winner's checkpoint lies, below the sweep's folder."""
    return f"{FOLDER}/{result.fingerprint}.safetensors"


def _require_candidates(config: SweepConfig, data: SweepData) -> None:
    """Refuse an evaluation on which the metric says nothing, before anything is trained."""
    of_text, cutoff = config.metric.startswith("text"), int(config.metric.rpartition("@")[2])
    evaluation = data.evaluation
    candidates = len(evaluation.clip_ids if of_text else evaluation.caption_ids)
    if candidates <= cutoff:
        message = (
            f"the evaluation is too small for {config.metric}: got {candidates} candidates, "
            f"expected more than {cutoff}. Give a larger cache as --eval-cache-dir, or hold less "
            "out of more clips."
        )
        raise ConfigError(message)


def _training(config: SweepConfig, data: SweepData, drawn: dict[str, float]) -> TrainingConfig:
    steps = steps_an_epoch(data, config.batch_size)
    return TrainingConfig(
        epochs=max(1, round(config.steps / steps)),
        batch_size=config.batch_size,
        seed=config.seed,
        device=config.device,
        precision=config.precision,
        selection_metric=config.metric,
        **drawn,
    )


def _seen(run: SweepRun, cache: CachedEmbeddings, data: SweepData) -> CachedEmbeddings:
    """A part of the sweep as the run's arm sees it."""
    by = data.standardization if run.heads.standardize_input else None
    return seen_by(run.arm, cache, run.view_seed, by)


def _scored(
    run: SweepRun, checkpoint: Checkpoint, data: SweepData, folder: Folder, fingerprint: str
) -> tuple[dict[str, float], dict[str, str]]:
    """Scores of a winner on the evaluation part; its checkpoint and tables are stored."""
    scored = evaluate_checkpoint(
        checkpoint,
        _seen(run, data.evaluation, data),
        _NO_INTERVALS,
        device=run.training.device,
        load_stored=images_for(run.arm, run.view_seed),
    )
    folder.write(f"{FOLDER}/{fingerprint}.safetensors", checkpoint_bytes(checkpoint))
    tables = write_query_tables(folder, f"{FOLDER}/{fingerprint}", scored)
    return {name: score.value for name, score in scored.retrieval.scores.items()}, tables
