"""What waits for the encoder stays within its bound, from the first recording of a chunk on."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import soundfile
from cache_world import (
    SAMPLE_RATE,
    CountingAudioEncoder,
    FakeWaveform,
    load_waveform,
    new_world,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from e2i.cache import embed_audio
from e2i.cache.decode_ahead import Room, decoded_ahead
from e2i.cache.embed_audio import embed_audio_chunk
from e2i.decoding.pool import WaveformLoader
from e2i.encoders.protocols import AudioEmbedding
from e2i.errors import AudioError

MOST = 100


@dataclass
class Watched:
    """Decodes lengths, and notes what waits for the consumer when each is begun."""

    known: bool = True
    waits: int = 0
    most: int = 0
    begun: int = 0

    def __post_init__(self) -> None:
        self._guard = threading.Lock()

    def decode(self, length: int, wait_for_room: Callable[[int | None], None]) -> FakeWaveform:
        if length % 7 == 3:
            raise AudioError("not to be measured")
        wait_for_room(length if self.known else None)
        with self._guard:
            self.begun += 1
            self.waits += length
            self.most = max(self.most, self.waits)
        if length % 7 == 5:
            with self._guard:
                self.waits -= length
            raise AudioError("not to be decoded")
        return FakeWaveform(np.empty(length, np.float32), 0.0)

    def taken(self, length: int) -> None:
        """One has left; it counts until now, as the room is given back a moment before."""
        with self._guard:
            self.waits -= length


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 150), max_size=25),
    st.integers(1, 4),
    st.booleans(),
)
def test_all_come_in_order_and_no_more_wait_than_fit(
    lengths: list[int], decoders: int, known: bool
) -> None:
    watched = Watched(known)
    got = []
    for length, outcome in decoded_ahead(lengths, watched.decode, decoders=decoders, samples=MOST):
        got.append(length)
        assert isinstance(outcome, AudioError) == (length % 7 in {3, 5})
        if not isinstance(outcome, AudioError):
            assert len(outcome.samples) == length
            watched.taken(length)
    assert got == lengths
    longest = max(lengths, default=0)
    # What the consumer has in hand, and what waits meanwhile.
    assert watched.most <= longest + max(MOST, longest)


def test_what_nobody_can_tell_the_length_of_waits_alone() -> None:
    watched = Watched(known=False)
    given = decoded_ahead([8] * 6, watched.decode, decoders=4, samples=1000)
    next(given)
    watched.taken(8)
    for _, _ in given:
        watched.taken(8)
    assert watched.most <= 16


def test_an_error_that_is_not_the_recordings_ends_it() -> None:
    def decode(number: int, wait_for_room: Callable[[int | None], None]) -> FakeWaveform:
        wait_for_room(MOST)
        raise OSError("no space is left")

    with pytest.raises(OSError, match="no space is left"):
        list(decoded_ahead(range(9), decode, decoders=3, samples=MOST))


def test_who_waits_for_room_is_sent_away_at_the_end() -> None:
    room, ended = Room(MOST), []
    room.take(0, MOST)

    def wait() -> None:
        with pytest.raises(CancelledError):
            room.take(1, MOST)
        ended.append(True)

    thread = threading.Thread(target=wait)
    thread.start()
    room.close()
    thread.join(60)
    assert ended == [True]


def test_several_long_recordings_are_not_begun_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a chunk's start none is done, and their lengths count all the same."""
    monkeypatch.setattr(embed_audio, "_CLIPS_A_CALL", 1)
    monkeypatch.setattr(embed_audio, "_SAMPLES_AHEAD", MOST)
    world = new_world()
    for number in range(8):
        world.put(f"{number}.wav", bytes([number]) * 60)
    guard, begun, most = threading.Lock(), [], []

    def load(file: BinaryIO, sample_rate: int, name: str) -> FakeWaveform:
        with guard:
            begun.append(name)
            most.append(60 * (len(begun) - len(world.audio.seen)))
        threading.Event().wait(0.01)
        file.seek(0)
        return FakeWaveform(np.frombuffer(file.read(), np.uint8).astype(np.float32) / 256, 1.0)

    (chunk,) = world.plan(8).audio_chunks
    result = embed_audio_chunk(
        world.folder, world.audio_root, chunk, world.audio, load,
        measure=lambda file, rate, name: file.seek(0, io.SEEK_END), decoders=4,
    )  # fmt: skip
    assert result.embedded == 8
    assert most[0] == 60
    assert max(most) <= MOST + 60


def test_an_encoder_that_fails_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that wait for room would keep the process from ending."""
    monkeypatch.setattr(embed_audio, "_CLIPS_A_CALL", 1)
    world = new_world(6)
    before = set(threading.enumerate())

    class Broken(CountingAudioEncoder):
        def encode(self, waveforms: Sequence[NDArray[np.float32]]) -> list[AudioEmbedding]:
            raise RuntimeError("out of order")

    (chunk,) = world.plan(6).audio_chunks
    with pytest.raises(RuntimeError, match="out of order") as raised:
        embed_audio_chunk(
            world.folder, world.audio_root, chunk, Broken(), load_waveform, decoders=3
        )
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
        assert not thread.is_alive()
    assert raised.tb is not None, "what failed is still held, as by whoever reports it"


@pytest.fixture
def temporary_bytes() -> Callable[[], int]:
    """What lies in temporary files of this process that have no name."""

    def counted() -> int:
        total = 0
        for descriptor in Path("/proc/self/fd").iterdir():
            try:
                stat = descriptor.stat()
            except OSError:
                continue
            total += stat.st_size if stat.st_nlink == 0 else 0
        return total

    before = counted()
    return lambda: counted() - before


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are told by Linux")
def test_temporary_files_stay_within_the_bound(
    monkeypatch: pytest.MonkeyPatch, temporary_bytes: Callable[[], int]
) -> None:
    monkeypatch.setattr(embed_audio, "_CLIPS_A_CALL", 1)
    seconds, world, seen = 20, new_world(), []
    samples = seconds * SAMPLE_RATE
    monkeypatch.setattr(embed_audio, "_SAMPLES_AHEAD", round(1.5 * samples))
    for number in range(8):
        file = io.BytesIO()
        tone = 0.1 * np.sin(np.arange(seconds * 4000) * (number + 1) / 50)
        soundfile.write(file, tone, 4000, format="FLAC")
        world.put(f"{number}.flac", file.getvalue())

    class Sized(CountingAudioEncoder):
        def encode(self, waveforms: Sequence[NDArray[np.float32]]) -> list[AudioEmbedding]:
            threading.Event().wait(0.05)  # others decode meanwhile, as far as they may
            seen.append(temporary_bytes())
            return [AudioEmbedding(np.ones(self.dim, np.float32), 1) for _ in waveforms]

    world.audio = Sized()
    loader = WaveformLoader(processes=4)
    (chunk,) = world.plan(8).audio_chunks
    result = embed_audio_chunk(
        world.folder, world.audio_root, chunk, world.audio, loader,
        measure=loader.measure, decoders=4,
    )  # fmt: skip
    assert result.embedded == len(seen) == 8
    # One with the encoder, one that waits, and the recordings themselves.
    assert max(seen) <= 4 * samples * 2 + sum(map(len, world.contents.values()))
    assert min(seen) >= 4 * samples
