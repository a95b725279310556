"""The tasks of a sweep: lay it out, make its runs, report what came of them.

The parts that a sweep works on are held by the process, by their digest: its runs are many and
short, and each would read the same caches again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from prefect import get_run_logger, task
from prefect.futures import PrefectFuture, as_completed
from prefect.runtime import flow_run, task_run

from e2i.cache.embeddings import CachedEmbeddings
from e2i.cache.reader import open_cache
from e2i.errors import CacheNotFoundError, RunFailedError, is_transient
from e2i.heads.checkpoint import load_checkpoint, save_checkpoint
from e2i.report.scores import Metrics, score_values_of
from e2i.report.sweep_content import sweep_content
from e2i.report.sweep_page import write_sweep_report
from e2i.storage import Folder
from e2i.store_layout import join_url
from e2i.sweep.best import score_best
from e2i.sweep.config import SweepConfig
from e2i.sweep.data import SweepData, sweep_data
from e2i.sweep.outcome import arm_outcomes, best_arm
from e2i.sweep.runs import (
    RunResult,
    SweepRun,
    checkpoint_name,
    make_run,
    planned_trials,
    stored_result,
)
from e2i.sweep.wording import about_the_scores
from e2i.tracking import names
from e2i.tracking.config import TrackingConfig
from e2i.tracking.tracker import tracked
from e2i.training.epochs import EpochRecord
from e2i.training.exclusion import read_exclusions
from tasks.artifacts import sweep_artifact
from tasks.learning import beside
from tasks.policy import TRIED_AGAIN, WHOLE_TIMEOUT_S
from tasks.progress import Stage, progress_sink
from tasks.tracking import epoch_values, run_facts, sweep_run_tracker

# Flow runs that are to stop: their runs in flight end after the epoch they are at.
_stopping: set[str] = set()
# The parts of the sweep that this process is at, by digest.
_held: dict[str, SweepData] = {}


@dataclass(frozen=True)
class SweepParts:
    """Where the parts of a sweep lie.

    Attributes:
        cache_urls: to train on.
        val_cache_url: to select by; empty: held out.
        eval_cache_url: to score on; empty: held out too.
        exclude_url: list of clips to leave out of training; empty: none.
        seed: of the parts held out.
        digest: of all parts, once they were read.
    """

    cache_urls: tuple[str, ...]
    val_cache_url: str = ""
    eval_cache_url: str = ""
    exclude_url: str = ""
    seed: int = 0
    digest: str = ""


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep is going to do.

    Attributes:
        parts: with their digest, and the caches found beside the first.
        folder_url: where its runs and its report lie.
        trials: all of them.
        counts: clips and captions of the training caches.
        notes: what was held out or left out.
    """

    parts: SweepParts
    folder_url: str
    trials: tuple[SweepRun, ...]
    counts: dict[str, int]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class SweepReported:
    """What a sweep came to.

    Attributes:
        sentence: what came out.
        about_the_scores: whose scores `metrics` are.
        locations: `report`, `report_json` and `checkpoint`.
        metrics: scores of the best head alone.
        details: its other scores, and each arm's difference and reading.
    """

    sentence: str
    about_the_scores: str
    locations: dict[str, str]
    metrics: Metrics
    details: dict[str, object]


@task(
    name="plan-sweep",
    task_run_name="plan-sweep",
    tags=["train", "sweep"],
    timeout_seconds=WHOLE_TIMEOUT_S,
    **TRIED_AGAIN,
)
def plan_sweep(parts: SweepParts, output_url: str, sweep: SweepConfig) -> SweepPlan:
    """Read the parts, match the heads to their budgets, and draw the trials."""
    first = parts.cache_urls[0]
    if len(parts.cache_urls) == 1 and not parts.val_cache_url:
        parts = replace(parts, val_cache_url=_found(beside(first, "validation"), first))
    if not parts.eval_cache_url:
        parts = replace(parts, eval_cache_url=_found(beside(first, "evaluation"), first))
    parts = replace(parts, seed=sweep.seed)
    data = _read(parts)
    _held.clear()
    _held[data.digest] = data
    return SweepPlan(
        parts=replace(parts, digest=data.digest),
        folder_url=join_url(Folder(output_url).url, "sweep"),
        trials=tuple(planned_trials(sweep, data)),
        counts={
            "clips": sum(len(cache.clip_ids) for cache in data.train),
            "captions": sum(len(cache.caption_ids) for cache in data.train),
        },
        notes=data.notes,
    )


def name_of_run() -> str:
    """Name of a run's task run: arm, budget, trial or fresh seed."""
    return str(task_run.get_parameters()["run"].name)


