"""The flows `e2i-train-projection` and `e2i-eval-projection`."""

from __future__ import annotations

from dataclasses import replace

from prefect.runtime import flow_run

from e2i.heads.config import HeadsConfig
from e2i.retrieval.config import EvaluationConfig, RankingConfig, ScoreFilesConfig
from e2i.sweep.sweep_file import read_sweep
from e2i.tracking.config import TrackingConfig
from e2i.training.config import TrainingConfig
from flows.flow_setup import flow
from flows.parameters import CHECKPOINT_NAME, DATA_ROOT, TRAINING_CACHE, CheckpointName
from flows.run_record import RunRecord, name_run
from flows.summary import RunSummary
from flows.sweeping import sweep_heads
from tasks.evaluating import ScoreFiles, evaluate
from tasks.learning import train
from tasks.tracking import log_name


@flow(name="e2i-train-projection", flow_run_name=name_run, persist_result=False)
def train_projection(
    cache_dir: tuple[str, ...] = (),
    exclude_ids: str = "",
    val_cache_dir: str = "",
    eval_cache_dir: str = "",
    output_dir: str = "checkpoints",
    checkpoint_name: CheckpointName = CHECKPOINT_NAME,
    sweep: str = "",
    heads: HeadsConfig = HeadsConfig(),
    training: TrainingConfig = TrainingConfig(),
    tracking: TrackingConfig = TrackingConfig(),
) -> RunSummary:
    """Train projection heads on cached embeddings; keep the best epoch by validation.

    Args:
        cache_dir: Folders or URLs of the caches to train on, by the same encoders; default:
            Clotho's development.
        exclude_ids: CSV of clips to leave out of training.
        val_cache_dir: Cache to select on; default: 'validation' beside the training cache, if that
            is the only one and it is there; else a part of the training clips.
        eval_cache_dir: Of a sweep: cache that its winners are scored on; default: 'evaluation'
            beside the training cache, if it is there; else a part of the training clips.
        output_dir: Folder or URL that the checkpoint is written to.
        checkpoint_name: File name of the checkpoint there, *.safetensors.
        sweep: YAML, TOML or JSON file or URL that says which heads are compared: many trainings in
            place of one, as the flow e2i-sweep makes them.
        heads: What the projection heads look like.
        training: How they are trained.
        tracking: Where the run is logged.
    """
    record = RunRecord()
    if sweep:
        found = sweep_heads(
            cache_dir,
            exclude_ids,
            val_cache_dir,
            eval_cache_dir,
            output_dir,
            checkpoint_name,
            read_sweep(sweep),
            tracking,
        )
        return replace(found, flow_run_id=flow_run.get_id() or "")
    caches = list(cache_dir) or [TRAINING_CACHE]
    trained = train(
        caches,
        val_cache_dir,
        output_dir,
        checkpoint_name,
        heads,
        training,
        tracking,
        exclude_url=exclude_ids,
    )
    record.add(trained.counts)
    record.notes += trained.notes
    record.locations |= {
        f"cache_{number}" if number > 1 else "cache": url
        for number, url in enumerate(caches, start=1)
    }
    record.locations["checkpoint"] = trained.checkpoint_url
    return record.summary(metrics=trained.metrics)


@flow(name="e2i-eval-projection", flow_run_name=name_run, persist_result=False)
def eval_projection(
    cache_dir: str = f"{DATA_ROOT}/embeddings/evaluation",
    checkpoint: str = f"checkpoints/{CHECKPOINT_NAME}",
    batch_size: int = 1024,
    device: str = "auto",
    allow_seen: bool = False,
    ranking: RankingConfig = RankingConfig(),
    evaluation: EvaluationConfig = EvaluationConfig(),
    files: ScoreFilesConfig = ScoreFilesConfig(),
    tracking: TrackingConfig = TrackingConfig(),
) -> RunSummary:
    """Score a checkpoint on a cache that it has not seen.

    Args:
        cache_dir: Folder or URL of the cache to evaluate on.
        checkpoint: Checkpoint file or URL; 'none' compares the embeddings themselves.
        batch_size: Embeddings projected in one forward pass.
        device: auto, cpu, cuda, cuda:<n> or mps.
        allow_seen: Score clips that the checkpoint was trained or selected on too.
        ranking: What is ranked, and by what, beyond one checkpoint on one cache.
        evaluation: How retrieval is evaluated.
        files: Where scores, similarities and projections are written.
        tracking: Where the run is logged.
    """
    record = RunRecord()
    scores = evaluate(
        cache_dir,
        checkpoint,
        evaluation,
        tracking,
        batch_size,
        device,
        allow_seen,
        ranking=ranking,
        files=ScoreFiles(
            files.reports_dir, log_name(tracking), files.predictions, files.embeddings_out
        ),
    )
    record.add(scores.counts)
    record.notes += scores.notes
    record.locations["cache"] = cache_dir
    for number, member in enumerate(ranking.ensemble or (checkpoint,)):
        record.locations[f"checkpoint_{number + 1}" if number else "checkpoint"] = member
    record.locations |= scores.locations
    return record.summary(metrics=scores.metrics, details={"seen": scores.seen})
