"""Merging and deleting: what readers and runs see of it."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cache_world import World, killed_after, new_world

from e2i.cache import compact
from e2i.cache.compact import compact_cache
from e2i.cache.info import cache_info
from e2i.cache.layout import MANIFEST_NAME, SNAPSHOT_AUDIO_NAME
from e2i.cache.manifest import read_manifest
from e2i.cache.prune import prune_cache
from e2i.cache.reader import open_cache
from e2i.cache.shards import read_keys, shard_file
from e2i.cache.verify import verify_cache
from e2i.errors import CacheCorruptError, CacheIncompleteError, StaleWriteError
from e2i.storage import Folder

FIRST = "clip 000 #odd%20&.wav"


def rows_of(world: World):
    return open_cache(world.folder).load()


def same(one, other) -> bool:
    return (
        (one.clip_ids, one.caption_ids, one.captions)
        == (other.clip_ids, other.caption_ids, other.captions)
        and np.array_equal(one.audio, other.audio)
        and np.array_equal(one.text, other.text)
        and np.array_equal(one.duration_s, other.duration_s)
    )


def test_small_shards_become_one_and_nothing_is_embedded(world: World) -> None:
    world.build()
    world.forget()
    reader = open_cache(world.folder)
    before = rows_of(world)
    done = compact_cache(world.folder)
    assert (done.merged, done.written, done.shards, done.released) == (8, 2, 2, 8)
    assert same(rows_of(world), before)
    assert same(reader.load(), before)
    again = compact_cache(world.folder)
    assert (again.merged, again.written, again.shards) == (0, 0, 2)
    assert not world.build().manifest_written
    assert world.counted() == ([], [])


def test_rows_lie_in_the_order_of_the_metadata(world: World) -> None:
    world.build()
    compact_cache(world.folder)
    (entry,) = read_manifest(world.folder)[0].audio.shards
    keys = read_keys(world.folder, world.folder.info(entry.name), "audio", hashed=False)
    assert keys.columns["clip_id"] == list(world.texts)


def test_merged_shards_hold_about_what_they_are_to(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.build(chunk_size=2)
    most = max(entry.bytes for entry in read_manifest(world.folder)[0].audio.shards)
    monkeypatch.setattr(compact, "MERGED_BYTES", 3 * most)
    before = rows_of(world)
    compact_cache(world.folder)
    assert sorted(e.rows for e in read_manifest(world.folder)[0].audio.shards) == [4, 6]
    assert same(rows_of(world), before)


def test_shards_with_a_column_more_are_merged_among_themselves(world: World) -> None:
    world.build(chunk_size=2)
    document = json.loads(world.folder.read(MANIFEST_NAME))
    for entry in document["audio"]["shards"][:2]:
        data = io.BytesIO(world.folder.read(entry["name"]))
        table = pq.read_table(data)
        more = table.append_column("more", pa.array([7] * len(table)))
        stored = bytes(shard_file(more, "audio"))
        world.folder.write(entry["name"], stored)
        entry |= {"bytes": len(stored), "sha256": hashlib.sha256(stored).hexdigest()}
    world.folder.write(MANIFEST_NAME, json.dumps(document).encode())
    before = rows_of(world)
    done = compact_cache(world.folder)
    assert same(rows_of(world), before)
    assert done.written == 2
    names = [entry.name for entry in read_manifest(world.folder)[0].audio.shards]
    tables = [pq.read_table(io.BytesIO(world.folder.read(name))) for name in names]
    kinds = {("more" in table.column_names, len(table)) for table in tables}
    assert kinds == {(True, 4), (False, 6)}


def test_a_cache_grows_on_after_merging(world: World) -> None:
    world.build()
    compact_cache(world.folder)
    world.forget()
    world.put("new")
    world.drop(FIRST)
    world.build()
    assert rows_of(world).clip_ids == tuple(world.texts)
    assert [len(seen) for seen in world.counted()] == [1, 2]
    compact_cache(world.folder)
    prune_cache(world.folder)
    assert rows_of(world).clip_ids == tuple(world.texts)
    assert len(world.folder.files("audio")) == len(world.folder.files("text")) == 1


def test_a_run_with_many_shards_merges_them(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("e2i.cache.finish.MANY_SHARDS", 4)
    summary = world.build(chunk_size=2, snapshot="always")
    assert summary.shards == 2
    assert len(world.folder.files("audio")) == 6
    again = world.build(chunk_size=2, snapshot="always")
    assert again.manifest_sha256 == summary.manifest_sha256
    assert (again.manifest_written, again.snapshot_written) == (False, False)


def test_a_snapshot_stays_current(world: World) -> None:
    world.build(snapshot="always")
    version = world.folder.info(SNAPSHOT_AUDIO_NAME).version
    compact_cache(world.folder)
    prune_cache(world.folder)
    assert not world.build(snapshot="always").snapshot_written
    assert world.folder.info(SNAPSHOT_AUDIO_NAME).version == version


def test_damage_is_not_given_a_new_checksum(world: World) -> None:
    world.build()
    entry = read_manifest(world.folder)[0].text.shards[0]
    data = bytearray(world.folder.read(entry.name))
    data[len(data) // 2] ^= 1
    world.folder.write(entry.name, bytes(data))
    before = world.folder.read(MANIFEST_NAME)
    with pytest.raises(CacheCorruptError, match=entry.name):
        compact_cache(world.folder)
    assert world.folder.read(MANIFEST_NAME) == before


def test_a_cache_that_is_not_whole_is_not_merged(world: World) -> None:
    world.embed(world.plan(), 3)
    with pytest.raises(CacheIncompleteError, match=r"got no manifest\.json"):
        compact_cache(world.folder)


@pytest.mark.parametrize("step", [compact_cache, prune_cache])
def test_killed_at_any_change_the_cache_is_whole(
    world: World, step: Callable[[Folder], object]
) -> None:
    world.build()
    world.drop(FIRST)
    world.build()
    before = rows_of(world)
    for changes in range(30):
        with killed_after(changes):
            step(world.folder)
        assert same(rows_of(world), before)
    step(world.folder)
    assert same(rows_of(world), before)
    world.forget()
    world.build()
    assert world.counted() == ([], [])
    prune_cache(world.folder)
    assert verify_cache(world.folder).faults == ()
    assert cache_info(world.folder).audio.unused_shards == 0


def test_rows_of_clips_that_are_gone_are_deleted(world: World) -> None:
    world.build()
    world.drop(FIRST)
    world.build()
    done = prune_cache(world.folder)
    assert (done.deleted, done.rewritten, done.rows, done.kept) == (2, 2, 3, ())
    for side, column in (("audio", "clip_id"), ("text", "clip_id")):
        for file in world.folder.files(side):
            columns = read_keys(world.folder, file, side, hashed=False).columns
            assert FIRST not in columns[column]
    assert rows_of(world).clip_ids == tuple(world.texts)
    assert prune_cache(world.folder).deleted == 0


def test_rows_of_another_encoder_go_at_once(world: World) -> None:
    world.build()
    world.text.salt = 1
    world.embed(world.plan(force=True), 0)
    done = prune_cache(world.folder)
    assert done.deleted == 4
    assert "not whole" in done.kept_because
    assert len(done.kept) == 4
    world.build()
    assert rows_of(world).text.shape == (20, world.text.dim)


def test_shards_of_a_run_going_on_stay(world: World) -> None:
    world.build()
    world.put("new 1")
    world.put("new 2")
    plan = world.plan(1)
    world.embed(plan, 2)
    assert prune_cache(world.folder).deleted == 0
    world.forget()
    world.embed(plan)
    assert [len(seen) for seen in world.counted()] == [0, 4]
    world.finish()
    assert rows_of(world).clip_ids == tuple(world.texts)


def test_what_failed_and_is_tried_again_stays(world: World) -> None:
    world.record(FIRST, b"broken")
    world.build()
    world.record(FIRST, b"mended")
    world.embed(world.plan())
    assert open_cache(world.folder).manifest.complete
    done = prune_cache(world.folder)
    assert (done.deleted, len(done.kept)) == (0, 1)
    assert done.kept_because == "they hold what failed before"
    world.forget()
    world.build()
    assert world.counted() == ([], [])
    assert rows_of(world).clip_ids == tuple(world.texts)


def test_a_run_that_counted_on_a_pruned_shard_does_not_name_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clip comes back, its row is found stored, and its shard is pruned before the manifest."""
    content, texts = world.contents[FIRST], world.texts[FIRST]
    world.build(chunk_size=1)
    world.drop(FIRST)
    world.build(chunk_size=1)
    world.texts[FIRST], world.contents[FIRST] = texts, content
    write, pruned = Folder.replace, []

    def overtaken(self: Folder, name: str, data: bytes, version: str | None) -> str:
        if not pruned:
            pruned.append(name)
            prune_cache(self)
        return write(self, name, data, version)

    monkeypatch.setattr(Folder, "replace", overtaken)
    plan = world.plan(1)
    assert plan.audio_chunks == ()
    with pytest.raises(CacheIncompleteError, match="got 1 clips and 2 captions"):
        world.finish()
    monkeypatch.undo()
    world.build(chunk_size=1)
    assert set(rows_of(world).clip_ids) == set(world.texts)
    assert verify_cache(world.folder).faults == ()


