"""What can be wrong with a cache: each fault is found, named, and repaired or refused."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from cache_world import CountingAudioEncoder, World, new_world

from e2i.cache.layout import HEADER_NAME, MANIFEST_NAME
from e2i.cache.manifest import read_manifest
from e2i.cache.prune import prune_cache
from e2i.cache.reader import open_cache
from e2i.cache.repair import set_broken_aside
from e2i.cache.shards import ShardStamp, read_keys, text_shard
from e2i.cache.verify import verify_cache
from e2i.errors import (
    CacheCorruptError,
    CacheError,
    CacheNotFoundError,
    FingerprintMismatchError,
    SchemaVersionError,
)
from e2i.storage import Folder

CLIPS = 10
CHUNK = 3
Spoil = Callable[[World], str]


def first_shard(world: World, side: str) -> str:
    return read_manifest(world.folder)[0].side(side).shards[0].name


def flipped(side: str, where: Callable[[int], int] = lambda size: size // 2) -> Spoil:
    def spoil(world: World) -> str:
        name = first_shard(world, side)
        data = bytearray(world.folder.read(name))
        data[where(len(data))] ^= 0x40
        world.folder.write(name, bytes(data))
        return name

    return spoil


def truncated(world: World) -> str:
    name = first_shard(world, "audio")
    world.folder.write(name, world.folder.read(name)[:-7])
    return name


def emptied(world: World) -> str:
    name = first_shard(world, "text")
    world.folder.write(name, b"")
    return name


def deleted(world: World) -> str:
    name = first_shard(world, "text")
    world.folder.delete(name)
    return name


def another_in_its_place(world: World) -> str:
    first, second = (entry.name for entry in read_manifest(world.folder)[0].audio.shards[:2])
    world.folder.write(first, world.folder.read(second))
    return first


def not_finite(world: World) -> str:
    """A value that is no number, in a shard whose checksum the manifest agrees with."""
    entry = read_manifest(world.folder)[0].text.shards[0]
    stamp = ShardStamp("text", "data", "development", world.sides[1].fingerprint, 0, world.text.dim)
    ids = [caption for clip in world.clips.clips for caption in clip.captions][: entry.rows]
    values = np.full((entry.rows, world.text.dim), np.nan, np.float32)
    data = text_shard(stamp, [(c.caption_id, c.clip_id, c.text) for c in ids], values)
    forge(world, entry.name, data)
    return entry.name


def of_another_encoder_in_its_place(world: World) -> str:
    other = world.twin()
    other.text.salt = 9
    other.build(CHUNK)
    name = first_shard(world, "text")
    forge(world, name, other.folder.read(first_shard(other, "text")))
    return name


def forge(world: World, name: str, data: bytes) -> None:
    """Other bytes, and a manifest that agrees with them."""
    world.folder.write(name, data)
    document = json.loads(world.folder.read(MANIFEST_NAME))
    for side in ("audio", "text"):
        for entry in document[side]["shards"]:
            if entry["name"] == name:
                entry |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    world.folder.write(MANIFEST_NAME, json.dumps(document).encode())


def copied(world: World) -> str:
    data = world.folder.read(first_shard(world, "audio"))
    world.folder.write("audio/shard-copy.parquet", data)
    return "audio/shard-copy.parquet"


def stray_bytes(world: World) -> str:
    world.folder.write("text/shard-noise.parquet", b"not a shard at all")
    return "text/shard-noise.parquet"


def merged_with(other_split: str, salt: int = 0) -> Spoil:
    """All shards of another cache put beside this one's."""

    def spoil(world: World) -> str:
        other = world.twin()
        other.split, other.audio.salt = other_split, salt
        other.texts, other.contents = {}, {}
        for number in range(4):
            other.put(f"other {number}")
        other.build(CHUNK)
        for file in other.folder.files("audio"):
            world.folder.write(file.name, other.folder.read(file.name))
        return other.folder.files("audio")[0].name

    return spoil


def manifest_that_names_too_few(world: World) -> str:
    document = json.loads(world.folder.read(MANIFEST_NAME))
    document["text"]["shards"].pop()
    world.folder.write(MANIFEST_NAME, json.dumps(document).encode())
    return MANIFEST_NAME


def manifest_that_counts_twice(world: World) -> str:
    name = copied(world)
    document = json.loads(world.folder.read(MANIFEST_NAME))
    document["audio"]["shards"].append({**document["audio"]["shards"][0], "name": name})
    world.folder.write(MANIFEST_NAME, json.dumps(document).encode())
    return MANIFEST_NAME


