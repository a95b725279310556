"""The flow `e2i-cache-repair`: one command that mends a cache."""

from __future__ import annotations

from dataclasses import replace

from e2i.cache.config import CacheConfig
from e2i.datasets.config import MetadataConfig
from e2i.encoders.config import EncodersConfig
from flows.caching import embed_split
from flows.chunk_threads import CHUNK_RUNNER
from flows.flow_setup import flow
from flows.run_record import RunRecord, name_run
from flows.runner_parameters import RunnerConfig
from flows.summary import RunSummary
from flows.task_runners import chunk_runner
from tasks.upkeep import clear_cache, find_damage


@flow(
    name="e2i-cache-repair",
    flow_run_name=name_run,
    task_runner=CHUNK_RUNNER,
    persist_result=False,
)
def cache_repair(
    cache_dir: str,
    source: MetadataConfig = MetadataConfig(),
    encoders: EncodersConfig = EncodersConfig(),
    cache: CacheConfig = CacheConfig(),
    runner: RunnerConfig = RunnerConfig(),
) -> RunSummary:
    """Embed again what is broken in a cache, and only that; delete what no manifest counts.

    Args:
        cache_dir: Folder or URL of the cache.
        source: Where the recordings and captions are; default: what the cache has on record.
        encoders: Which encoders, and how they run; default: those that the cache has on record.
        cache: How embeddings are stored.
        runner: What runs the chunks.
    """
    record = RunRecord()
    record.locations["cache"] = cache_dir
    found = find_damage(cache_dir, source, encoders)
    record.counts["faults"] = len(found.faults)
    record.counts["set_aside"] = found.set_aside
    if found.to_embed:
        with chunk_runner(runner, found.source.metadata or "", cache_dir):
            counts = embed_split(found.source, cache_dir, found.encoders, cache)
            record.add_embedded(counts, cache_dir)
    if found.faults:
        record.add(clear_cache(cache_dir))
    record.notes += found.faults or ("Nothing was wrong with the cache.",)
    return replace(record.summary(), details={"faults": list(found.faults)})
