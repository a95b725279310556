"""Tasks that fine-tune: decode the recordings of a split, train encoders and heads."""

from __future__ import annotations

from dataclasses import dataclass

from prefect import get_run_logger, task
from prefect.runtime import task_run

from e2i.datasets.config import MetadataConfig
from e2i.datasets.tabular import read_metadata
from e2i.decoding.pool import WaveformLoader
from e2i.errors import RunFailedError
from e2i.report.scores import Metrics
from e2i.storage import Folder
from e2i.store_layout import join_url
from e2i.tracking.config import TrackingConfig
from e2i.tracking.tracker import StoredArtifact, tracked
from e2i.training.epochs import EpochRecord
from e2i.training.finetune.config import FinetuneConfig
from e2i.training.finetune.examples import Examples
from e2i.training.finetune.waveforms import WaveformStore
from e2i.training.selection import chosen_by
from tasks.artifacts import scores_artifact
from tasks.policy import TRIED_AGAIN, WHOLE_TIMEOUT_S
from tasks.progress import Stage, progress_sink
from tasks.tracking import epoch_values, flow_run_tracker, run_facts

SHOWN_FAILURES = 5


@dataclass(frozen=True)
class PreparedSplit:
    """A split whose recordings are decoded.

    Attributes:
        examples: its clips and captions.
        counts: clips and captions, and how many were decoded, were stored, or failed.
        notes: which recordings failed.
    """

    examples: Examples
    counts: dict[str, int]
    notes: tuple[str, ...]


def name_of_preparation() -> str:
    """Name of a preparation's task run."""
    return f"prepare-recordings-{task_run.get_parameters().get('role')}"


@task(
    name="prepare-recordings",
    task_run_name=name_of_preparation,
    tags=["finetune", "audio"],
    timeout_seconds=WHOLE_TIMEOUT_S,
    **TRIED_AGAIN,
)
def prepare_recordings(
    source: MetadataConfig, role: str, waveforms_url: str, config: FinetuneConfig
) -> PreparedSplit:
    """Decode what is not decoded yet of a split.

    Raises:
        RunFailedError: more recordings failed than may.
    """
    clips = read_metadata(source)
    loader = WaveformLoader(config.resampler, config.num_workers, config.decode_timeout)
    store = WaveformStore(Folder(waveforms_url), config.resampler)
    name = f"decode {role} recordings"
    with Stage(name, len(clips.clips), "clips") as stage:
        prepared = store.prepare(
            Folder(clips.audio_root_url),
            clips.clips,
            loader,
            loader.at_once,
            lambda count: progress_sink().advance(name, count),
        )
        stored, failed, decoded = prepared
        stage.outcome = f"{decoded} decoded, {len(stored) - decoded} were stored"
    for failure in failed[:SHOWN_FAILURES]:
        progress_sink().note(f"{failure.clip_id}: {failure.reason}")
        get_run_logger().warning("%s: %s", failure.clip_id, failure.reason)
    allowed = config.allowed_failures(len(clips.clips))
    if len(failed) > allowed:
        raise RunFailedError(
            f"too many recordings of {clips.dataset} {clips.split} cannot be decoded: got "
            f"{len(failed)} of {len(clips.clips)}, expected at most {allowed} (the first, "
            f"{failed[0].clip_id}: {failed[0].reason}) Mend them, or raise --max-failures; what is "
            "stored is kept."
        )
    examples = Examples.of(clips, stored)
    notes: tuple[str, ...] = ()
    if failed:
        notes = (
            f"{len(failed)} of {len(clips.clips)} {role} recordings cannot be decoded and are left "
            f"out, the first {failed[0].clip_id}.",
        )
    counts = {
        "clips": len(examples.keys),
        "captions": len(examples.captions),
        "decoded": decoded,
        "reused": len(stored) - decoded,
        "failed": len(failed),
    }
    return PreparedSplit(examples, counts, notes)


