"""The mirror of a cache on the Hub, by the real client on a stand-in."""

from __future__ import annotations

import pytest
from cache_world import World, new_world

from e2i.cache.manifest import read_manifest
from e2i.hub.config import HubConfig
from e2i.hub.mirror import Mirror, Pace
from hub_server import HubServer

REPO = "me/sounds"
QUICK = Pace(interval_s=0.0, pauses_s=(0.01, 0.01), longest_pause_s=1.0)


@pytest.fixture
def world() -> World:
    """Ten clips with two captions each, in four chunks a side."""
    return new_world(10)


def mirror_of(world: World, *, pace: Pace = QUICK, **options) -> Mirror:
    return Mirror(world.folder, HubConfig(hf_dataset=REPO, **options), pace=pace)


def shard_bytes(world: World) -> int:
    manifest = read_manifest(world.folder)[0]
    return sum(entry.bytes for entry in (*manifest.audio.shards, *manifest.text.shards))


def test_a_finished_cache_is_sent_in_one_commit(world: World, hub: HubServer) -> None:
    world.build()
    mirror = mirror_of(world)
    mirror.finish()
    assert hub.is_private(REPO)
    files = hub.files(REPO)
    manifest = read_manifest(world.folder)[0]
    names = [entry.name for entry in (*manifest.audio.shards, *manifest.text.shards)]
    assert set(files) == {*names, "cache.json", "manifest.json", "README.md"}
    assert all(files[name] == world.folder.read(name) for name in files if name != "README.md")
    assert len(hub.commits(REPO)) == 2  # the Hub's own first one, and this
    assert (mirror.sent.commits, mirror.sent.files, mirror.lacking) == (1, len(files), 0)
    mirror_of(world).finish()
    assert len(hub.commits(REPO)) == 2
    assert len(hub.of("put")) == len(names)
