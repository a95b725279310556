"""The same cache on a real S3 server, over HTTP."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
from cache_world import CountingAudioEncoder, CountingTextEncoder, new_world

from e2i.cache.info import cache_info
from e2i.cache.plan import shuffled
from e2i.cache.reader import open_cache
from e2i.errors import CacheIncompleteError
from e2i.storage import Folder


def test_a_run_that_ended_early_is_resumed(
    s3_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("e2i.cache.sources._LIST_FROM", 12)
    world = new_world(12, s3_folder.folder("cache"), s3_folder.folder("audio"))
    plan = world.plan(4)
    world.embed(plan, 2)
    with pytest.raises(CacheIncompleteError):
        open_cache(world.folder)
    summary = world.build(4, snapshot="always")
    assert (summary.clips_stored, summary.snapshot_written) == (12, True)
    audio, text = world.counted()
    assert (len(audio), len(text)) == (12, 24)
    assert not world.build(4).manifest_written
    assert world.counted() == ([], [])
    world.record("clip 000 #odd%20&.wav", b"another sound")
    world.build(4)
    assert world.counted() == ([b"another sound"], [])

    twin = world.twin()
    twin.build(4)
    rows, expected = open_cache(world.folder).load(), open_cache(twin.folder).load()
    assert rows.clip_ids == expected.clip_ids
    assert np.array_equal(rows.audio, expected.audio)
    assert np.array_equal(rows.text, expected.text)
    assert cache_info(world.folder).audio.stored == 12


def test_two_runs_at_once_are_one_cache(s3_folder: Folder) -> None:
    world = new_world(20, s3_folder.folder("cache"), s3_folder.folder("audio"))
    other = replace(world, audio=CountingAudioEncoder(), text=CountingTextEncoder())
    errors: list[Exception] = []

    def run(one, seed: str) -> None:
        try:
            one.embed(shuffled(one.plan(2), seed))
            one.finish()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(w, s)) for w, s in ((world, "a"), (other, "b"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(open_cache(world.folder).load().clip_ids) == 20
    assert not world.finish().manifest_written
