"""Recordings too large to be held whole: the rows of the others, in bounded memory."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import cache_world
import numpy as np
import pytest
import soundfile
from cache_world import FakeWaveform, World, memory_folder, new_world

from e2i.cache import embed_audio
from e2i.cache.embed_audio import embed_audio_chunk
from e2i.errors import StorageFullError
from e2i.storage import Folder

PROGRAM = str(Path(__file__).with_name("long_recording_program.py"))
MIB = 2**20
FIRST = "clip 000 #odd%20&.wav"


@pytest.fixture(params=["local", "memory"])
def large(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """All recordings count as large."""
    monkeypatch.setattr(embed_audio, "_WHOLE_BYTES", 5)
    return new_world(6, root=Folder(tmp_path) if request.param == "local" else memory_folder())


def load(file: object, sample_rate: int, name: str) -> FakeWaveform:
    """As the decoder does: what is large comes as an open file of the local disk."""
    assert file.fileno() >= 0
    file.seek(0)
    return cache_world.load_waveform(file.read(), sample_rate, name)


def embed(world: World, load_waveform=load, **options):
    (chunk,) = world.plan(10).audio_chunks
    return embed_audio_chunk(
        world.folder, world.audio_root, chunk, world.audio, load_waveform, **options
    )


def test_large_recordings_give_the_same_rows(large: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert embed(large).embedded == 6
    monkeypatch.undo()
    whole = large.twin()
    whole.build(10)
    assert large.audio.seen == whole.audio.seen
    names = [world.folder.files("audio")[0].name for world in (large, whole)]
    assert names[0] == names[1]
    assert large.folder.read(names[0]) == whole.folder.read(names[1])


def test_one_that_changes_while_it_is_used_fails(large: World) -> None:
    digest = embed_audio.digest_recording

    def changed(file: object, sample_rate: int, name: str) -> FakeWaveform:
        made = load(file, sample_rate, name)
        if name == FIRST:
            large.audio_root.write(FIRST, b"other words, of another length")
        return made

    def digest_and_change(root: Folder, name: str) -> str:
        found = digest(root, name)
        if name == FIRST:
            root.write(FIRST, b"other words, of another length")
        return found

    with pytest.MonkeyPatch.context() as patch:
        if large.audio_root.local_path is None:
            patch.setattr(embed_audio, "digest_recording", digest_and_change)
            result = embed(large)
        else:
            result = embed(large, changed)
    assert [failure.id for failure in result.failed] == [FIRST]
    assert "changed while it was read" in result.failed[0].reason
    assert result.embedded == 5


def test_one_that_is_gone_by_then_fails(large: World, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = embed_audio.digest_recording

    def digest_and_remove(root: Folder, name: str) -> str:
        found = digest(root, name)
        if name == FIRST:
            root.delete(name)
        return found

    monkeypatch.setattr(embed_audio, "digest_recording", digest_and_remove)
    result = embed(large)
    assert [failure.reason.split(":")[0] for failure in result.failed] == ["there is no recording"]
    assert result.embedded == 5


def test_a_full_disk_is_not_the_recordings_fault(
    large: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large.audio_root.local_path is not None:
        pytest.skip("recordings of the local disk are not copied")

    class Full:
        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None: ...

        def write(self, _: bytes) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("e2i.cache.sources.tempfile.TemporaryFile", Full)
    with pytest.raises(StorageFullError, match="no space is left to write: got No space left"):
        embed(large)
    assert large.folder.files("audio") == []


@pytest.mark.parametrize("decoders", [1, 3])
def test_decoding_keeps_only_so_far_ahead(monkeypatch: pytest.MonkeyPatch, decoders: int) -> None:
    monkeypatch.setattr(embed_audio, "_CLIPS_A_CALL", 1)
    world = new_world(30)
    begun, guard, ahead, at_once, running = [], threading.Lock(), [], [], []

    def counted(data: bytes, sample_rate: int, name: str) -> FakeWaveform:
        with guard:
            running.append(name)
            at_once.append(len(running))
            begun.append(name)
            ahead.append(len(begun) - len(world.audio.seen))
        made = cache_world.load_waveform(data, sample_rate, name)
        with guard:
            running.remove(name)
        return made

    (chunk,) = world.plan(30).audio_chunks
    result = embed_audio_chunk(
        world.folder, world.audio_root, chunk, world.audio, counted, decoders=decoders
    )
    assert result.embedded == 30
    assert max(at_once) <= decoders
    # What is decoded ahead, and what the encoder has in hand.
    assert max(ahead) <= 2 * decoders + 1


def test_what_is_decoded_ahead_fits_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for less than one waveform, the next is begun when none waits."""
    monkeypatch.setattr(embed_audio, "_SAMPLES_AHEAD", 1)
    world = new_world(12)
    (chunk,) = world.plan(12).audio_chunks
    result = embed_audio_chunk(
        world.folder, world.audio_root, chunk, world.audio, cache_world.load_waveform, decoders=2
    )
    assert result.embedded == 12


@pytest.mark.parametrize(
    ("minutes", "most_mib"),
    [(8, 150), pytest.param(60, 400, marks=pytest.mark.slow)],
)
def test_a_long_recording_takes_bounded_memory(tmp_path: Path, minutes: int, most_mib: int) -> None:
    """Held whole, one of an hour took 2 GB: its bytes, its samples twice, and them resampled."""
    path = tmp_path / "long.wav"
    block = np.random.default_rng(0).integers(-9_000, 9_000, (44_100 * 60, 2), dtype=np.int16)
    with soundfile.SoundFile(path, "w", 44_100, 2, "PCM_16") as file:
        for _ in range(minutes):
            file.write(block)
    done = subprocess.run(
        [sys.executable, PROGRAM, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    before, after, decoder, samples = map(int, done.stdout.split())
    assert samples == minutes * 60 * 32_000
    assert (after - before) / MIB < most_mib
    assert decoder / MIB < 250