@task(
    name="sweep-run",
    task_run_name=name_of_run,
    tags=["train", "sweep"],
    timeout_seconds=WHOLE_TIMEOUT_S,
    **TRIED_AGAIN,
)
def sweep_run(
    run: SweepRun,
    parts: SweepParts,
    folder_url: str,
    tracking: TrackingConfig,
    stage: str,
) -> tuple[RunResult, bool]:
    """One run, unless its result is stored; the result, and whether it was there."""
    of_flow = flow_run.get_id() or ""
    _require_going_on(of_flow)
    folder = Folder(folder_url)
    stored = stored_result(run, parts.digest, folder)
    if stored is not None:
        progress_sink().advance(stage, 1)
        return stored, True
    data = _held.get(parts.digest) or _read_again(parts)
    split = data.evaluation.split
    settings = {"run": run.model_dump(mode="json"), "sweep": folder.url, **run_facts()}
    with tracked(
        sweep_run_tracker(tracking, run.name, run.fingerprint(data.digest)), settings
    ) as log:

        def on_epoch(epoch: EpochRecord) -> None:
            log.log(epoch_values(epoch), epoch.epoch)
            _require_going_on(of_flow)

        result = make_run(run, data, folder, on_epoch)
        log.summary({names.validation(name): it for name, it in result.validation.items()})
        log.summary({names.score(split, name): it for name, it in result.evaluation.items()})
    progress_sink().advance(stage, 1)
    get_run_logger().info("%s: %d epochs in %.1f s", run.name, result.epochs, result.seconds)
    return result, False


def gather_runs(
    futures: Sequence[PrefectFuture[tuple[RunResult, bool]]], stage: Stage
) -> tuple[list[RunResult], int]:
    """Wait for all runs; their results in order, and how many were stored before.

    One that fails does not stop the others, unless the store is away.

    Raises:
        RunFailedError: runs failed; names how many, and the first reason.
    """
    of_flow = flow_run.get_id() or ""
    errors: list[BaseException] = []
    try:
        for future in as_completed(list(futures)):
            outcome = future.result(raise_on_failure=False)
            if isinstance(outcome, BaseException):
                errors.append(outcome)
                if is_transient(outcome):
                    _stopping.add(of_flow)
            stage.settle(1)
    except BaseException:
        _stopping.add(of_flow)
        raise
    if errors:
        raise RunFailedError(
            f"{len(errors)} of {len(futures)} runs of the sweep failed: got {errors[0]} "
            "Run the same command again: what is stored is kept."
        ) from errors[0]
    made = [future.result() for future in futures]
    return [result for result, _ in made], sum(was_stored for _, was_stored in made)


@task(
    name="report-sweep",
    task_run_name="report-sweep",
    tags=["report", "sweep"],
    timeout_seconds=WHOLE_TIMEOUT_S,
    **TRIED_AGAIN,
)
def report_sweep(
    plan: SweepPlan,
    sweep: SweepConfig,
    trials: Sequence[RunResult],
    winners: Sequence[tuple[SweepRun, RunResult]],
    output_url: str,
    checkpoint: str,
    date: str = "",
) -> SweepReported:
    """Compare the arms, score the best head in more ways, write the report and its checkpoint."""
    data = _held.get(plan.parts.digest) or _read_again(plan.parts)
    folder = Folder(plan.folder_url)
    with Stage("report the sweep", len(winners), "winners") as stage:
        made = list(zip(plan.trials, trials, strict=True))
        outcomes = arm_outcomes(sweep, data, made, winners, folder)
        best = score_best(sweep, best_arm(sweep, outcomes), data, folder)
        content = sweep_content(sweep, data, outcomes, best, notes=plan.notes, date=date)
        locations = write_sweep_report(folder, content)
        output = Folder(output_url)
        kept = load_checkpoint(folder, checkpoint_name(best.results[0]))
        save_checkpoint(output, checkpoint, kept)
        stage.outcome = locations["report"]
    sweep_artifact(content.as_json())
    return SweepReported(
        sentence=content.sentence,
        about_the_scores=about_the_scores(best.outcome, content.steps),
        locations={**locations, "checkpoint": join_url(output.url, checkpoint)},
        metrics=score_values_of(best.variants["single model"]),
        details=content.summary(),
    )


def _require_going_on(of_flow: str) -> None:
    """Refuse to begin, or to go on with, a run of a flow run that is to stop.

    Raises:
        InterruptedError: it is stopping.
    """
    if of_flow in _stopping:
        raise InterruptedError("the sweep is stopping: this run was not made.")


def _found(cache_url: str, first_url: str) -> str:
    """The cache beside the first one, if it is there and another."""
    if cache_url.rstrip("/") == first_url.rstrip("/"):
        return ""
    try:
        open_cache(Folder(cache_url))
    except CacheNotFoundError:
        return ""
    return cache_url


def _read(parts: SweepParts) -> SweepData:
    def of(url: str) -> CachedEmbeddings | None:
        return open_cache(Folder(url)).load() if url else None

    return sweep_data(
        [open_cache(Folder(url)).load() for url in parts.cache_urls],
        of(parts.val_cache_url),
        of(parts.eval_cache_url),
        seed=parts.seed,
        exclude=read_exclusions(parts.exclude_url) if parts.exclude_url else None,
    )


def _read_again(parts: SweepParts) -> SweepData:
    """The parts, in a process that did not plan the sweep.

    Raises:
        RunFailedError: they are not what was planned with.
    """
    data = _read(parts)
    if data.digest != parts.digest:
        raise RunFailedError(
            "the caches have changed while the sweep ran: got data of another digest in "
            f"{', '.join(parts.cache_urls)}, expected what it began with. Run it again."
        )
    _held.clear()
    _held[data.digest] = data
    return data
