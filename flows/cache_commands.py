"""The quick commands about caches, which need no Prefect."""

from __future__ import annotations

import time
from dataclasses import asdict

from e2i.cache.compact import compact_cache
from e2i.cache.info import SideInfo
from e2i.cache.info import cache_info as read_info
from e2i.cache.prune import prune_cache
from e2i.cache.verify import verify_cache
from e2i.storage import Folder
from flows.parameters import (
    CacheCompactParameters,
    CacheInfoParameters,
    CachePruneParameters,
    CacheVerifyParameters,
)
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


def cache_verify(parameters: CacheVerifyParameters) -> RunSummary:
    """Whether a cache is whole and every byte of it as it was written; names each fault.

    Raises:
        CacheNotFoundError: there is no cache.
    """
    started = time.monotonic()
    report = verify_cache(Folder(parameters.cache_dir))
    faults = [{"kind": f.kind, "name": f.name, "problem": f.problem} for f in report.faults]
    notes = [f"{fault.name}: {fault.problem}." for fault in report.faults]
    if not faults:
        notes = ["Nothing is wrong with the cache."]
    elif any(fault.kind != "unnamed" for fault in report.faults):
        notes.append("`e2i cache repair` embeds again what is broken, and only that.")
    else:
        notes.append("`e2i cache prune` deletes what the manifest does not name.")
    return RunSummary(
        command="cache verify",
        locations={"cache": report.url},
        counts={
            "problems": len(faults),
            "shards": report.shards,
            "rows": report.rows,
            "bytes": report.bytes,
            "released_shards": report.released,
        },
        notes=tuple(notes),
        details={"faults": faults},
        seconds=time.monotonic() - started,
    )


def cache_compact(parameters: CacheCompactParameters) -> RunSummary:
    """Merge small shards; the old ones stay for readers until the cache is pruned.

    Raises:
        CacheError: there is no cache, it is not whole, or a shard is damaged.
    """
    started = time.monotonic()
    done = compact_cache(Folder(parameters.cache_dir))
    note = (
        f"{done.merged} shards are merged into {done.written}."
        if done.merged
        else "There was nothing to merge."
    )
    if done.released:
        note += (
            f" {done.released} shards are no longer in use, but for readers that opened the cache "
            "before; `e2i cache prune` deletes them."
        )
    return RunSummary(
        command="cache compact",
        locations={"cache": done.url},
        counts={
            "merged": done.merged,
            "written": done.written,
            "shards": done.shards,
            "bytes": done.shard_bytes,
            "released_shards": done.released,
        },
        notes=(note,),
        seconds=time.monotonic() - started,
    )


def cache_prune(parameters: CachePruneParameters) -> RunSummary:
    """Delete shards and rows that no manifest counts.

    Raises:
        CacheError: there is no cache, or a shard in use is damaged.
    """
    started = time.monotonic()
    done = prune_cache(Folder(parameters.cache_dir))
    note = (
        f"Shards deleted: {done.deleted}; written anew: {done.rewritten}, without {done.rows} rows "
        "that did not count."
        if done.deleted
        else "There was nothing to delete."
    )
    if done.kept:
        note += (
            f" {len(done.kept)} shards that the manifest does not name stay, for a run may need "
            f"them: {done.kept_because}."
        )
    if done.swept:
        note += f" {done.swept} leftovers of writes that were broken off were deleted."
    return RunSummary(
        command="cache prune",
        locations={"cache": done.url},
        counts={
            "deleted": done.deleted,
            "bytes": done.deleted_bytes,
            "rewritten": done.rewritten,
            "rows": done.rows,
            "kept": len(done.kept),
            "swept": done.swept,
        },
        notes=(note,),
        seconds=time.monotonic() - started,
    )