def wrong_counts(world: World) -> str:
    document = json.loads(world.folder.read(MANIFEST_NAME))
    document["counts"]["clips"] += 1
    world.folder.write(MANIFEST_NAME, json.dumps(document).encode())
    return MANIFEST_NAME


def garbled_manifest(world: World) -> str:
    world.folder.write(MANIFEST_NAME, world.folder.read(MANIFEST_NAME)[:-30])
    return MANIFEST_NAME


def no_manifest(world: World) -> str:
    world.folder.delete(MANIFEST_NAME)
    return MANIFEST_NAME


def garbled_failures(world: World) -> str:
    world.folder.write("failures.jsonl", b"{")
    return "failures.jsonl"


class Case(NamedTuple):
    """A fault: what is done to a whole cache, and whether the shard named is embedded again."""

    spoil: Spoil
    words: str
    embeds: bool = False


MENDED = {
    "a flipped byte in audio": Case(flipped("audio"), "got sha256", embeds=True),
    "a flipped byte in text": Case(flipped("text"), "got sha256", embeds=True),
    "a flipped byte in a footer": Case(
        flipped("audio", lambda size: size - 3), "got sha256", embeds=True
    ),
    "a truncated shard": Case(truncated, "bytes, expected", embeds=True),
    "an emptied shard": Case(emptied, "got 0 bytes", embeds=True),
    "a shard that is missing": Case(deleted, "the shard is missing", embeds=True),
    "another shard in its place": Case(another_in_its_place, "a shard is damaged", embeds=True),
    "values that are no numbers": Case(not_finite, "not finite for 'clip 000", embeds=True),
    "rows of another encoder": Case(
        of_another_encoder_in_its_place, "rows of fingerprint", embeds=True
    ),
    "a shard that nobody names": Case(copied, "does not name this shard"),
    "a file that is no shard": Case(stray_bytes, "a shard is damaged"),
    "a cache of another split merged": Case(merged_with("evaluation"), "split 'evaluation'"),
    "a cache of another encoder merged": Case(merged_with("development", 7), "fingerprint"),
    "a cache of the same kind merged": Case(merged_with("development"), "rows that no reader sees"),
    "a manifest that names too few": Case(manifest_that_names_too_few, "got no row for"),
    "a manifest that counts twice": Case(manifest_that_counts_twice, "got more than one row"),
    "wrong counts": Case(wrong_counts, "the counts are not those"),
    "a garbled manifest": Case(garbled_manifest, "cannot be read"),
    "no manifest": Case(no_manifest, "the cache is not whole: got no manifest.json"),
    "garbled failures": Case(garbled_failures, "cannot be read"),
}


