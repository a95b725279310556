"""Embeddings of windows beside those of clips: stored where asked for, and told apart clearly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cache_world import AUDIO_DIM, CountingAudioEncoder, World, new_world, vector
from numpy.typing import NDArray

from e2i.cache.reader import open_cache
from e2i.cache.shards import embedding_type
from e2i.cache.windows import read_windows
from e2i.encoders.protocols import AudioEmbedding
from e2i.errors import CacheCorruptError, CacheError, FingerprintMismatchError
from e2i.training.windows import stored_windows_of

FIRST, SECOND = "clip 000 #odd%20&.wav", "clip 001 #odd%20&.wav"


def windows_of(content: bytes) -> NDArray[np.float32]:
    """As many windows as the recording's bytes say."""
    number = 1 + sum(content) % 4
    windows = np.stack([vector(content, AUDIO_DIM, 100 + n) for n in range(number)])
    return windows * np.float32(np.nan) if content.startswith(b"one is nan") else windows


class WindowedEncoder(CountingAudioEncoder):
    def encode(self, waveforms):
        contents = [(w * 256).astype(np.uint8).tobytes() for w in waveforms]
        made = super().encode(waveforms)
        windows = [windows_of(content) for content in contents]
        return [
            replace(one, num_windows=len(w), windows=w)
            for one, w in zip(made, windows, strict=True)
        ]


@pytest.fixture
def windowed() -> World:
    return replace(new_world(8), audio=WindowedEncoder(), store_windows=True)


def check(world: World, failed: tuple[str, ...] = ()) -> None:
    found = dict(read_windows(open_cache(world.folder)))
    assert found.keys() == world.contents.keys() - set(failed)
    for clip_id, windows in found.items():
        np.testing.assert_array_equal(windows, windows_of(world.contents[clip_id]))


def test_each_clip_keeps_its_windows(windowed: World) -> None:
    windowed.build(3)
    check(windowed)
    table = pq.read_table(
        pa.BufferReader(windowed.folder.read(windowed.folder.files("audio")[0].name))
    )
    assert table.column_names[-1] == "windows"
    assert table.schema.field("windows").type.value_type == embedding_type(AUDIO_DIM)
    counts = [len(windows) for windows in table.column("windows").to_pylist()]
    assert counts == table.column("num_windows").to_pylist()


def test_the_embeddings_are_those_of_a_cache_without(windowed: World) -> None:
    windowed.build(3)
    plain = replace(windowed.twin(), store_windows=False)
    plain.build(3)
    one, other = (open_cache(world.folder) for world in (windowed, plain))
    np.testing.assert_array_equal(one.load().audio, other.load().audio)
    assert one.load().audio_fingerprint == other.load().audio_fingerprint
    name = plain.folder.files("audio")[0].name
    assert "windows" not in pq.read_schema(pa.BufferReader(plain.folder.read(name))).names
    with pytest.raises(CacheError, match=r"holds no embeddings of windows: got memory://.*--force"):
        list(read_windows(other))


def test_new_and_changed_clips_and_failures(windowed: World) -> None:
    windowed.build(3)
    windowed.put("new.wav")
    windowed.record(FIRST, b"another sound")
    windowed.record(SECOND, b"one is nan")
    windowed.forget()
    windowed.build(3)
    check(windowed, failed=(SECOND,))
    assert len(windowed.audio.seen) == 3
    windowed.forget()
    windowed.record(SECOND, b"mended")
    windowed.build(3)
    check(windowed)
    assert windowed.audio.seen == [b"mended"]


@pytest.mark.parametrize("stored", [True, False])
def test_with_and_without_are_not_mixed(windowed: World, stored: bool) -> None:
    first = replace(windowed, store_windows=stored)
    first.build(3)
    other = replace(windowed, store_windows=not stored)
    with pytest.raises(FingerprintMismatchError) as raised:
        other.build(3)
    words = f"got audio store_windows = {not stored}, expected audio store_windows = {stored} as"
    assert words in str(raised.value)
    assert "--force" in str(raised.value)
    windowed.forget()
    other.build(3, force=True)
    assert (len(windowed.audio.seen), len(windowed.text.seen)) == (8, 0)
    assert open_cache(windowed.folder).header.audio.store_windows is not stored
    if not stored:
        check(windowed)


def test_a_clip_that_is_one_window_is_that_window() -> None:
    class Whole(CountingAudioEncoder):
        def encode(self, waveforms):
            return [AudioEmbedding(one.embedding, 1) for one in super().encode(waveforms)]

    world = replace(new_world(2), audio=Whole(), store_windows=True)
    world.build(2)
    cache = open_cache(world.folder)
    windows = np.concatenate([found for _, found in read_windows(cache)])
    np.testing.assert_array_equal(np.sort(windows, axis=0), np.sort(cache.load().audio, axis=0))


def test_an_encoder_without_windows_cannot_have_them_stored() -> None:
    world = replace(new_world(2), store_windows=True)
    with pytest.raises(CacheError, match="gives no embeddings of windows: got 2 windows and one"):
        world.build(2)


def test_windows_of_another_shape_are_refused() -> None:
    class Odd(CountingAudioEncoder):
        def encode(self, waveforms):
            odd = np.zeros((1, AUDIO_DIM), np.float32)
            return [replace(one, windows=odd) for one in super().encode(waveforms)]

    world = replace(new_world(2), audio=Odd(), store_windows=True)
    with pytest.raises(CacheError, match=r"another length: got \(1, 12\), expected 12"):
        world.build(2)


def test_damage_is_noticed(windowed: World) -> None:
    windowed.build(3)
    cache = open_cache(windowed.folder)
    name = cache.manifest.audio.shards[1].name
    data = bytearray(windowed.folder.read(name))
    data[len(data) // 2] ^= 1
    windowed.folder.write(name, bytes(data))
    with pytest.raises(CacheCorruptError, match="damaged: got sha256"):
        list(read_windows(cache))
    windowed.folder.delete(name)
    with pytest.raises(CacheCorruptError, match="missing: got no audio/shard"):
        list(read_windows(cache))


class MeanEncoder(WindowedEncoder):
    """Embeddings that are the mean of their windows, as those of real encoders."""

    def encode(self, waveforms):
        return [
            replace(one, embedding=one.windows.mean(axis=0)) for one in super().encode(waveforms)
        ]


def test_training_reads_them_in_the_order_of_the_cache(windowed: World) -> None:
    world = replace(windowed, audio=MeanEncoder())
    world.put("one is nan")
    world.build(3)
    opened = open_cache(world.folder)
    cache = opened.load()
    found = stored_windows_of(world.folder)(cache)
    expected = [windows_of(world.contents[clip_id]) for clip_id in cache.clip_ids]
    np.testing.assert_array_equal(found.counts, [len(windows) for windows in expected])
    np.testing.assert_array_equal(found.rows, np.concatenate(expected))
    np.testing.assert_allclose(found.means(), cache.audio, rtol=1e-5, atol=1e-6)


def test_training_refuses_windows_that_do_not_average_to_the_clip(windowed: World) -> None:
    windowed.build(3)
    cache = open_cache(windowed.folder).load()
    with pytest.raises(CacheError, match=r"do not average to its embedding: got a mean that is of"):
        stored_windows_of(windowed.folder)(cache)


def test_training_refuses_a_cache_without(windowed: World) -> None:
    plain = replace(windowed.twin(), store_windows=False)
    plain.build(3)
    cache = open_cache(plain.folder).load()
    with pytest.raises(CacheError, match=r"holds no embeddings of windows: got .*--store-windows"):
        stored_windows_of(plain.folder)(cache)