@pytest.mark.parametrize("step", [compact_cache, prune_cache])
def test_a_manifest_that_never_rests_is_an_error(
    world: World, step: Callable[[Folder], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.build()
    world.drop(FIRST)
    world.build()
    before = [file.name for file in world.folder.files("audio")]

    def refuse(*_: object) -> str:
        raise StaleWriteError("somebody was faster")

    monkeypatch.setattr(Folder, "replace", refuse)
    with pytest.raises(StaleWriteError, match=r"manifest\.json keeps changing: got 5 writes"):
        step(world.folder)
    assert set(before) <= {file.name for file in world.folder.files("audio")}


def test_a_reader_from_before_a_prune_is_told_to_read_again(world: World) -> None:
    world.build()
    reader = open_cache(world.folder)
    compact_cache(world.folder)
    prune_cache(world.folder)
    with pytest.raises(CacheCorruptError, match="If the cache was pruned meanwhile, read it again"):
        reader.load()
    assert rows_of(world).clip_ids == tuple(world.texts)


def test_growth_embeds_what_is_new_and_changed_and_nothing_else() -> None:
    world = new_world(1_000)
    world.build(chunk_size=64)
    world.forget()
    ids = list(world.texts)
    for clip_id in ids[:50]:
        world.drop(clip_id)
    changed = [f"another sound {n}".encode() for n in range(10)]
    for clip_id, content in zip(ids[100:110], changed, strict=True):
        world.record(clip_id, content)
    words = [f"other words {n}" for n in range(10)]
    for clip_id, text in zip(ids[200:210], words, strict=True):
        world.texts[clip_id][1] = text
    added = [f"new {n}" for n in range(100)]
    for clip_id in added:
        world.put(clip_id)
    world.build(chunk_size=64)
    audio, text = world.counted()
    assert audio == sorted([*changed, *(f"sound of {clip_id}".encode() for clip_id in added)])
    assert text == sorted([*words, *(t for clip_id in added for t in world.texts[clip_id])])
    rows = rows_of(world)
    assert rows.clip_ids == tuple(world.texts)
    assert rows.captions == tuple(caption.text for caption in world.clips.captions)
    assert np.array_equal(rows.audio[50], world.audio.one(changed[0]))


def test_sides_with_few_shards_are_left_alone(world: World) -> None:
    world.build(chunk_size=5)
    assert compact_cache(world.folder, above=2).written == 0
    assert compact_cache(world.folder, above=1).written == 2


def test_prune_sweeps_what_killed_writes_left_a_day_ago(tmp_path: Path) -> None:
    world = new_world(4, Folder(tmp_path))
    world.build()
    old, young = tmp_path / "audio" / ".e2i-0.tmp", tmp_path / "text" / ".e2i-1.tmp"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert prune_cache(world.folder).swept == 1
    assert not old.exists()
    assert young.exists()
    assert prune_cache(world.folder).swept == 0
    assert len(open_cache(world.folder).load().clip_ids) == 4
