from __future__ import annotations

import pytest
from cache_world import World, memory_folder

from e2i.cache.info import cache_info
from e2i.errors import CacheNotFoundError


def test_of_a_whole_cache(world: World) -> None:
    world.record("clip 000 #odd%20&.wav", b"broken")
    summary = world.build()
    info = cache_info(world.folder)
    assert info.complete
    assert info.incomplete_because == ""
    assert (info.audio.stored, info.audio.failed, info.audio.wanted) == (9, 1, 10)
    assert (info.text.stored, info.text.failed, info.text.wanted) == (20, 0, 20)
    assert info.captions_without_clip == 2
    assert info.audio.shards + info.text.shards == summary.shards
    assert info.audio.shard_bytes + info.text.shard_bytes == summary.shard_bytes
    assert info.audio.settings == world.audio.settings
    assert (info.dataset, info.split, info.source) == ("data", "development", "data/captions.csv")


def test_of_a_partial_cache(world: World) -> None:
    world.record("clip 000 #odd%20&.wav", b"broken")
    world.embed(world.plan(), 2)
    info = cache_info(world.folder)
    assert (info.complete, info.incomplete_because) == (False, "no manifest.json")
    assert (info.audio.stored, info.audio.failed, info.audio.wanted) == (5, 1, None)
    assert (info.text.stored, info.text.shards, info.captions_without_clip) == (0, 0, None)


def test_of_a_cache_that_is_embedded_again(world: World) -> None:
    world.build()
    world.embed(world.plan(force=True), 1)
    info = cache_info(world.folder)
    assert not info.complete
    assert (info.audio.stored, info.audio.wanted, info.audio.generation) == (3, 10, 1)
    assert (info.audio.shards, info.audio.unused_shards) == (1, 4)
    world.build()
    info = cache_info(world.folder)
    assert (info.audio.shards, info.audio.unused_shards) == (4, 4)
    assert info.audio.unused_bytes > 0


def test_no_cache() -> None:
    with pytest.raises(CacheNotFoundError):
        cache_info(memory_folder())
