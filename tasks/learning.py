"""The task that trains projection heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prefect import get_run_logger, task
from prefect.runtime import task_run

from e2i.cache.reader import Cache, open_cache
from e2i.errors import CacheNotFoundError
from e2i.heads.checkpoint import save_checkpoint
from e2i.heads.config import HeadsConfig
from e2i.report.scores import Metrics
from e2i.storage import Folder
from e2i.store_layout import join_url, split_url
from e2i.tracking.config import TrackingConfig
from e2i.tracking.tracker import StoredArtifact, Tracker, tracked
from e2i.training.config import TrainingConfig
from e2i.training.epochs import EpochRecord
from e2i.training.exclusion import read_exclusions
from e2i.training.pseudo_images import stored_images_of
from e2i.training.selection import chosen_by
from e2i.training.state import StateFile
from e2i.training.train import train_heads
from e2i.training.windows import stored_windows_of
from tasks.artifacts import links_artifact
from tasks.policy import TRIED_AGAIN, WHOLE_TIMEOUT_S
from tasks.progress import Stage, progress_sink
from tasks.tracking import (
    cache_artifact,
    epoch_values,
    flow_run_tracker,
    labelled,
    provenance,
    run_facts,
    tags_of,
)

STATE_SHARE = 0.1
"""Of a training's time that writing its state may take."""


@dataclass(frozen=True)
class Trained:
    """What a training left.

    Attributes:
        checkpoint_url: where the heads lie.
        counts: clips and captions of the caches, less those left out; epochs passed.
        metrics: validation scores of the epoch that was kept.
        notes: what was done other than asked, and which epoch was kept.
    """

    checkpoint_url: str
    counts: dict[str, int]
    metrics: Metrics
    notes: tuple[str, ...]


def name_of_training() -> str:
    """Name of a training's task run."""
    return _labelled("train-projection")


def _labelled(name: str) -> str:
    label = task_run.get_parameters().get("label")
    return f"{name}-{label}" if label else name


def beside(cache_url: str, split: str) -> str:
    """The cache of another split, in the folder that this one lies in."""
    return join_url(split_url(cache_url)[0], split)


@task(
    name="train-projection",
    task_run_name=name_of_training,
    timeout_seconds=WHOLE_TIMEOUT_S,
    **TRIED_AGAIN,
)
def train(
    cache_urls: list[str],
    val_cache_url: str,
    output_url: str,
    checkpoint_name: str,
    heads: HeadsConfig,
    training: TrainingConfig,
    tracking: TrackingConfig,
    label: str = "",
    exclude_url: str = "",
) -> Trained:
    """Train on caches, choose the epoch on another, store the checkpoint.

    The state of the last epochs lies beside the checkpoint until that is there: a run that was
    killed goes on from it.
    """
    opened = [open_cache(Folder(url)) for url in cache_urls]
    caches = [cache.load() for cache in opened]
    selection_url = val_cache_url or beside(cache_urls[0], "validation")
    validation = None
    if val_cache_url:
        validation = open_cache(Folder(val_cache_url)).load()
    elif len(caches) == 1 and caches[0].split != "validation":
        try:
            validation = open_cache(Folder(selection_url)).load()
        except CacheNotFoundError:
            get_run_logger().info(
                "No validation cache beside %s: clips are held out", cache_urls[0]
            )
    name = f"train {label} projection heads" if label else "train projection heads"
    fingerprints = {
        "audio_fingerprint": caches[0].audio_fingerprint,
        "text_fingerprint": caches[0].text_fingerprint,
    }
    settings = {
        "caches": [cache.url for cache in caches],
        "heads": heads.model_dump(mode="json"),
        "training": training.model_dump(mode="json"),
        **fingerprints,
        **run_facts(),
    }
    output = Folder(output_url)
    with (
        tracked(
            flow_run_tracker("train", tracking, [*tags_of(opened), heads.input_type]), settings
        ) as tracker,
        Stage(name, training.epochs, "epochs") as stage,
        StateFile(
            output,
            f"{checkpoint_name.rpartition('.')[0]}.training-state",
            largest_share=STATE_SHARE,
        ) as state,
    ):

        def on_epoch(epoch: EpochRecord) -> None:
            tracker.log(labelled(epoch_values(epoch), label), epoch.epoch)
            progress_sink().advance(name, 1)
            metric = chosen_by(training.selection_metric, epoch.metrics)
            get_run_logger().info(
                "epoch %d of %d: loss %.4f, validation %s %.4f",
                epoch.epoch,
                epoch.num_epochs,
                epoch.train_loss,
                metric,
                epoch.metrics[metric],
            )

        folders = [Folder(url) for url in (*cache_urls, selection_url)]
        trained = train_heads(
            caches,
            validation,
            heads,
            training,
            on_epoch,
            load_stored=stored_images_of(*folders),
            load_windows=stored_windows_of(*folders),
            exclude=read_exclusions(exclude_url) if exclude_url else None,
            state=state,
        )
        best = trained.best
        metric = chosen_by(training.selection_metric, best.metrics)
        kept = f"epoch {best.epoch} of {training.epochs} kept"
        tracker.summary(labelled({"best_epoch": best.epoch, **epoch_values(best)}, label))
        stage.outcome = f"{kept}, validation {metric} {best.metrics[metric]:.3f}"
        digest = save_checkpoint(output, checkpoint_name, trained.checkpoint)
        state.discard()
        _log_artifacts(tracker, opened, output, checkpoint_name, digest)
    links_artifact(
        f"train {label}".strip(),
        {"checkpoint": join_url(output.url, checkpoint_name), **tracker.links()},
        provenance({"checkpoint_sha256": digest, **fingerprints}),
    )
    return Trained(
        checkpoint_url=join_url(output.url, checkpoint_name),
        counts={
            "clips": sum(len(cache.clip_ids) for cache in caches) - trained.num_excluded,
            "captions": sum(len(cache.caption_ids) for cache in caches)
            - trained.num_captions_excluded,
            "epochs": len(trained.history),
            "excluded": trained.num_excluded,
        },
        metrics={
            f"validation_{name.removeprefix('val_')}": {
                "value": value,
                "low": None,
                "high": None,
                "chance": None,
            }
            for name, value in best.metrics.items()
        },
        notes=(
            *trained.notes,
            f"The heads are those of epoch {best.epoch} of {training.epochs}, chosen by "
            f"{metric} on "
            + (
                "clips held out of the training cache."
                if validation is None
                else f"the cache {validation.dataset}/{validation.split} ({validation.url})."
            ),
        ),
    )


def _log_artifacts(
    tracker: Tracker, caches: Sequence[Cache], output: Folder, name: str, digest: str
) -> None:
    """Name the caches that were trained on, and the checkpoint."""
    for cache in caches:
        tracker.artifact(cache_artifact(cache))
    tracker.artifact(
        StoredArtifact(name.rpartition(".")[0], "model", join_url(output.url, name), digest)
    )