@pytest.fixture(params=["memory", "disk"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    world = new_world(CLIPS, Folder(tmp_path / "cache") if request.param == "disk" else None)
    world.build(CHUNK)
    world.forget()
    assert verify_cache(world.folder).faults == ()
    return world


def rows_by_shard(world: World) -> dict[str, set[str]]:
    """What each shard was embedded from."""
    found = {}
    for side in ("audio", "text"):
        for file in world.folder.files(side):
            columns = read_keys(world.folder, file, side, hashed=False).columns
            found[file.name] = (
                {world.contents[clip_id] for clip_id in columns["clip_id"]}
                if side == "audio"
                else set(columns["caption"])
            )
    return found


def repair(world: World) -> None:
    """The steps of `e2i cache repair`."""
    if set_broken_aside(world.folder).to_embed:
        world.build(CHUNK)
    prune_cache(world.folder)


def check(world: World) -> None:
    rows = open_cache(world.folder).load()
    assert rows.clip_ids == tuple(world.texts)
    assert rows.captions == tuple(caption.text for caption in world.clips.captions)
    for row, clip_id in zip(rows.audio, rows.clip_ids, strict=True):
        assert np.array_equal(row, world.audio.one(world.contents[clip_id]))
    for row, caption in zip(rows.text, rows.captions, strict=True):
        assert np.array_equal(row, world.text.one(caption))


@pytest.mark.parametrize("case", MENDED.values(), ids=MENDED)
def test_a_fault_is_found_named_and_mended(world: World, case: Case) -> None:
    rows = rows_by_shard(world)
    name = case.spoil(world)
    before = world.folder.files()
    faults = verify_cache(world.folder).faults
    assert world.folder.files() == before
    assert any(fault.name == name and case.words in fault.problem for fault in faults)
    repair(world)
    assert verify_cache(world.folder).faults == ()
    check(world)
    audio, text = world.counted()
    assert [*audio, *text] == (sorted(rows[name]) if case.embeds else [])
    world.build(CHUNK)
    assert world.counted() == ([], [])


def test_several_faults_are_mended_at_once(world: World) -> None:
    rows = rows_by_shard(world)
    spoils = (flipped("audio"), deleted, copied, stray_bytes)
    names = {spoil(world) for spoil in spoils}
    assert names <= {fault.name for fault in verify_cache(world.folder).faults}
    repair(world)
    assert verify_cache(world.folder).faults == ()
    check(world)
    audio, text = world.counted()
    assert {*audio, *text} == set.union(*(rows[name] for name in names if name in rows))


def test_a_repair_that_was_killed_is_finished_by_a_run(world: World) -> None:
    rows = rows_by_shard(world)
    name = flipped("audio")(world)
    set_broken_aside(world.folder)
    with pytest.raises(CacheError, match="still to be embedded"):
        open_cache(world.folder)
    world.build(CHUNK)
    check(world)
    assert world.counted() == (sorted(rows[name]), [])


def test_a_shard_set_aside_and_not_yet_deleted_is_not_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_by_shard(world)
    name = flipped("audio")(world)
    monkeypatch.setattr(Folder, "delete", lambda *_: None)
    set_broken_aside(world.folder)
    world.build(CHUNK)
    monkeypatch.undo()
    check(world)
    assert world.counted() == (sorted(rows[name]), [])
    prune_cache(world.folder)
    check(world)
    assert len(world.folder.files("audio")) == len(read_manifest(world.folder)[0].audio.shards)


def test_damage_shows_before_a_first_manifest_too(world: World) -> None:
    world.folder.delete(MANIFEST_NAME)
    name = world.folder.files("audio")[1].name
    world.folder.write(name, world.folder.read(name)[:-9])
    with pytest.raises(CacheCorruptError, match="e2i cache repair"):
        world.plan()
    assert name in {fault.name for fault in verify_cache(world.folder).faults}
    repair(world)
    check(world)
    assert len(world.counted()[0]) <= CHUNK


class TestRefused:
    """What a cache is not mended of, because nobody can know what it should be."""

    def refused(self, world: World, error: type[Exception], words: str) -> None:
        before = world.folder.files()
        faults = verify_cache(world.folder).faults
        assert any(re.search(words, fault.problem) for fault in faults)
        for attempt in (repair, World.build, lambda w: open_cache(w.folder), pruned):
            with pytest.raises(error, match=words):
                attempt(world)
        assert world.folder.files() == before

    @pytest.mark.parametrize("name", [HEADER_NAME, MANIFEST_NAME])
    def test_another_schema_version(self, world: World, name: str) -> None:
        document = json.loads(world.folder.read(name))
        world.folder.write(name, json.dumps({**document, "schema_version": 2}).encode())
        self.refused(world, SchemaVersionError, "is of another schema version: got 2, expected 1")

    def test_a_garbled_header(self, world: World) -> None:
        world.folder.write(HEADER_NAME, b'{"schema_version": 1}')
        self.refused(world, CacheCorruptError, r"cache\.json cannot be read")


def pruned(world: World) -> None:
    prune_cache(world.folder)


def test_the_header_of_another_encoder(world: World) -> None:
    """Nothing is deleted unless somebody embeds with that encoder."""
    other = world.twin()
    other.audio.salt = 5
    other.build(CHUNK)
    kept = world.folder.read(HEADER_NAME)
    world.folder.write(HEADER_NAME, other.folder.read(HEADER_NAME))
    report = verify_cache(world.folder)
    assert {fault.kind for fault in report.faults} == {"incomplete", "unnamed"}
    assert any("of other embeddings than cache.json asks for" in f.problem for f in report.faults)
    with pytest.raises(FingerprintMismatchError):
        repair(world)
    assert prune_cache(world.folder).deleted == 0
    world.folder.write(HEADER_NAME, kept)
    assert verify_cache(world.folder).faults == ()
    check(replace(world, audio=CountingAudioEncoder()))


def test_a_folder_that_is_no_cache_is_left_alone(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write("audio/shard-mine.parquet", b"something of mine")
    folder.write("audio_embeddings.pt", b"of the original")
    for attempt in (verify_cache, set_broken_aside, prune_cache):
        with pytest.raises(CacheNotFoundError, match="there is no cache"):
            attempt(folder)
    assert len(folder.files()) == 2


def test_what_merging_leaves_is_no_fault(world: World) -> None:
    from e2i.cache.compact import compact_cache

    compact_cache(world.folder)
    report = verify_cache(world.folder)
    assert report.faults == ()
    assert report.released == 8
    assert report.rows == CLIPS + 2 * CLIPS