@dataclass(frozen=True)
class FinetunedFiles:
    """What a fine-tuning left.

    Attributes:
        best_url: checkpoint of the best epoch.
        last_url: of the last one.
        counts: epochs passed, clips tested on.
        metrics: scores of the test with the best epoch's weights, and of validation.
        notes: what was done other than asked, and which epoch was kept.
    """

    best_url: str
    last_url: str
    counts: dict[str, int]
    metrics: Metrics
    notes: tuple[str, ...]


@task(
    name="finetune",
    task_run_name="finetune",
    tags=["train", "finetune"],
    timeout_seconds=7 * WHOLE_TIMEOUT_S,
    **TRIED_AGAIN,
)
def finetune_encoders(
    train: Examples,
    validation: Examples | None,
    test: Examples | None,
    waveforms_url: str,
    output_url: str,
    config: FinetuneConfig,
    tracking: TrackingConfig,
) -> FinetunedFiles:
    """Train encoders and heads, choose the epoch, test it, store both checkpoints.

    The state lies beside the checkpoints until these are there: a run that was killed, or is tried
    again, goes on from it.
    """
    # Lightning takes seconds to import.
    from e2i.training.finetune.train import (  # noqa: PLC0415
        Inputs,
        batches_in_all,
        finetune,
        with_parts_held_out,
    )

    output = Folder(output_url)
    inputs = with_parts_held_out(
        Inputs(
            *(train, validation, test),
            waveforms=Folder(waveforms_url),
            output=output,
            name=f"finetune_{config.model_type}",
        ),
        config,
    )
    logger = get_run_logger()
    name = f"fine-tune {config.model_type}"
    total = batches_in_all(inputs, config)
    settings = {
        "finetuning": config.model_dump(mode="json"),
        "output": output.url,
        **run_facts(),
    }
    tags = [train.keys[0].dataset, train.keys[0].split, config.model_type]
    with (
        tracked(flow_run_tracker("finetune", tracking, tags), settings) as tracker,
        Stage(name, total, "batches") as stage,
    ):

        def on_epoch(epoch: EpochRecord) -> None:
            tracker.log(epoch_values(epoch), epoch.epoch)
            metric = chosen_by(config.selection_metric, epoch.metrics)
            logger.info(
                "epoch %d of %d: loss %.4f, validation %s %.4f",
                *(epoch.epoch, epoch.num_epochs, epoch.train_loss),
                *(metric, epoch.metrics[metric]),
            )

        done = finetune(
            inputs, config, on_epoch, lambda count: progress_sink().advance(name, count)
        )
        best = done.best
        metric = chosen_by(config.selection_metric, best.metrics)
        tracker.summary({"best_epoch": best.epoch, **epoch_values(best)})
        tracker.summary({f"test_{key}": score["value"] or 0.0 for key, score in done.test.items()})
        for file in (inputs.best_name, inputs.last_name):
            url = join_url(output.url, file)
            tracker.artifact(StoredArtifact(file.rpartition(".")[0], "model", url))
        stage.outcome = (
            f"epoch {best.epoch} of {config.epochs} kept, validation {metric} "
            f"{best.metrics[metric]:.3f}"
        )
    notes = (
        *done.notes,
        f"The weights are those of epoch {best.epoch} of {config.epochs}, chosen by {metric} on "
        + (
            "clips held out of the training data."
            if validation is None
            else "the validation split."
        ),
    )
    if done.test and inputs.test is not None:
        key = inputs.test.keys[0]
        scores_artifact(done.test, key.dataset, key.split, notes, "finetune")
    return FinetunedFiles(
        best_url=join_url(output.url, inputs.best_name),
        last_url=join_url(output.url, inputs.last_name),
        counts={"epochs": len(done.history), "clips_tested": done.num_tested},
        metrics={**done.test, **_validation_metrics(best)},
        notes=notes,
    )


def _validation_metrics(best: EpochRecord) -> Metrics:
    return {
        f"validation_{name.removeprefix('val_')}": {
            "value": value,
            "low": None,
            "high": None,
            "chance": None,
        }
        for name, value in best.metrics.items()
    }
