"""Tasks that mend a cache: take out what is broken, delete what is left over, look again."""

from __future__ import annotations

from dataclasses import dataclass

from prefect import get_run_logger, task

from e2i.cache.header import read_header
from e2i.cache.prune import prune_cache
from e2i.cache.repair import set_broken_aside
from e2i.cache.verify import verify_cache
from e2i.datasets.config import MetadataConfig
from e2i.encoders.config import EncodersConfig
from e2i.errors import ConfigError, RunFailedError
from e2i.storage import Folder
from tasks.policy import TRIED_AGAIN, WHOLE_TIMEOUT_S
from tasks.stored_origin import stored_encoders


@dataclass(frozen=True)
class Found:
    """What is wrong with a cache, and what mends it.

    Attributes:
        faults: each in words.
        set_aside: shards that were broken, and are gone.
        to_embed: whether the split has to be embedded again where it lacks something.
        source: the metadata to do that with.
        encoders: those that the cache was made with.
    """

    faults: tuple[str, ...]
    set_aside: int
    to_embed: bool
    source: MetadataConfig
    encoders: EncodersConfig


@task(
    name="find-damage",
    task_run_name="find-damage",
    timeout_seconds=WHOLE_TIMEOUT_S,
    **TRIED_AGAIN,
)
def find_damage(cache_url: str, source: MetadataConfig, encoders: EncodersConfig) -> Found:
    """Check a cache, take out what is broken, and find out how it was made.

    Raises:
        ConfigError: the metadata or the encoders that it was made with have to be given.
    """
    folder = Folder(cache_url)
    header = read_header(folder)
    damage = set_broken_aside(folder)
    for fault in damage.report.faults:
        get_run_logger().warning("%s: %s", fault.name, fault.problem)
    metadata = source.metadata or damage.source or None
    if damage.to_embed and metadata is None:
        raise ConfigError(
            "the cache does not say what it was made from: got no manifest and no --metadata, "
            "expected one of them. Give the --metadata that `e2i cache-embeddings` was given."
        )
    stored = stored_encoders(encoders, header)
    return Found(
        faults=tuple(f"{fault.name}: {fault.problem}" for fault in damage.report.faults),
        set_aside=len(damage.set_aside),
        to_embed=damage.to_embed,
        source=source.model_copy(
            update={"metadata": metadata, "split": source.split or header.split}
        ),
        encoders=stored,
    )


@task(
    name="clear-cache",
    task_run_name="clear-cache",
    timeout_seconds=WHOLE_TIMEOUT_S,
    **TRIED_AGAIN,
)
def clear_cache(cache_url: str) -> dict[str, int]:
    """Delete what no manifest counts, and check the cache again.

    Raises:
        RunFailedError: something is still wrong with it.
    """
    pruned = prune_cache(Folder(cache_url))
    report = verify_cache(Folder(cache_url))
    if report.faults:
        first = report.faults[0]
        raise RunFailedError(
            f"the cache is not mended: got {len(report.faults)} faults (the first, {first.name}: "
            f"{first.problem}), expected none. `e2i cache verify` names them all."
        )
    return {
        "deleted_shards": pruned.deleted,
        "rewritten_shards": pruned.rewritten,
        "shards": report.shards,
    }
