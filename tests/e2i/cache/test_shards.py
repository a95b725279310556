from __future__ import annotations

import io
from pathlib import Path

import duckdb
import numpy as np
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cache_world import memory_folder
from hypothesis import given, settings
from hypothesis import strategies as st

from e2i.cache.shards import (
    AudioRow,
    ShardStamp,
    audio_shard,
    read_keys,
    read_rows,
    shard_key,
    text_shard,
)
from e2i.errors import CacheCorruptError
from e2i.storage import Folder

AUDIO = ShardStamp("audio", "data", "development", "0123456789abcdef", 2, 5)
TEXT = ShardStamp("text", "data", "development", "fedcba9876543210", 0, 3)

_words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def audio_rows(draw: st.DrawFn) -> list[AudioRow]:
    ids = draw(st.lists(_words, min_size=1, max_size=6, unique=True))
    return [
        AudioRow(
            clip_id=clip_id,
            content_sha256=draw(st.text("0123456789abcdef", min_size=64, max_size=64)),
            source_bytes=draw(st.integers(0, 2**40)),
            source_version=draw(_words),
            embedding=np.array(draw(st.lists(_floats, min_size=5, max_size=5)), np.float32),
            duration_s=draw(st.floats(0, 1e5)),
            num_windows=draw(st.integers(1, 1000)),
        )
        for clip_id in ids
    ]


def stored(data: bytes, side: str = "audio") -> tuple[Folder, str]:
    folder, name = memory_folder(), f"{side}/shard-1.parquet"
    folder.write(name, data)
    return folder, name


@given(audio_rows())
@settings(deadline=None, max_examples=50)
def test_clips_read_back_as_written(rows: list[AudioRow]) -> None:
    data = audio_shard(AUDIO, rows)
    assert audio_shard(AUDIO, rows) == data
    folder, name = stored(data)
    keys = read_keys(folder, folder.info(name), "audio", hashed=True)
    assert keys.stamp == AUDIO
    assert list(zip(*keys.columns.values(), strict=True)) == [
        (r.clip_id, r.content_sha256, r.source_bytes, r.source_version) for r in rows
    ]
    table = read_rows(folder, name, "audio", pa.py_buffer(data))
    read = np.array(table.column("embedding").to_pylist(), np.float32)
    assert read.tobytes() == np.stack([row.embedding for row in rows]).tobytes()
    assert table.column("duration_s").to_pylist() == [row.duration_s for row in rows]


@given(st.lists(st.tuples(_words, _words, _words), min_size=1, max_size=6), st.integers(0, 99))
@settings(deadline=None, max_examples=50)
def test_captions_read_back_as_written(captions: list[tuple[str, str, str]], seed: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((len(captions), 3)).astype(np.float32)
    folder, name = stored(text_shard(TEXT, captions, rows), "text")
    keys = read_keys(folder, folder.info(name), "text", hashed=False)
    assert (keys.stamp, keys.rows, keys.sha256) == (TEXT, len(captions), "")
    assert list(zip(*keys.columns.values(), strict=True)) == captions
    table = read_rows(folder, name, "text", pa.py_buffer(folder.read(name)))
    assert np.array_equal(np.array(table.column("embedding").to_pylist(), np.float32), rows)


_contents = st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), max_size=3)


@given(_contents, _contents)
@settings(deadline=None)
def test_a_key_belongs_to_one_list_of_contents(one: list, other: list) -> None:
    assert (shard_key(AUDIO, one) == shard_key(AUDIO, other)) == (one == other)


def test_a_key_depends_on_fingerprint_and_generation() -> None:
    stamps = [AUDIO, TEXT] + [
        ShardStamp("audio", "data", "development", fingerprint, generation, 5)
        for fingerprint, generation in (("0123456789abcdef", 1), ("0123456789abcdee", 2))
    ]
    keys = {shard_key(stamp, [("clip", "digest")]) for stamp in stamps}
    assert len(keys) == len(stamps)
    assert all(len(key) == 20 for key in keys)


def test_a_key_is_the_same_on_every_machine() -> None:
    # sha256 over each part behind its length (8 bytes, big-endian), worked out by hand.
    assert shard_key(AUDIO, [("a.wav", "00ff")]) == "f986ad51b7296fe27e93"


def example_rows() -> list[AudioRow]:
    rng = np.random.default_rng(0)
    return [
        AudioRow(f"clip {n}", "0" * 64, n, "v", rng.standard_normal(5).astype(np.float32), 1.5, 2)
        for n in range(4)
    ]


def test_everybodys_tools_open_a_shard(tmp_path) -> None:
    path = tmp_path / "shard-1.parquet"
    rows = example_rows()
    path.write_bytes(audio_shard(AUDIO, rows))
    expected = [row.embedding.tolist() for row in rows]

    found = duckdb.sql(f"SELECT clip_id, embedding, duration_s FROM '{path}'").fetchall()
    assert [row[0] for row in found] == [row.clip_id for row in rows]
    assert [list(row[1]) for row in found] == expected
    frame = polars.read_parquet(path)
    assert frame["embedding"].to_list() == expected
    assert frame.columns == [
        "clip_id", "content_sha256", "source_bytes", "source_version", "embedding", "duration_s",
        "num_windows",
    ]  # fmt: skip
    schema = pq.read_schema(path)
    assert schema.field("embedding").type == pa.list_(
        pa.field("element", pa.float32(), nullable=False), 5
    )
    assert schema.metadata[b"e2i.fingerprint"] == AUDIO.fingerprint.encode()


def test_shards_load_as_a_data_set(tmp_path: Path) -> None:
    import datasets  # takes two seconds

    rows = example_rows()
    for number, row in enumerate(rows):
        (tmp_path / f"shard-{number}.parquet").write_bytes(audio_shard(AUDIO, [row]))
    loaded = datasets.load_dataset(
        "parquet",
        data_files=f"{tmp_path}/shard-*.parquet",
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    assert loaded["clip_id"] == [row.clip_id for row in rows]
    found = loaded.with_format("numpy")["embedding"]
    assert np.array_equal(np.asarray(found), [row.embedding for row in rows])
    assert loaded.features["embedding"] == datasets.List(datasets.Value("float32"), length=5)


@pytest.mark.parametrize("how", ["cut", "empty", "no parquet", "footer"])
def test_a_damaged_shard_is_named(how: str) -> None:
    whole = bytes(audio_shard(AUDIO, example_rows()))
    data = {
        "cut": whole[:-100],
        "empty": b"",
        "no parquet": b"clip_id,embedding\n",
        "footer": whole[:-300] + bytes(292) + whole[-8:],
    }[how]
    folder, name = stored(data)
    with pytest.raises(CacheCorruptError, match=r"a shard of the cache is damaged") as caught:
        read_keys(folder, folder.info(name), "audio", hashed=False)
    assert name in str(caught.value)


def test_parquet_of_others_has_no_stamp() -> None:
    file = io.BytesIO()
    pq.write_table(pa.table({"clip_id": ["a"]}), file)
    folder, name = stored(file.getvalue())
    assert read_keys(folder, folder.info(name), "audio", hashed=False).stamp is None


def test_a_shard_under_the_wrong_side_has_no_stamp() -> None:
    folder, name = stored(audio_shard(AUDIO, example_rows()), "text")
    assert read_keys(folder, folder.info(name), "text", hashed=False).stamp is None
