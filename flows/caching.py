"""The flows `e2i-cache-embeddings` and `e2i-cache-images`, and the steps they share."""

from __future__ import annotations

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from e2i.cache.config import CacheConfig
from e2i.datasets.config import MetadataConfig
from e2i.encoders.config import EncodersConfig
from e2i.images.config import ImagesConfig
from e2i.store_layout import join_url
from flows.run_record import RunRecord, name_run
from flows.summary import RunSummary
from tasks.embedding import (
    embed_audio,
    embed_text,
    finish_embedding,
    gather_chunks,
    plan_embedding,
)
from tasks.progress import Stage
from tasks.rendering import render_side

CHUNKS_AT_ONCE = 2
"""Chunks in flight: one is encoded while the next is read and decoded."""


def embed_split(
    source: MetadataConfig, cache_url: str, encoders: EncodersConfig, cache: CacheConfig
) -> dict[str, int]:
    """Embed what a split lacks, chunk by chunk, and write its manifest; the counts."""
    plan = plan_embedding(source, cache_url, encoders, cache)
    with Stage(plan.stage, plan.total, "clips and captions", plan.artifact_key) as stage:
        futures = [
            *(
                embed_audio.submit(cache_url, plan.audio_root_url, chunk, encoders, plan.stage)
                for chunk in plan.audio_chunks
            ),
            *(
                embed_text.submit(cache_url, chunk, encoders, plan.stage)
                for chunk in plan.text_chunks
            ),
        ]
        chunks = gather_chunks(futures, stage)
    return finish_embedding(source, cache_url, encoders, cache, plan, chunks)


def render_cache(cache_url: str, images: ImagesConfig) -> dict[str, int]:
    """Render the pseudo-images that a cache lacks; the counts."""
    futures = [render_side.submit(cache_url, side, images) for side in ("audio", "text")]
    counts = [future.result() for future in futures]
    return {name: sum(count[name] for count in counts) for name in counts[0]}


@flow(
    name="e2i-cache-embeddings",
    flow_run_name=name_run,
    task_runner=ThreadPoolTaskRunner(max_workers=CHUNKS_AT_ONCE),
    persist_result=False,
)
def cache_embeddings(
    source: MetadataConfig,
    cache_dir: str = "",
    encoders: EncodersConfig = EncodersConfig(),
    cache: CacheConfig = CacheConfig(),
) -> RunSummary:
    """Embed the recordings and captions of one split, once each, and store them.

    Args:
        source: Where the recordings and captions are.
        cache_dir: Folder or URL of the cache; default: embeddings/<split> below the data set.
        encoders: Which encoders, and how they run.
        cache: How embeddings are stored.
    """
    record = RunRecord()
    cache_url = cache_dir or default_cache_url(source)
    record.add(embed_split(source, cache_url, encoders, cache))
    record.locations["cache"] = cache_url
    return record.summary()


@flow(
    name="e2i-cache-images",
    flow_run_name=name_run,
    task_runner=ThreadPoolTaskRunner(max_workers=CHUNKS_AT_ONCE),
    persist_result=False,
)
def cache_images(cache_dir: str, images: ImagesConfig = ImagesConfig()) -> RunSummary:
    """Fold the cached embeddings into pseudo-images and store them as PNGs.

    Args:
        cache_dir: Folder or URL of the cache.
        images: How embeddings become pseudo-images.
    """
    record = RunRecord()
    record.add(render_cache(cache_dir, images))
    record.locations |= {
        "cache": cache_dir,
        "images": join_url(cache_dir, images.images_dir),
        "sheet": draw_sheet(cache_dir, images),
    }
    return record.summary()
