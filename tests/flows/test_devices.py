"""Several devices in one run: different chunks at once, by an encoder of each device's own."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from e2i.cache.config import CacheConfig
from e2i.cache.reader import open_cache
from e2i.datasets.config import MetadataConfig
from e2i.encoders.clap import ClapAudioEncoder
from e2i.encoders.config import EncodersConfig
from e2i.encoders.places import Place
from e2i.encoders.protocols import AudioEmbedding
from e2i.storage import Folder
from flows.caching import cache_embeddings
from flows.chunk_threads import CHUNK_RUNNER, chunk_threads
from tiny_models import make_clap

MEET_S = 120.0

pytestmark = [
    pytest.mark.usefixtures("prefect_harness"),
    # Prefect's own client leaves a socket to its test server.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def source(tmp_path: Path) -> Iterator[MetadataConfig]:
    """Eight recordings with a caption each."""
    rng = np.random.default_rng(0)
    lines = ["file_name,caption_1"]
    for number in range(8):
        soundfile.write(tmp_path / f"{number}.wav", 0.1 * rng.standard_normal(4000), 8000)
        lines.append(f"{number}.wav,noise number {number}")
    (tmp_path / "sounds.csv").write_text("\n".join(lines))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield MetadataConfig(metadata=str(tmp_path / "sounds.csv"))
    torch.set_num_threads(threads)


def test_two_devices_embed_different_chunks_at_once(
    tmp_path: Path, source: MetadataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = ClapAudioEncoder.encode
    clips: defaultdict[int, int] = defaultdict(int)
    running: defaultdict[int, int] = defaultdict(int)
    most, guard, both = [], threading.Lock(), threading.Barrier(2)

    def watched(
        encoder: ClapAudioEncoder, waveforms: Sequence[NDArray[np.float32]]
    ) -> list[AudioEmbedding]:
        with guard:
            first = id(encoder) not in clips
            clips[id(encoder)] += len(waveforms)
            running[id(encoder)] += 1
            most.append(running[id(encoder)])
        if first:
            both.wait(MEET_S)  # each has begun before either is done, or this fails
        made = encode(encoder, waveforms)
        with guard:
            running[id(encoder)] -= 1
        return made

    one = EncodersConfig(
        audio_encoder="clap",
        text_encoder="hashing",
        audio_weights=str(make_clap(tmp_path / "clap")),
        device="cpu",
    )
    two = one.model_copy(update={"device": "cpu,cpu"})
    small = CacheConfig(chunk_size=1)
    cache_embeddings(source, str(tmp_path / "one"), one, small)
    with monkeypatch.context() as patch:
        patch.setattr(ClapAudioEncoder, "encode", watched)
        summary = cache_embeddings(source, str(tmp_path / "two"), two, small)
    assert summary.counts["embedded"] == 8
    assert len(clips) == 2
    assert sum(clips.values()) == 8
    assert set(most) == {1}, "one forward pass at a time on each"
    alone, shared = (open_cache(Folder(tmp_path / name)).load() for name in ("one", "two"))
    assert shared.clip_ids == alone.clip_ids
    np.testing.assert_array_equal(shared.audio, alone.audio)
    np.testing.assert_array_equal(shared.text, alone.text)


def test_two_chunks_a_device_are_in_flight() -> None:
    seen = []

    @flow(task_runner=CHUNK_RUNNER)
    def devices(number: int) -> None:
        from prefect.context import FlowRunContext

        with chunk_threads([Place("cpu", place) for place in range(number)]):
            runner = FlowRunContext.get().task_runner
            assert isinstance(runner, ThreadPoolTaskRunner)
            seen.append(runner._max_workers)
        assert FlowRunContext.get().task_runner._max_workers == 2

    devices(1)
    devices(4)
    assert seen == [2, 8]
