"""Mirrors of small caches, for tests."""

from __future__ import annotations

from cache_world import World

from e2i.cache.manifest import read_manifest
from e2i.hub.config import HubConfig
from e2i.hub.mirror import Mirror, Pace

REPO = "me/sounds"
QUICK = Pace(interval_s=0.0, pauses_s=(0.01, 0.01), longest_pause_s=1.0)


def mirror_of(world: World, *, pace: Pace = QUICK, **options) -> Mirror:
    return Mirror(world.folder, HubConfig(hf_dataset=REPO, **options), pace=pace)


def shard_names(world: World) -> list[str]:
    manifest = read_manifest(world.folder)[0]
    return [entry.name for entry in (*manifest.audio.shards, *manifest.text.shards)]


def shard_bytes(world: World) -> int:
    manifest = read_manifest(world.folder)[0]
    return sum(entry.bytes for entry in (*manifest.audio.shards, *manifest.text.shards))
