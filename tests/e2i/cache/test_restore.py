"""Fetching a cache from where it is kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cache_world import CountingAudioEncoder, World, memory_folder, new_world

from e2i.cache.manifest import read_manifest
from e2i.cache.reader import open_cache
from e2i.cache.restore import KeptCache, Restored, look_at, restore
from e2i.cache.statistics import cache_statistics
from e2i.errors import CacheCorruptError, CacheError, CacheIncompleteError, StorageNotFoundError
from e2i.storage import Folder
from original_files import OriginalFiles


def kept(folder: Folder) -> KeptCache:
    found = look_at(folder)
    assert found is not None
    return found


def counted(done: Restored) -> tuple[int, int]:
    return done.fetched, done.reused


def same(one: Folder, other: Folder) -> bool:
    mine, theirs = open_cache(one).load(), open_cache(other).load()
    return (
        mine.clip_ids == theirs.clip_ids
        and np.array_equal(mine.audio, theirs.audio)
        and np.array_equal(mine.text, theirs.text)
    )


def test_a_cache_is_fetched_whole_and_once(world: World, tmp_path: Path) -> None:
    world.put("bad", b"broken")
    world.build()
    target = Folder(tmp_path)
    told: list[int] = []
    done = restore(kept(world.folder), target, progress=told.append)
    assert counted(done) == (8, 0)
    assert done.fetched_bytes == sum(
        file.size_bytes for side in ("audio", "text") for file in target.files(side)
    )
    assert sum(told) == kept(world.folder).num_files == 8
    assert {file.name for file in target.files()} == {
        file.name for file in world.folder.files() if not file.name.startswith("failures/")
    }
    assert same(world.folder, target)
    assert counted(restore(kept(world.folder), target)) == (0, 8)


def test_embedding_goes_on_from_it(world: World) -> None:
    world.build()
    elsewhere = world.twin()
    restore(kept(world.folder), elsewhere.folder)
    elsewhere.put("new")
    elsewhere.build()
    clips, captions = elsewhere.counted()
    assert (len(clips), len(captions)) == (1, 2)


@pytest.mark.parametrize("files", range(9))
def test_what_was_broken_off_is_partial_and_goes_on(
    world: World, files: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.build()
    target = memory_folder()
    write, written = Folder.write, []

    def killed(folder: Folder, name: str, data: bytes) -> None:
        if folder == target and name.endswith(".parquet"):
            if len(written) == files:
                raise KeyboardInterrupt
            written.append(name)
        write(folder, name, data)

    if files < 8:
        with monkeypatch.context() as patch:
            patch.setattr(Folder, "write", killed)
            with pytest.raises(KeyboardInterrupt):
                restore(kept(world.folder), target)
        assert target.info("manifest.json") is None
    there = sum(len(target.files(side)) for side in ("audio", "text"))
    assert counted(restore(kept(world.folder), target)) == (8 - there, there)
    assert same(world.folder, target)


def test_a_damaged_shard_is_fetched_again(world: World) -> None:
    world.build()
    target = memory_folder()
    restore(kept(world.folder), target)
    flipped, cut = target.files("audio")[0], target.files("text")[0]
    data = bytearray(target.read(flipped.name))
    data[9] ^= 1
    target.write(flipped.name, bytes(data))
    target.write(cut.name, b"")
    assert counted(restore(kept(world.folder), target)) == (2, 6)
    assert same(world.folder, target)


@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_a_shard_that_is_damaged_where_it_is_kept_is_refused(world: World, how: str) -> None:
    world.build()
    found = kept(world.folder)
    name = world.folder.files("text")[2].name
    data = world.folder.read(name)
    if how == "gone":
        world.folder.delete(name)
    else:
        world.folder.write(name, data[:-1] if how == "cut" else data[:-1] + b"x")
    target = memory_folder()
    with pytest.raises(CacheCorruptError, match="a shard is not as its manifest says") as caught:
        restore(found, target)
    assert name in str(caught.value)
    assert target.info("manifest.json") is None
    world.folder.write(name, data)
    restore(kept(world.folder), target)
    assert same(world.folder, target)


def test_a_folder_without_a_cache_keeps_none(world: World) -> None:
    assert look_at(memory_folder()) is None
    folder = memory_folder()
    folder.write("metadata.json", b"{}")
    assert look_at(folder) is None


def test_an_unfinished_one_is_not_fetched(world: World) -> None:
    world.plan()
    with pytest.raises(CacheIncompleteError, match="the cache there is not whole: got no manifest"):
        look_at(world.folder)


class TestOtherContent:
    def refused(self, world: World, target: Folder, words: str) -> None:
        with pytest.raises(CacheError, match="the folder holds something else") as caught:
            restore(kept(world.folder), target)
        assert words in str(caught.value)
        assert "--force" in str(caught.value)

    @pytest.mark.parametrize(
        "change", [{"split": "evaluation"}, {"audio": CountingAudioEncoder(salt=2)}]
    )
    def test_another_cache(self, world: World, change: dict) -> None:
        world.build()
        other = world.twin()
        for name, value in change.items():
            setattr(other, name, value)
        other.build()
        before = open_cache(other.folder).manifest_sha256
        self.refused(world, other.folder, "by other settings or another run")
        assert open_cache(other.folder).manifest_sha256 == before
        restore(kept(world.folder), other.folder, force=True)
        assert same(world.folder, other.folder)

    def test_another_state_of_it(self, world: World) -> None:
        world.build()
        mine = world.twin()
        mine.put("new")
        mine.build()
        self.refused(world, mine.folder, "another state of data development")
        done = restore(kept(world.folder), mine.folder, force=True)
        assert done.reused > 0
        assert same(world.folder, mine.folder)

    def test_a_force_that_is_broken_off_leaves_nothing_whole(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.build()
        other = world.twin()
        other.audio = CountingAudioEncoder(salt=2)
        other.build()
        found = kept(world.folder)
        with monkeypatch.context() as patch:
            patch.setattr("e2i.cache.restore._fetch_shard", lambda *_: other.folder.read("no"))
            with pytest.raises(StorageNotFoundError):
                restore(found, other.folder, force=True)
        with pytest.raises(CacheIncompleteError):
            open_cache(other.folder)
        restore(found, other.folder)
        assert same(world.folder, other.folder)

    def test_the_originals_files(self, world: World) -> None:
        world.build()
        target = OriginalFiles().written(memory_folder())
        self.refused(world, target, "embeddings without a cache.json")
        restore(kept(world.folder), target, force=True)
        assert same(world.folder, target)


class TestOriginal:
    def test_its_three_files_are_fetched_once(self, tmp_path: Path) -> None:
        source = OriginalFiles().written(memory_folder())
        target = Folder(tmp_path)
        assert counted(restore(kept(source), target)) == (3, 0)
        assert same(source, target)
        assert counted(restore(kept(source), target)) == (0, 3)
        assert counted(restore(kept(source), target, force=True)) == (3, 0)

    def test_what_was_broken_off_is_fetched_again(self) -> None:
        """Without metadata nothing says what the tensors are of."""
        source = OriginalFiles().written(memory_folder())
        target = memory_folder()
        target.write("audio_embeddings.pt", source.read("audio_embeddings.pt"))
        target.write("text_embeddings.pt", source.read("text_embeddings.pt")[:99])
        assert counted(restore(kept(source), target)) == (3, 0)
        assert same(source, target)

    def test_files_of_other_pairs_are_replaced_only_where_asked(self) -> None:
        source, others = OriginalFiles(), OriginalFiles()
        others.audio = -others.audio
        others.metadata["ids"] = [f"x{name[1:]}" for name in others.metadata["ids"]]
        kept_there = source.written(memory_folder())
        target = others.written(memory_folder())
        before = target.read("audio_embeddings.pt")
        with pytest.raises(CacheError, match=r"files of other pairs .* pass --force"):
            restore(kept(kept_there), target)
        assert target.read("audio_embeddings.pt") == before
        assert counted(restore(kept(kept_there), target, force=True)) == (3, 0)
        assert same(kept_there, target)

    def test_files_that_do_not_fit_are_told(self) -> None:
        files = OriginalFiles()
        files.metadata["ids"] = files.metadata["ids"][:-1]
        source = files.written(memory_folder())
        with pytest.raises(CacheCorruptError, match=r"the original's metadata\.json"):
            restore(kept(source), memory_folder())

    def test_a_cache_of_e2i_is_not_covered_by_them(self, world: World) -> None:
        world.build()
        source = OriginalFiles().written(memory_folder())
        for force in (False, True):
            with pytest.raises(CacheError, match=r"got a cache of e2i .* another --cache-dir"):
                restore(kept(source), world.folder, force=force)
        assert open_cache(world.folder).load().clip_ids


def test_figures_about_a_cache() -> None:
    world = new_world(4)
    world.build()
    rows = open_cache(world.folder).load()
    figures = cache_statistics(rows)
    norms = np.linalg.norm(rows.audio, axis=1)
    audio = figures.audio
    assert (audio.rows, audio.dim, figures.text.rows, figures.text.dim) == (4, 12, 8, 7)
    assert audio.norm_min == pytest.approx(norms.min())
    assert audio.norm_mean == pytest.approx(norms.mean())
    assert audio.norm_max == pytest.approx(norms.max())
    assert audio.mean == pytest.approx(rows.audio.mean(), abs=1e-6)
    assert audio.std == pytest.approx(rows.audio.std())
    assert audio.in_words("audio").startswith("audio: 4 x 12, lengths ")


def test_a_manifest_of_another_version_is_not_fetched(world: World) -> None:
    world.build()
    document = json.loads(world.folder.read("manifest.json"))
    world.folder.write("manifest.json", json.dumps(document | {"schema_version": 7}).encode())
    with pytest.raises(CacheError, match="got 7, expected 1"):
        look_at(world.folder)
    assert read_manifest(memory_folder()) is None
