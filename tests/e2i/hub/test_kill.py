"""A mirror killed at any instant loses nothing: the next one sends what is left, and that alone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cache_world import new_world
from mirrors import REPO, mirror_of, shard_names

from e2i.cache.reader import open_cache
from e2i.storage import Folder
from hub_server import HubServer, Slow

PROGRAM = Path(__file__).with_name("mirror_until_killed.py")
THREADS = 5
"""Uploads that the client has in flight at once."""


def kill_when(hub: HubServer, cache: Path, route: str, count: int) -> None:
    """Start a mirror, and kill it once the Hub has been asked so often."""
    before = len(hub.of(route))
    environment = {**os.environ, **hub.environment, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(PROGRAM), str(cache), REPO, str(cache.with_name("started"))]
    with subprocess.Popen(command, env=environment) as process:
        ends = time.monotonic() + 120
        while len(hub.of(route)) < before + count and time.monotonic() < ends:
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.002)
        process.kill()
    assert process.returncode == -9


@pytest.mark.slow
def test_killed_mirrors_lose_nothing_and_send_nothing_twice(hub: HubServer, tmp_path: Path) -> None:
    world = new_world(40, Folder(tmp_path / "cache"))
    world.build(chunk_size=2)
    shards = shard_names(world)
    hub.fail("put", *[Slow(0.05)] * 200)
    hub.fail("commit", Slow(2))
    for route, count in (("create", 1), ("put", 1), ("put", 7), ("put", 12), ("commit", 1)):
        kill_when(hub, tmp_path / "cache", route, count)
    hub.heal()
    time.sleep(2.5)  # the commit that was sent is made all the same, its sender dead
    mirror = mirror_of(world)
    mirror.finish()
    mine = open_cache(world.folder).load()
    theirs = open_cache(Folder(f"hf://datasets/{REPO}")).load()
    assert mine.clip_ids == theirs.clip_ids
    assert np.array_equal(mine.audio, theirs.audio)
    assert np.array_equal(mine.text, theirs.text)
    held = {name for name in hub.files(REPO) if name.endswith(".parquet")}
    assert held == set(shards)
    assert len(hub.of("put")) <= len(shards) + 3 * THREADS
