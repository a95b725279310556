"""The quick commands about caches, which need no Prefect."""

from __future__ import annotations

import time
from dataclasses import asdict

from e2i.cache.info import SideInfo
from e2i.cache.info import cache_info as read_info
from e2i.storage import Folder
from flows.parameters import CacheInfoParameters
from flows.summary import RunSummary


def cache_info(parameters: CacheInfoParameters) -> RunSummary:
    """What a cache holds: counts, shards, encoders, and whether it is whole.

    Raises:
        CacheNotFoundError: there is no cache.
    """
    started = time.monotonic()
    info = read_info(Folder(parameters.cache_dir))
    whole = "The cache is whole." if info.complete else f"Not whole: {info.incomplete_because}."
    return RunSummary(
        command="cache info",
        locations={"cache": info.url, "source": info.source},
        counts={
            "clips": info.audio.stored,
            "captions": info.text.stored,
            "failed": info.audio.failed,
            "captions_failed": info.text.failed,
            "captions_without_clip": info.captions_without_clip or 0,
            "shards": info.audio.shards + info.text.shards,
            "bytes": info.audio.shard_bytes + info.text.shard_bytes,
            "unused_shards": info.audio.unused_shards + info.text.unused_shards,
        },
        notes=(
            f"{info.dataset} {info.split}. {whole}",
            _side("audio", info.audio),
            _side("text ", info.text),
        ),
        details=asdict(info),
        seconds=time.monotonic() - started,
    )


def _side(name: str, side: SideInfo) -> str:
    encoder = side.settings.get("encoder", "")
    return f"{name}: {encoder}, {side.dim} dimensions, fingerprint {side.fingerprint}"
