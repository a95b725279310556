from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from cache_world import World, memory_folder, new_world

from e2i.cache.manifest import read_manifest
from e2i.cache.reader import open_cache
from e2i.cache.shards import ShardStamp, text_shard
from e2i.errors import CacheCorruptError, CacheError, CacheIncompleteError, CacheNotFoundError
from e2i.storage import Folder


def test_no_cache() -> None:
    with pytest.raises(CacheNotFoundError, match="there is no cache: got memory://"):
        open_cache(memory_folder())


def test_a_partial_cache_is_refused_and_says_how_to_go_on(world: World) -> None:
    world.embed(world.plan())
    with pytest.raises(CacheIncompleteError) as caught:
        open_cache(world.folder)
    assert str(caught.value) == (
        f"the cache is not whole: got no manifest.json in {world.folder.url}, expected a complete "
        "manifest.json. Run the same `e2i cache-embeddings` again, without --force: what is "
        "stored is kept."
    )


def test_types_shapes_and_origin(world: World) -> None:
    world.build()
    rows = open_cache(world.folder).load()
    assert (rows.audio.shape, rows.audio.dtype) == ((10, 12), np.float32)
    assert (rows.text.shape, rows.text.dtype) == ((20, 7), np.float32)
    assert (rows.duration_s.dtype, rows.caption_clip.dtype) == (np.float64, np.int64)
    assert (rows.dataset, rows.split, rows.url) == ("data", "development", world.folder.url)
    assert (rows.audio_fingerprint, rows.text_fingerprint) == tuple(
        side.fingerprint for side in world.sides
    )
    assert rows.audio.flags.writeable


def test_all_that_failed_leaves_nothing_to_load() -> None:
    world = new_world()
    for number in range(3):
        world.put(f"{number}", b"broken")
    summary = world.build(snapshot="always")
    assert (summary.clips_stored, summary.snapshot_written) == (0, False)
    with pytest.raises(CacheError, match="got 0 clips and 6 captions that do not join"):
        open_cache(world.folder).load()


class TestDamage:
    @pytest.fixture(params=["memory", "disk"])
    def world(self, request: pytest.FixtureRequest, tmp_path: Path) -> World:
        world = new_world(7, Folder(tmp_path) if request.param == "disk" else None)
        world.build()
        return world

    def refused(self, world: World, name: str, **options) -> str:
        cache = open_cache(world.folder)
        with pytest.raises(CacheCorruptError) as caught:
            cache.load(**options)
        assert name in str(caught.value)
        assert str(caught.value).count("a shard of the cache is") <= 1
        return str(caught.value)

    def test_a_missing_shard(self, world: World) -> None:
        name = world.folder.files("text")[1].name
        world.folder.delete(name)
        assert "a shard of the cache is missing" in self.refused(world, name)

    @pytest.mark.parametrize("side", ["audio", "text"])
    def test_a_flipped_bit_of_an_embedding(self, world: World, side: str) -> None:
        name = world.folder.files(side)[0].name
        data = bytearray(world.folder.read(name))
        data[data.index(world.stored_row(side).tobytes()) + 1] ^= 1
        world.folder.write(name, bytes(data))
        assert "sha256" in self.refused(world, name)
        assert open_cache(world.folder).load(verify=False).clip_ids

    def test_a_truncated_shard(self, world: World) -> None:
        name = world.folder.files("audio")[0].name
        world.folder.write(name, world.folder.read(name)[:-9])
        assert "bytes in" in self.refused(world, name, verify=False)

    def test_an_emptied_shard(self, world: World) -> None:
        name = world.folder.files("audio")[0].name
        world.folder.write(name, b"")
        assert "got 0 bytes" in self.refused(world, name)

    def test_a_value_that_is_not_finite(self, world: World) -> None:
        name = world.folder.files("text")[0].name
        data = bytearray(world.folder.read(name))
        at = data.index(world.stored_row("text").tobytes())
        data[at : at + 4] = np.float32(np.nan).tobytes()
        world.folder.write(name, bytes(data))
        assert "not finite for 'clip 0" in self.refused(world, name, verify=False)

    def test_another_shard_in_its_place(self, world: World) -> None:
        first, second = (file.name for file in world.folder.files("audio")[:2])
        world.folder.write(first, world.folder.read(second))
        self.refused(world, first)

    def test_foreign_ids_in_its_place(self, world: World) -> None:
        entry = read_manifest(world.folder)[0].text.shards[0]
        stamp = ShardStamp("text", "data", "development", "f", 0, 7)
        strangers = [(f"{n}", "x", "y") for n in range(entry.rows)]
        data = text_shard(stamp, strangers, np.zeros((entry.rows, 7), np.float32))
        _, written, _ = read_manifest(world.folder)
        world.folder.write(entry.name, data)
        forged = written.replace(
            f'"bytes": {entry.bytes}'.encode(), f'"bytes": {len(data)}'.encode()
        )
        world.folder.write("manifest.json", forged)
        assert "got the id '0'" in self.refused(world, entry.name, verify=False)

    def test_captions_of_a_clip_that_is_not_there(self, world: World) -> None:
        manifest, written, _ = read_manifest(world.folder)
        entry = manifest.text.shards[0]
        ids = pq.read_table(io.BytesIO(world.folder.read(entry.name)))["caption_id"].to_pylist()
        stamp = ShardStamp("text", "data", "development", "f", 0, 7)
        rows = [(caption_id, "nobody.wav", "y") for caption_id in ids]
        data = text_shard(stamp, rows, np.zeros((len(ids), 7), np.float32))
        world.folder.write(entry.name, data)
        forged = written.replace(
            f'"bytes": {entry.bytes}'.encode(), f'"bytes": {len(data)}'.encode()
        )
        world.folder.write("manifest.json", forged)
        message = self.refused(world, entry.name, verify=False)
        assert "got captions of the clip 'nobody.wav'" in message
        assert "expected captions of clips that the manifest knows." in message

    def test_a_manifest_that_names_too_few(self, world: World) -> None:
        manifest, _, _ = read_manifest(world.folder)
        fewer = manifest.model_copy(
            update={"text": manifest.text.model_copy(update={"shards": manifest.text.shards[1:]})}
        )
        world.folder.write("manifest.json", fewer.as_bytes())
        assert "text ids in" in self.refused(world, world.folder.url)
