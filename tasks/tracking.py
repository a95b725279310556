"""The logs of a flow run: one tracker a task, one run at W&B a flow run, retries included.

Log file, W&B, Prefect and what is stored know of each other: by the id of the flow run, which is
that of the run at W&B, and by links.
"""

from __future__ import annotations

import datetime as dt
import os
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path

from prefect import get_run_logger
from prefect.runtime import flow_run
from prefect.settings import get_current_settings
from prefect.utilities.urls import url_for

from e2i.cache.reader import Cache
from e2i.code_version import code_version
from e2i.report.scores import Metrics
from e2i.tracking import names
from e2i.tracking.config import TrackingConfig
from e2i.tracking.opening import Kind, RunIdentity, open_tracker
from e2i.tracking.tracker import StoredArtifact, Trackers
from e2i.tracking.wandb_run import RunLabels
from e2i.training.epochs import EpochRecord
from tasks.progress import progress_sink
from tasks.wandb_environment import wandb_access

_NO_LABELS = RunLabels()


def flow_run_tracker(kind: Kind, config: TrackingConfig, tags: Iterable[str] = ()) -> Trackers:
    """A tracker for a task of the flow run that this runs in; give it to `tracked`."""
    logger = get_run_logger()

    def warn(text: str) -> None:
        logger.warning(text)
        progress_sink().note(text)

    labels = RunLabels(
        job_type=_job_type(),
        group=config.wandb_group or flow_run.get_name() or "",
        tags=tuple(tags),
    )
    run = _identity(labels)
    return open_tracker(kind, config, run, wandb_access(os.environ, Path.home()), warn)


def run_facts() -> dict[str, object]:
    """What a log says of its run beside the configuration: flow run, code, and where to look."""
    link = _flow_run_url()
    return {
        "flow_run": {
            "id": flow_run.get_id() or "",
            "name": flow_run.get_name() or "",
            "flow": flow_run.get_flow_name() or "",
        },
        "code": code_version(),
        "links": {"flow_run": link} if link else {},
    }


def tags_of(caches: Iterable[Cache]) -> list[str]:
    """Data sets, splits and encoders of caches."""
    return [
        tag
        for cache in caches
        for tag in (
            cache.header.dataset,
            cache.header.split,
            *(str(s.settings.get("encoder", "")) for s in (cache.header.audio, cache.header.text)),
        )
    ]


def cache_artifact(cache: Cache) -> StoredArtifact:
    """A cache as the logs name it: by its manifest, which names all that is in it."""
    header = cache.header
    return StoredArtifact(
        name=f"cache-{header.dataset}-{header.split}",
        kind="cache",
        url=cache.folder.url,
        sha256=cache.manifest_sha256,
        facts={
            "audio_fingerprint": header.audio.fingerprint,
            "text_fingerprint": header.text.fingerprint,
        },
    )


def provenance(facts: Mapping[str, str]) -> dict[str, str]:
    """Facts about a result, with the code that made it."""
    return {**facts, **code_version()}


def sweep_run_tracker(config: TrackingConfig, run_name: str, fingerprint: str) -> Trackers:
    """A tracker for one run of a sweep: a run of its own, in a group named after the flow run."""
    logger = get_run_logger()

    def warn(text: str) -> None:
        logger.warning(text)
        progress_sink().note(text)

    group, whole = log_name(config), _identity()
    named = config.model_copy(update={"run_name": f"{group}-{run_name}"})
    labels = RunLabels(job_type="sweep", group=config.wandb_group or group)
    run = RunIdentity(f"{whole.id}-{fingerprint[:12]}", whole.started, labels)
    return open_tracker("sweep", named, run, wandb_access(os.environ, Path.home()), warn)


def log_name(config: TrackingConfig) -> str:
    """Name of the flow run's log, and of what is stored beside it."""
    return config.run_name or _identity().default_name


def labelled(values: dict[str, float], label: str) -> dict[str, float]:
    """Values named so that the arms of one flow run, which share a run at W&B, stay apart."""
    return {names.of_arm(label, name): value for name, value in values.items()}


def epoch_values(epoch: EpochRecord) -> dict[str, float]:
    """What an epoch came to, by the names that logs give it; `val_loss` keeps its own."""
    return {
        "train_loss": epoch.train_loss,
        "lr": epoch.lr,
        "seconds": epoch.seconds,
        "pairs_per_s": epoch.pairs_per_s,
        **{names.validation(name): value for name, value in epoch.metrics.items()},
    }


def score_values(metrics: Metrics, split: str, *, seen: bool) -> dict[str, float]:
    """Scores by the names that logs give them: `evaluation_text_to_audio_R@1`, `..._R@1_low`, ...

    Those of seen clips are `evaluation_seen_text_to_audio_R@1`. Chance and whatever else was not
    measured are left out.
    """
    parts: tuple[names.Part, ...] = ("value", "low", "high")
    return {
        names.score(split, name, part, seen=seen): value
        for name, score in metrics.items()
        for part in parts
        if (value := score.get(part)) is not None
    }


def _identity(labels: RunLabels = _NO_LABELS) -> RunIdentity:
    """The flow run that this runs in."""
    started = flow_run.get_scheduled_start_time() or dt.datetime.now(dt.UTC)
    return RunIdentity(flow_run.get_id() or str(uuid.uuid4()), started, labels)


def _job_type() -> str:
    """What the flow run does: `train-projection`, `eval-projection`, `full-pipeline`."""
    name = flow_run.get_flow_name() or ""
    return "full-pipeline" if name == "e2i" else name.removeprefix("e2i-")


def _flow_run_url() -> str:
    """The page of the flow run; empty where the server has none."""
    run = flow_run.get_id()
    if not run or not get_current_settings().server.ui.enabled:
        return ""
    return url_for("flow-run", obj_id=run) or ""
