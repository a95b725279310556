"""The flow `e2i`: recordings and captions in; embeddings, pseudo-images, heads and a score out."""

from __future__ import annotations

from prefect import flow, get_run_logger
from prefect.task_runners import ThreadPoolTaskRunner

from e2i.cache.config import CacheConfig
from e2i.datasets.config import MetadataConfig
from e2i.datasets.soundscapes.config import SPLITS, SoundscapesConfig
from e2i.encoders.config import EncodersConfig
from e2i.heads.config import HeadsConfig
from e2i.images.config import ImagesConfig
from e2i.retrieval.config import EvaluationConfig
from e2i.store_layout import StoreLayout, join_url
from e2i.training.config import TrainingConfig
from flows.caching import CHUNKS_AT_ONCE, embed_split, render_cache
from flows.parameters import CHECKPOINT_NAME, DATA_ROOT, DatasetName
from flows.run_record import RunRecord, name_run
from flows.summary import RunSummary
from tasks.datasets import generate_dataset
from tasks.learning import evaluate, train
from tasks.reports import publish_scores, publish_sheet


@flow(
    name="e2i",
    flow_run_name=name_run,
    task_runner=ThreadPoolTaskRunner(max_workers=CHUNKS_AT_ONCE),
    persist_result=False,
)
def full_pipeline(
    store_url: str = DATA_ROOT,
    dataset: DatasetName = "clotho",
    soundscapes: SoundscapesConfig = SoundscapesConfig(),
    encoders: EncodersConfig = EncodersConfig(),
    cache: CacheConfig = CacheConfig(),
    images: ImagesConfig = ImagesConfig(),
    heads: HeadsConfig = HeadsConfig(),
    training: TrainingConfig = TrainingConfig(),
    evaluation: EvaluationConfig = EvaluationConfig(),
) -> RunSummary:
    """Embed, render, train and evaluate one data set.

    Args:
        store_url: Absolute folder or URL that everything is stored below.
        dataset: 'clotho', read from <store>/data/clotho, or 'soundscapes', generated.
        soundscapes: Sizes and seed of the generated data set.
        encoders: Which encoders, and how they run.
        cache: How embeddings are stored.
        images: How embeddings become pseudo-images.
        heads: What the projection heads look like.
        training: How they are trained.
        evaluation: How retrieval is evaluated.
    """
    layout = StoreLayout(store_url)
    record = RunRecord()
    data_url = layout.data_url(dataset)
    record.locations["data"] = data_url
    if dataset == "soundscapes":
        record.add(generate_dataset(data_url, soundscapes).as_counts())
    for split in SPLITS:
        source = MetadataConfig(
            metadata=join_url(data_url, "clotho_csv_files", f"clotho_captions_{split}.csv"),
            split=split,
        )
        cache_url = layout.cache_url(split)
        record.add(embed_split(source, cache_url, encoders, cache))
        record.add(render_cache(cache_url, images))
        record.locations[f"cache_{split}"] = cache_url
    evaluation_url = layout.cache_url("evaluation")
    sheet_url = publish_sheet(evaluation_url, images, layout.reports_url)
    trained = train(
        [layout.cache_url("development")],
        layout.cache_url("validation"),
        layout.checkpoints_url,
        CHECKPOINT_NAME,
        heads,
        training,
    )
    scores = evaluate(
        evaluation_url,
        layout.checkpoints_url,
        CHECKPOINT_NAME,
        evaluation,
        training.device,
    )
    report_url = publish_scores(scores, layout.reports_url)
    record.locations |= {
        "cache": layout.cache_url("development"),
        "checkpoint": trained.checkpoint_url,
        "images": join_url(evaluation_url, images.images_dir),
        "sheet": sheet_url,
        "report": report_url,
    }
    record.notes += [trained.note, *scores.notes]
    get_run_logger().info("Everything lies below %s", store_url)
    return record.summary(metrics=scores.metrics)
