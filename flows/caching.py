"""The flows `e2i-cache-embeddings` and `e2i-cache-images`, and the steps they share."""

from __future__ import annotations

from collections import Counter

from e2i.cache.config import CacheConfig
from e2i.datasets.config import MetadataConfig
from e2i.datasets.metadata_file import CSV_FOLDER, split_named_in
from e2i.encoders.config import EncodersConfig
from e2i.encoders.places import encoder_places
from e2i.images.config import ImagesConfig
from e2i.store_layout import join_url, split_url
from flows.chunk_threads import CHUNK_RUNNER, chunk_threads
from flows.flow_setup import flow
from flows.parameters import EmbeddingImagesConfig, HubOptions
from flows.run_record import RunRecord, name_run
from flows.runner_parameters import RunnerConfig
from flows.summary import RunSummary
from flows.task_runners import chunk_runner
from tasks.embedding import (
    finish_embedding,
    gather_chunks,
    plan_embedding,
    put_off,
    raise_failed,
    submit_chunks,
)
from tasks.mirroring import RunMirror
from tasks.progress import Stage
from tasks.remote import runs_elsewhere, unvisited
from tasks.rendering import draw_sheet, render_by_parts, render_side


def default_cache_url(source: MetadataConfig) -> str:
    """Where a split's cache lies if nothing else was said: `embeddings/<split>` by the data."""
    folder, name = split_url(source.metadata or "")
    above, last = split_url(folder)
    return join_url(
        above if last == CSV_FOLDER else folder,
        "embeddings",
        source.split or split_named_in(name),
    )


def embed_split(
    source: MetadataConfig,
    cache_url: str,
    encoders: EncodersConfig,
    cache: CacheConfig,
    mirror: RunMirror | None = None,
) -> dict[str, int]:
    """Embed what a split lacks, chunk by chunk, and write its manifest; the counts."""
    split = plan_embedding(source, cache_url, encoders, cache)
    if mirror is not None:
        mirror.begin(split.plan.clips, split.plan.captions)
    with (
        chunk_threads(encoder_places(encoders)),
        Stage(split.stage, split.total, "clips and captions", split.artifact_key) as stage,
    ):
        chunks = submit_chunks(cache_url, split, encoders)
        done, errors = gather_chunks(chunks, stage)
        if done.pop("put_off", 0):
            others = submit_chunks(cache_url, put_off(split, chunks), encoders, claimed=True)
            more, more_errors = gather_chunks(others, stage)
            done.update(more)
            errors += more_errors
        raise_failed(errors, len(chunks))
        stage.outcome = split.outcome(done)
    mirrored = mirror is not None and mirror.mirror is not None
    return finish_embedding(
        cache_url, unvisited(split), encoders, cache, dict(done), mirrored=mirrored
    )


def render_cache(
    cache_url: str, images: ImagesConfig, mirror: RunMirror | None = None
) -> dict[str, int]:
    """Render the pseudo-images that a cache lacks; the counts."""
    split = split_url(cache_url)[1]
    if runs_elsewhere():
        counts = Counter(render_by_parts(cache_url, "audio", images, f"{split} clips"))
        if mirror is not None:
            mirror.rendered(images, "audio")
        counts.update(render_by_parts(cache_url, "text", images, f"{split} captions"))
        return dict(counts)
    audio = render_side.submit(cache_url, "audio", images, f"{split} clips")
    text = render_side.submit(cache_url, "text", images, f"{split} captions")
    counts = Counter(audio.result())
    if mirror is not None:
        mirror.rendered(images, "audio")
    counts.update(text.result())
    return dict(counts)


@flow(
    name="e2i-cache-embeddings",
    flow_run_name=name_run,
    task_runner=CHUNK_RUNNER,
    persist_result=False,
)
def cache_embeddings(
    source: MetadataConfig,
    cache_dir: str = "",
    encoders: EncodersConfig = EncodersConfig(),
    cache: CacheConfig = CacheConfig(),
    with_images: bool = False,
    images: EmbeddingImagesConfig = EmbeddingImagesConfig(),
    hub: HubOptions = HubOptions(),
    runner: RunnerConfig = RunnerConfig(),
) -> RunSummary:
    """Embed the recordings and captions of one split, once each, and store them.

    Args:
        source: Where the recordings and captions are.
        cache_dir: Folder or URL of the cache; default: embeddings/<split> below the data set.
        encoders: Which encoders, and how they run.
        cache: How embeddings are stored.
        with_images: Fold the embeddings into pseudo-images too.
        images: How embeddings become pseudo-images.
        hub: Where on the Hugging Face Hub the cache is mirrored to.
        runner: What runs the chunks.
    """
    record = RunRecord()
    cache_url = cache_dir or default_cache_url(source)
    places = (source.metadata or "", source.audio_root or "", cache_url)
    with chunk_runner(runner, *places), RunMirror(cache_url, hub) as mirror:
        record.add_embedded(embed_split(source, cache_url, encoders, cache, mirror), cache_url)
        record.locations["cache"] = cache_url
        if with_images:
            _add_images(record, cache_url, images, mirror)
        record.add(mirror.finish(images if with_images else None))
        record.locations |= mirror.locations
    return record.summary()


@flow(
    name="e2i-cache-images",
    flow_run_name=name_run,
    task_runner=CHUNK_RUNNER,
    persist_result=False,
)
def cache_images(
    cache_dir: str,
    images: ImagesConfig = ImagesConfig(),
    hub: HubOptions = HubOptions(),
    include_embeddings: bool = False,
    runner: RunnerConfig = RunnerConfig(),
) -> RunSummary:
    """Fold the cached embeddings into pseudo-images and store them as PNGs.

    Args:
        cache_dir: Folder or URL of the cache.
        images: How embeddings become pseudo-images.
        hub: Where on the Hugging Face Hub they are mirrored to.
        include_embeddings: Mirror the embeddings as well.
        runner: What renders them.
    """
    record = RunRecord()
    record.locations["cache"] = cache_dir
    with chunk_runner(runner, cache_dir), RunMirror(cache_dir, hub) as mirror:
        _add_images(record, cache_dir, images, mirror)
        record.add(mirror.finish(images, cache=include_embeddings, snapshot=include_embeddings))
        record.locations |= mirror.locations
    return record.summary()


def _add_images(record: RunRecord, cache_url: str, images: ImagesConfig, mirror: RunMirror) -> None:
    """Render a cache's pseudo-images and draw the sheet of them."""
    record.add(render_cache(cache_url, images, mirror))
    record.locations |= {
        "images": join_url(cache_url, images.images_dir),
        "sheet": draw_sheet(cache_url, images),
    }
