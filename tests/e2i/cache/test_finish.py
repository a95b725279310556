from __future__ import annotations

import pytest
from cache_world import World

from e2i.cache import stock
from e2i.cache.layout import MANIFEST_NAME
from e2i.cache.manifest import read_manifest
from e2i.cache.reader import open_cache
from e2i.errors import (
    CacheCorruptError,
    CacheIncompleteError,
    FingerprintMismatchError,
    StaleWriteError,
)
from e2i.storage import Folder

FIRST = "clip 000 #odd%20&.wav"


def test_work_undone_is_an_error_that_keeps_everything(world: World) -> None:
    world.embed(world.plan(), 5)
    before = world.folder.files()
    with pytest.raises(CacheIncompleteError) as caught:
        world.finish()
    assert str(caught.value) == (
        "the cache is not whole: got 0 clips and 14 captions that are neither stored nor failed "
        f"(the first is 'clip 003 #odd%20&.wav#1') in {world.folder.url}, expected none. Run "
        "`e2i cache-embeddings` again as before, without --force: what is stored is kept."
    )
    assert world.folder.files() == before


def test_failures_survive_a_run_that_ends_early(world: World) -> None:
    world.record(FIRST, b"broken")
    plan = world.plan()
    world.embed(plan)
    again = world.plan()
    assert again.retried == 1
    assert world.finish().failures[0].id == FIRST


def test_failures_of_another_fingerprint_are_forgotten(world: World) -> None:
    world.record(FIRST, b"broken")
    world.build()
    world.audio.salt = 1
    plan = world.plan(force=True)
    assert plan.retried == 0
    world.embed(plan, len(plan.audio_chunks) - 1)
    with pytest.raises(CacheIncompleteError, match="got 1 clips and 0 captions"):
        world.finish()


def test_a_manifest_written_in_between_is_read_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.embed(world.plan())
    write, writes = Folder.replace, []

    def second(self: Folder, name: str, data: bytes, version: str | None) -> str:
        writes.append(name)
        if len(writes) == 1:
            world.folder.write(
                MANIFEST_NAME, data.replace(b'"complete": true', b'"complete": false')
            )
        return write(self, name, data, version)

    monkeypatch.setattr(Folder, "replace", second)
    world.finish(snapshot="never")
    assert writes == [MANIFEST_NAME] * 2
    assert len(open_cache(world.folder).load().clip_ids) == 10


def test_a_manifest_that_never_rests_is_an_error(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.embed(world.plan())

    def refuse(*_: object) -> str:
        raise StaleWriteError("somebody was faster")

    monkeypatch.setattr(Folder, "replace", refuse)
    with pytest.raises(StaleWriteError, match=r"manifest\.json keeps changing"):
        world.finish()


def test_a_cache_that_is_to_grow_is_not_taken_for_whole(world: World) -> None:
    world.build()
    world.put("new")
    world.plan()
    with pytest.raises(CacheIncompleteError, match="got clips or captions that are still to be"):
        open_cache(world.folder)
    world.build()
    assert "new" in open_cache(world.folder).load().clip_ids


def test_trying_failures_again_leaves_the_cache_whole(world: World) -> None:
    world.record(FIRST, b"broken")
    world.build()
    world.plan()
    assert open_cache(world.folder).manifest.complete


def test_a_plan_overtaken_by_a_finish_does_not_undo_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.build()
    world.put("new")
    write, calls = Folder.replace, []

    def second(self: Folder, name: str, data: bytes, version: str | None) -> str:
        if not calls:
            calls.append(name)
            world.build()
        return write(self, name, data, version)

    monkeypatch.setattr(Folder, "replace", second)
    assert world.plan().audio_chunks == ()
    assert open_cache(world.folder).manifest.complete


def test_the_settings_must_still_be_those_of_the_cache(world: World) -> None:
    world.build()
    world.audio.salt = 9
    with pytest.raises(FingerprintMismatchError, match="salt = 9"):
        world.finish()


def test_a_shard_of_another_size_than_recorded_is_named(world: World) -> None:
    world.build()
    entry = read_manifest(world.folder)[0].audio.shards[0]
    name = entry.name
    world.folder.write(name, world.folder.read(name) + b"\0")
    with pytest.raises(CacheCorruptError) as caught:
        world.plan()
    assert name in str(caught.value)
    assert "Run `e2i cache repair` with" in str(caught.value)
    world.folder.delete(name)
    world.forget()
    world.build()
    assert len(world.counted()[0]) == entry.rows
    assert len(open_cache(world.folder).load().clip_ids) == 10


def test_shards_that_are_known_are_not_read_again_for_their_sum(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.build()
    sums = [entry.sha256 for entry in read_manifest(world.folder)[0].audio.shards]
    world.put("new")
    names: list[str] = []
    read_keys = stock.read_keys

    def noted(folder, file, side, *, hashed: bool):
        if hashed:
            names.append(file.name)
        return read_keys(folder, file, side, hashed=hashed)

    monkeypatch.setattr(stock, "read_keys", noted)
    world.build()
    assert len(names) == 2
    after = {entry.sha256 for entry in read_manifest(world.folder)[0].audio.shards}
    assert set(sums) < after


def test_shards_of_another_cache_do_not_count(world: World) -> None:
    other = world.twin()
    other.split = "evaluation"
    other.build()
    for file in other.folder.files():
        if file.name.endswith(".parquet"):
            world.folder.write(file.name, other.folder.read(file.name))
    assert world.plan().clips_stored == 0


def test_a_damaged_record_of_failures_is_named(world: World) -> None:
    for line in (b"{", b"[1]", b'{"side": "video"}', b"7"):
        world.folder.write("failures.jsonl", line)
        with pytest.raises(CacheCorruptError, match=r"failures\.jsonl cannot be read"):
            world.plan()
