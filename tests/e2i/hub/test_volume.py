"""A whole run of Clotho's size, with embeddings made up and a clock of its own."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace

import pytest
from cache_world import CountingAudioEncoder, CountingTextEncoder, World, new_world
from mirrors import REPO, mirror_of, shard_bytes, shard_names

from e2i.hub import mirror as mirror_module
from e2i.hub.background import BackgroundMirror
from e2i.hub.mirror import Mirror, Pace
from hub_server import HubServer


@dataclass
class Clock:
    """Seconds that pass when somebody waits or works."""

    now: float = 0.0

    def monotonic(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.now += max(0.0, seconds)
        return False


def run_mirrored(world: World, hub: HubServer, patch: pytest.MonkeyPatch, chunk: int) -> Clock:
    """Embed a cache, five seconds a chunk, with a mirror beside that looks once a minute."""
    clock = Clock()
    patch.setattr(mirror_module, "time", SimpleNamespace(monotonic=clock.monotonic))
    patch.setattr(Mirror, "_pause", lambda self, seconds: clock.wait(seconds))
    mirror = mirror_of(world, pace=Pace())
    times: list[float] = []
    commit = mirror.repository.commit

    def timed(*arguments, **options) -> int:
        times.append(clock.now)
        return commit(*arguments, **options)

    mirror.repository.commit = timed
    plan = world.plan(chunk)
    beside = BackgroundMirror(mirror, 100, plan.captions / plan.clips, 3600.0, pytest.fail)
    looked = 0.0
    for number in range(len(plan.audio_chunks) + len(plan.text_chunks)):
        world.embed(only(plan, number))
        clock.now += 5.0
        if clock.now - looked >= 60:
            looked = clock.now
            beside.look()
    world.finish(verified=plan.verified, snapshot="never")
    mirror.finish()
    gaps = [later - sooner for sooner, later in pairwise(times)]
    assert min(gaps, default=60.0) >= 60.0
    assert len(times) == mirror.sent.commits == len(hub.commits(REPO)) - 1
    assert len(times) <= clock.now / 60 + 1
    return clock


def only(plan, number: int):
    """A plan of one chunk."""
    audio = len(plan.audio_chunks)
    one = SimpleNamespace(audio_chunks=(), text_chunks=())
    if number < audio:
        one.audio_chunks = plan.audio_chunks[number : number + 1]
    else:
        one.text_chunks = plan.text_chunks[number - audio : number - audio + 1]
    return one


def world_of(clips: int) -> World:
    world = new_world()
    world.audio, world.text = CountingAudioEncoder(dim=768), CountingTextEncoder(dim=768)
    for number in range(clips):
        world.put(f"clip {number:05d}.wav", captions=5)
    return world


def test_each_byte_is_sent_once(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(60)
    run_mirrored(world, hub, monkeypatch, chunk=4)
    assert shard_bytes(world) <= hub.uploaded_bytes <= 1.1 * shard_bytes(world)


def test_shards_that_the_hub_has_are_not_merged_at_the_end_of_a_run(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("e2i.cache.finish.MANY_SHARDS", 4)
    world = world_of(20)
    world.build(2)
    assert len(shard_names(world)) == 2
    for number in range(20, 40):
        world.put(f"clip {number:05d}.wav", captions=5)
    plan = world.plan(2)
    world.embed(plan)
    mirror = mirror_of(world)
    mirror.send_shards()
    world.finish(verified=plan.verified, stock=plan.stock, mirrored=True, snapshot="never")
    mirror.finish()
    assert len(shard_names(world)) == 22
    assert hub.uploaded_bytes <= 1.1 * shard_bytes(world)

    monkeypatch.setattr("e2i.cache.finish.MANY_MIRRORED_SHARDS", 4)
    sent = hub.uploaded_bytes
    world.finish(mirrored=True, snapshot="never")
    mirror_of(world).finish()
    assert len(shard_names(world)) == 2
    assert hub.uploaded_bytes - sent <= 1.1 * shard_bytes(world)


@pytest.mark.slow
def test_a_whole_run_of_19195_pairs(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, record_property
) -> None:
    world = world_of(3839)
    clock = run_mirrored(world, hub, monkeypatch, chunk=8)
    share = hub.uploaded_bytes / shard_bytes(world)
    record_property("bytes uploaded over bytes of shards", share)
    record_property("commits a minute", (len(hub.commits(REPO)) - 1) / (clock.now / 60))
    assert share <= 1.1
