"""The flow `e2i-sweep`: heads compared on equal terms, on caches that are there."""

from __future__ import annotations

from typing import Any

from prefect import unmapped
from prefect.task_runners import ThreadPoolTaskRunner

from e2i.sweep.config import SweepConfig
from e2i.sweep.runs import RunResult, SweepRun, winners
from e2i.tracking.config import TrackingConfig
from flows.flow_setup import flow
from flows.parameters import CHECKPOINT_NAME, TRAINING_CACHE, CheckpointName
from flows.run_record import RunRecord, name_run, started_at
from flows.summary import RunSummary
from tasks.progress import Stage
from tasks.sweeping import SweepParts, SweepPlan, gather_runs, plan_sweep, report_sweep, sweep_run

# One run at a time: each takes the whole device, and their times are compared.
RUN_RUNNER: Any = ThreadPoolTaskRunner(max_workers=1)


@flow(
    name="e2i-sweep",
    flow_run_name=name_run,
    task_runner=RUN_RUNNER,
    persist_result=False,
)
def sweep_heads(
    cache_dir: tuple[str, ...] = (),
    exclude_ids: str = "",
    val_cache_dir: str = "",
    eval_cache_dir: str = "",
    output_dir: str = "checkpoints",
    checkpoint_name: CheckpointName = CHECKPOINT_NAME,
    comparison: SweepConfig = SweepConfig(),
    tracking: TrackingConfig = TrackingConfig(),
) -> RunSummary:
    """Compare projection heads at equal parameters, trials, steps and seeds; report what came out.

    Args:
        cache_dir: Folders or URLs of the caches to train on, by the same encoders; default:
            Clotho's development.
        exclude_ids: CSV of clips to leave out of training.
        val_cache_dir: Cache to select on; default: 'validation' beside the training cache, if that
            is the only one and it is there; else a part of the training clips.
        eval_cache_dir: Cache that the winners are scored on; default: 'evaluation' beside the
            training cache, if it is there; else a part of the training clips.
        output_dir: Folder or URL of the best head's checkpoint; the sweep lies in its folder
            'sweep'.
        checkpoint_name: File name of the checkpoint there, *.safetensors.
        comparison: What is compared, and how hard it is tried.
        tracking: Where the runs are logged.
    """
    record = RunRecord()
    caches = cache_dir or (TRAINING_CACHE,)
    parts = SweepParts(tuple(caches), val_cache_dir, eval_cache_dir, exclude_ids)
    plan = plan_sweep(parts, output_dir, comparison)
    record.add(plan.counts)
    trials = _made(record, "sweep: trials", list(plan.trials), plan, tracking)
    chosen = winners(comparison, plan.trials, trials)
    fresh = _made(record, "sweep: winners", chosen, plan, tracking)
    reported = report_sweep(
        plan,
        comparison,
        trials,
        list(zip(chosen, fresh, strict=True)),
        output_dir,
        checkpoint_name,
        started_at(),
    )
    record.notes += [reported.sentence, reported.about_the_scores, *plan.notes]
    record.locations |= {
        f"cache_{number}" if number > 1 else "cache": url
        for number, url in enumerate(caches, start=1)
    }
    record.locations |= reported.locations
    return record.summary(metrics=reported.metrics, details=reported.details)


def _made(
    record: RunRecord,
    name: str,
    runs: list[SweepRun],
    plan: SweepPlan,
    tracking: TrackingConfig,
) -> list[RunResult]:
    """The results of runs, mapped as tasks; what is stored is not made again."""
    with Stage(name, len(runs), "runs", name.replace(": ", "-")) as stage:
        futures = sweep_run.map(
            runs,
            unmapped(plan.parts),
            unmapped(plan.folder_url),
            unmapped(tracking),
            unmapped(name),
        )
        results, stored = gather_runs(list(futures), stage)
        stage.outcome = f"{len(runs) - stored} made, {stored} were there"
    record.add({"runs_made": len(runs) - stored, "runs_reused": stored})
    return results
