"""The logs of a flow run: one tracker a task, one run at W&B a flow run, retries included."""

from __future__ import annotations

import datetime as dt
import os
import uuid
from pathlib import Path

from prefect import get_run_logger
from prefect.runtime import flow_run

from e2i.report.scores import Metrics
from e2i.tracking.config import TrackingConfig
from e2i.tracking.opening import Kind, RunIdentity, open_tracker
from e2i.tracking.tracker import Trackers
from e2i.training.epochs import EpochRecord
from tasks.progress import progress_sink
from tasks.wandb_environment import wandb_access


def flow_run_tracker(kind: Kind, config: TrackingConfig) -> Trackers:
    """A tracker for a task of the flow run that this runs in; give it to `tracked`."""
    logger = get_run_logger()

    def warn(text: str) -> None:
        logger.warning(text)
        progress_sink().note(text)

    return open_tracker(kind, config, _identity(), wandb_access(os.environ, Path.home()), warn)


def sweep_run_tracker(config: TrackingConfig, run_name: str, fingerprint: str) -> Trackers:
    """A tracker for one run of a sweep: a run of its own, in a group named after the flow run."""
    logger = get_run_logger()

    def warn(text: str) -> None:
        logger.warning(text)
        progress_sink().note(text)

    group, whole = log_name(config), _identity()
    named = config.model_copy(update={"run_name": f"{group}-{run_name}"})
    run = RunIdentity(f"{whole.id}-{fingerprint[:12]}", whole.started)
    return open_tracker(
        "sweep", named, run, wandb_access(os.environ, Path.home()), warn, group=group
    )


def log_name(config: TrackingConfig) -> str:
    """Name of the flow run's log, and of what is stored beside it."""
    return config.run_name or _identity().default_name


def labelled(values: dict[str, float], label: str) -> dict[str, float]:
    """Values named so that the arms of one flow run, which share a run at W&B, stay apart."""
    return {f"{label}_{name}": value for name, value in values.items()} if label else values


def epoch_values(epoch: EpochRecord) -> dict[str, float]:
    """What an epoch came to, by the names that logs give it; `val_loss` keeps its own."""
    return {
        "train_loss": epoch.train_loss,
        "lr": epoch.lr,
        "seconds": epoch.seconds,
        "pairs_per_s": epoch.pairs_per_s,
        **{
            name if name.startswith("val") else f"validation_{name}": value
            for name, value in epoch.metrics.items()
        },
    }


def score_values(metrics: Metrics, split: str, *, seen: bool) -> dict[str, float]:
    """Scores by the names that logs give them: `evaluation_text_to_audio_R@1`, `..._R@1_low`, ...

    Those of seen clips are `evaluation_seen_text_to_audio_R@1`. Chance and whatever else was not
    measured are left out.
    """
    of = f"{split}_seen" if seen else split
    return {
        f"{of}_{name}" if part == "value" else f"{of}_{name}_{part}": value
        for name, score in metrics.items()
        for part, value in score.items()
        if value is not None and part in {"value", "low", "high"}
    }


def _identity() -> RunIdentity:
    """The flow run that this runs in."""
    started = flow_run.get_scheduled_start_time() or dt.datetime.now(dt.UTC)
    return RunIdentity(flow_run.get_id() or str(uuid.uuid4()), started)
