"""The mirror at work while a cache is being made."""

from __future__ import annotations

import threading
import time

import pytest
from cache_world import World
from mirrors import REPO, mirror_of

from e2i.hub.background import BackgroundMirror
from hub_server import HubServer, Slow, Status

BY_HAND_S = 3600.0
"""An interval in which the thread never looks: the test does."""


def beside(mirror, notes: list[str], *, interval_s: float = BY_HAND_S, every: int = 6):
    return BackgroundMirror(mirror, every, 2.0, interval_s, notes.append)


def parquet(hub: HubServer) -> int:
    return sum(name.endswith(".parquet") for name in hub.files(REPO))


def test_it_sends_what_is_enough(world: World, hub: HubServer) -> None:
    notes: list[str] = []
    mirror = mirror_of(world)
    plan = world.plan()
    with beside(mirror, notes, every=7) as background:
        world.embed(plan, chunks=1)
        background.look()  # three clips, six pairs
        assert mirror.sent.commits == 0
        world.embed(plan, chunks=2)
        background.look()
        assert parquet(hub) == 2
    world.embed(plan)
    world.finish(snapshot="never")
    mirror.finish()
    assert (mirror.sent.commits, parquet(hub), notes) == (2, 8, [])


def test_the_thread_looks_by_itself(world: World, hub: HubServer) -> None:
    mirror = mirror_of(world)
    with beside(mirror, [], interval_s=0.01):
        world.embed(world.plan())
        ends = time.monotonic() + 60
        while not mirror.sent.commits and time.monotonic() < ends:
            time.sleep(0.01)
    assert mirror.sent.commits >= 1
    assert not any(thread.name == "e2i-hub-mirror" for thread in threading.enumerate())


def test_a_hub_that_fails_stops_nothing_and_is_told_once(world: World, hub: HubServer) -> None:
    notes: list[str] = []
    mirror = mirror_of(world)
    hub.fail("commit", *[Status(403)] * 2)
    with beside(mirror, notes) as background:
        world.embed(world.plan())
        background.look()
        background.look()
    assert len(notes) == 1
    assert notes[0].startswith("Not sent to the Hub yet: not allowed to write: got status 403")
    world.finish(snapshot="never")
    mirror.finish()
    assert parquet(hub) == 8


def test_the_end_waits_for_the_commit_in_hand_alone(world: World, hub: HubServer) -> None:
    mirror = mirror_of(world)
    hub.fail("put", *[Slow(0.1)] * 8)
    world.embed(world.plan())
    with beside(mirror, [], interval_s=0.001):
        ends = time.monotonic() + 60
        while not hub.of("preupload") and time.monotonic() < ends:
            time.sleep(0.001)
    assert mirror.sent.commits == 1


def test_a_run_that_is_broken_off_does_not_wait(world: World, hub: HubServer) -> None:
    mirror = mirror_of(world)
    hub.fail("put", *[Slow(30)] * 8)
    world.embed(world.plan())

    raised: list[float] = []

    def broken_off() -> None:
        with beside(mirror, [], interval_s=0.001):
            ends = time.monotonic() + 60
            while not hub.of("put") and time.monotonic() < ends:
                time.sleep(0.001)
            raised.append(time.monotonic())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()
    assert time.monotonic() - raised[0] < 25
    assert len(hub.commits(REPO)) == 1
