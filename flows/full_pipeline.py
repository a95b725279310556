"""The flow `e2i`: recordings and captions in; embeddings, pseudo-images, heads and a score out."""

from __future__ import annotations

from dataclasses import dataclass

from e2i.cache.config import CacheConfig
from e2i.datasets.config import MetadataConfig
from e2i.datasets.download_config import DownloadConfig
from e2i.datasets.soundscapes.config import SPLITS, SoundscapesConfig
from e2i.encoders.config import EncodersConfig
from e2i.heads.config import HeadsConfig
from e2i.images.config import ImagesConfig
from e2i.report.scores import Metrics
from e2i.retrieval.config import EvaluationConfig
from e2i.store_layout import StoreLayout, clotho_metadata_url, join_url
from e2i.tracking.config import TrackingConfig
from e2i.training.config import TrainingConfig
from flows.caching import embed_split, render_cache
from flows.chunk_threads import CHUNK_RUNNER
from flows.flow_setup import flow
from flows.parameters import (
    CHECKPOINT_NAME,
    CNN_HEADS,
    CNN_TRAINING,
    DATA_ROOT,
    VISION_CHECKPOINT_NAME,
    DatasetName,
    Placement,
)
from flows.run_record import RunRecord, name_run, started_at
from flows.runner_parameters import RunnerConfig
from flows.summary import RunSummary
from flows.task_runners import chunk_runner
from tasks.datasets import generate_dataset
from tasks.downloading import download_dataset, find_lacking_splits
from tasks.evaluating import ScoreFiles, evaluate
from tasks.learning import train
from tasks.pooled import embed_on_pool, train_on_pool
from tasks.rendering import draw_sheet
from tasks.reports import ReportedModel, write_report


@dataclass(frozen=True)
class Arm:
    """One way to train heads.

    Attributes:
        name: for people.
        label: told apart by it in names of task runs, metrics and files; empty for the first.
        checkpoint_name: file of its checkpoint.
        heads: what they look like.
        training: how they are trained.
    """

    name: str
    label: str
    checkpoint_name: str
    heads: HeadsConfig
    training: TrainingConfig

    def key(self, name: str) -> str:
        """The name of a metric or location of this arm."""
        return f"{self.label}_{name}" if self.label else name


@flow(
    name="e2i",
    flow_run_name=name_run,
    task_runner=CHUNK_RUNNER,
    persist_result=False,
)
def full_pipeline(
    store_url: str = DATA_ROOT,
    dataset: DatasetName = "clotho",
    download: DownloadConfig = DownloadConfig(),
    soundscapes: SoundscapesConfig = SoundscapesConfig(),
    encoders: EncodersConfig = EncodersConfig(),
    cache: CacheConfig = CacheConfig(),
    images: ImagesConfig = ImagesConfig(),
    heads: HeadsConfig = HeadsConfig(),
    training: TrainingConfig = TrainingConfig(),
    vision_arm: bool = False,
    vision_heads: HeadsConfig = CNN_HEADS,
    vision_training: TrainingConfig = CNN_TRAINING,
    evaluation: EvaluationConfig = EvaluationConfig(),
    tracking: TrackingConfig = TrackingConfig(log_dir=""),
    runner: RunnerConfig = RunnerConfig(),
    placement: Placement = "here",
) -> RunSummary:
    """Embed, render, train and evaluate one data set.

    Args:
        store_url: Absolute folder or URL that everything is stored below.
        dataset: 'clotho', read from <store>/data/clotho and downloaded to it where it is missing,
            or 'soundscapes', generated.
        download: Where Clotho is fetched from, where it is missing.
        soundscapes: Sizes and seed of the generated data set.
        encoders: Which encoders, and how they run.
        cache: How embeddings are stored.
        images: How embeddings become pseudo-images.
        heads: What the projection heads look like.
        training: How they are trained.
        vision_arm: Train a CNN on the pseudo-images as well, and score both.
        vision_heads: What the CNN's heads look like.
        vision_training: How they are trained.
        evaluation: How retrieval is evaluated.
        tracking: Where the run is logged; by default below the store.
        runner: What runs the chunks of embedding and rendering.
        placement: 'here': every step in this run; 'pools': embedding and training as runs of their
            own on the work pool of GPUs.
    """
    on_pools = placement == "pools"
    layout = StoreLayout(store_url)
    record = RunRecord()
    data_url = layout.data_url(dataset)
    if dataset == "soundscapes":
        record.add(generate_dataset(data_url, soundscapes))
    elif (lacking := find_lacking_splits(data_url, download)) is not None:
        record.add(download_dataset(data_url, lacking))
    with chunk_runner(runner, store_url):
        for split in SPLITS:
            source = MetadataConfig(metadata=clotho_metadata_url(data_url, split), split=split)
            cache_url = layout.cache_url(split)
            if on_pools:
                counts = embed_on_pool(source, cache_url, encoders, cache, runner)
            else:
                counts = embed_split(source, cache_url, encoders, cache)
            record.add_embedded(counts, cache_url)
        for split in SPLITS:  # once all are there: one's images may need another's statistics
            record.add(render_cache(layout.cache_url(split), images))
    development, evaluation_cache = layout.cache_url("development"), layout.cache_url("evaluation")
    tracking = tracking.model_copy(update={"log_dir": tracking.log_dir or layout.logs_url})
    sheet_url = draw_sheet(evaluation_cache, images)
    arms = [Arm("MLP", "", CHECKPOINT_NAME, heads, training)]
    if vision_arm:
        arms.append(Arm("CNN", "vision", VISION_CHECKPOINT_NAME, vision_heads, vision_training))
    models: list[ReportedModel] = []
    metrics: Metrics = {}
    for arm in arms:
        trained = (train_on_pool if on_pools else train)(
            [development],
            layout.cache_url("validation"),
            layout.checkpoints_url,
            arm.checkpoint_name,
            arm.heads,
            arm.training,
            tracking,
            arm.label,
        )
        scores = evaluate(
            evaluation_cache,
            trained.checkpoint_url,
            evaluation,
            tracking,
            device="auto" if on_pools else arm.training.device,
            label=arm.label,
            files=ScoreFiles(layout.reports_url),
        )
        models.append(ReportedModel(arm.name, trained.checkpoint_url))
        metrics |= {arm.key(name): score for name, score in scores.metrics.items()}
        record.locations |= {
            arm.key("checkpoint"): trained.checkpoint_url,
            arm.key("scores"): scores.locations["scores"],
        }
        record.notes += [f"{arm.name}: {note}" for note in trained.notes]
    record.notes += scores.notes
    report_url = write_report(
        evaluation_cache,
        models,
        layout.reports_url,
        evaluation,
        source=MetadataConfig(
            metadata=clotho_metadata_url(data_url, "evaluation"), split="evaluation"
        ),
        device="auto" if on_pools else training.device,
        date=started_at(),
    )
    record.locations |= {
        "data": data_url,
        "cache": layout.embeddings_url,
        "images": join_url(evaluation_cache, images.images_dir),
        "sheet": sheet_url,
        "report": report_url,
        "logs": tracking.log_dir,
    }
    return record.summary(metrics=metrics)
