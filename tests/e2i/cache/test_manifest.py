from __future__ import annotations

import itertools
import json

import pytest
from cache_world import World
from hypothesis import given, settings
from hypothesis import strategies as st

from e2i.cache.layout import MANIFEST_NAME
from e2i.cache.manifest import Manifest, ShardEntry, read_manifest, runs_of
from e2i.errors import CacheCorruptError, SchemaVersionError


@given(st.sets(st.integers(0, 60)))
@settings(deadline=None)
def test_runs_are_the_rows(rows: set[int]) -> None:
    runs = runs_of(sorted(rows))
    assert {row for start, stop in runs for row in range(start, stop)} == rows
    assert all(first[1] < second[0] for first, second in itertools.pairwise(runs))
    entry = ShardEntry(name="s", rows=61, bytes=1, sha256="", excluded=runs)
    assert entry.counted == 61 - len(rows)
    assert {row for row in range(61) if not entry.counts(row)} == rows


def test_a_manifest_reads_back_as_written(world: World) -> None:
    world.put("bad", b"broken")
    world.build()
    world.drop("clip 004 #odd%20&.wav")
    world.build()
    manifest, data, _ = read_manifest(world.folder)
    assert manifest.as_bytes() == data
    assert manifest.complete
    assert manifest.audio.wanted == tuple(world.texts)
    assert manifest.audio.failed == ("bad",)
    assert sum(entry.counted for entry in manifest.audio.shards) == 9
    assert manifest.counts.captions_without_clip == 2


@pytest.mark.parametrize("data", [b"", b"{}", b"\x00" * 50, b'{"schema_version": 1}'])
def test_a_damaged_manifest_is_named(world: World, data: bytes) -> None:
    world.folder.write(MANIFEST_NAME, data)
    with pytest.raises(CacheCorruptError, match=r"manifest\.json cannot be read"):
        read_manifest(world.folder)


def test_a_manifest_of_another_version_is_named(world: World) -> None:
    world.build()
    document = json.loads(world.folder.read(MANIFEST_NAME)) | {"schema_version": 7}
    world.folder.write(MANIFEST_NAME, json.dumps(document).encode())
    with pytest.raises(SchemaVersionError, match="got 7, expected 1"):
        read_manifest(world.folder)


def test_no_manifest(world: World) -> None:
    assert read_manifest(world.folder) is None


def test_it_says_nothing_of_the_time(world: World) -> None:
    world.build()
    first = world.folder.read(MANIFEST_NAME)
    world.folder.delete(MANIFEST_NAME)
    world.build()
    assert world.folder.read(MANIFEST_NAME) == first
    assert Manifest.model_validate_json(first).source == "data/captions.csv"
