"""What it takes to let a cache grow, and to resume one that is whole.

    python -m benchmarks.growth [--clips 10000] [--rows 1000000] [--folder PATH]

Growth: a cache of `--clips` clips with five captions each gets 100 new clips, loses 50, and has 10
changed recordings and 10 changed captions; beside it, a cache of 110 clips is made. Resuming: plan
and finish of a whole cache with `--rows` rows, half clips and half captions, none of which is to be
embedded. Encoders cost nothing here, so the seconds are those of the library on the local disk.
Aim for resuming 1,000,000 rows: under ten seconds.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e2i.cache.chunk_result import ChunkResult
from e2i.cache.embed_audio import embed_audio_chunk
from e2i.cache.embed_text import embed_text_chunk
from e2i.cache.finish import finish_cache
from e2i.cache.header import SideSettings
from e2i.cache.plan import plan_cache
from e2i.cache.reader import open_cache
from e2i.clips import Caption, CaptionedClips, Clip
from e2i.encoders.protocols import AudioEmbedding
from e2i.storage import Folder

DIM = 16
RATE = 8_000


@dataclass(frozen=True)
class Sound:
    """A recording whose bytes are its samples."""

    samples: NDArray[np.float32]
    duration_s: float


def load(data: bytes, sample_rate: int, name: str) -> Sound:  # noqa: ARG001
    samples = np.frombuffer(data, np.uint8).astype(np.float32)
    return Sound(samples, len(samples) / sample_rate)


class FreeAudio:
    """An encoder that takes no time."""

    dim, sample_rate = DIM, RATE
    settings = {"encoder": "free audio"}  # noqa: RUF012

    def encode(self, waveforms: Sequence[NDArray[np.float32]]) -> list[AudioEmbedding]:
        """The mean, again and again."""
        return [AudioEmbedding(np.full(DIM, w.mean(), np.float32), 1) for w in waveforms]


class FreeText:
    """An encoder that takes no time."""

    dim = DIM
    settings = {"encoder": "free text"}  # noqa: RUF012

    def encode(self, captions: Sequence[str]) -> NDArray[np.float32]:
        """The lengths, again and again."""
        lengths = np.array([len(caption) for caption in captions], np.float32)
        return np.repeat(lengths[:, None], DIM, axis=1)


class DataSet:
    """Clips on the local disk that can change."""

    def __init__(self, root: Path, captions: int) -> None:
        self.root, self.captions = root, captions
        self.clips: dict[str, Clip] = {}
        root.mkdir()

    def add(self, first: int, count: int) -> None:
        """New clips."""
        for number in range(first, first + count):
            name = f"clip {number:07d}.wav"
            self.record(name, 0)
            captions = tuple(
                Caption(f"{name}#{n}", name, f"take {n} of sound {number}")
                for n in range(1, self.captions + 1)
            )
            self.clips[name] = Clip(name, name, captions, number + 1)

    def record(self, name: str, take: int) -> None:
        """Other bytes in a recording."""
        digest = hashlib.sha256(f"{name} {take}".encode()).digest()
        descriptor = os.open(f"{self.root}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(descriptor, digest)
        os.close(descriptor)

    def metadata(self) -> CaptionedClips:
        """As it stands now."""
        return CaptionedClips("bench", "all", str(self.root), tuple(self.clips.values()), "bench")


def run(cache: Folder, data: DataSet, chunk_size: int) -> tuple[ChunkResult, ChunkResult, float]:
    """One whole run: what was embedded of each side, and the seconds."""
    clips, root = data.metadata(), Folder(data.root)
    sides = SideSettings.of(FreeAudio()), SideSettings.of(FreeText())
    started = time.perf_counter()
    plan = plan_cache(cache, clips, *sides, audio_root=root, chunk_size=chunk_size)
    audio = [embed_audio_chunk(cache, root, c, FreeAudio(), load) for c in plan.audio_chunks]
    text = [embed_text_chunk(cache, c, FreeText()) for c in plan.text_chunks]
    finish_cache(
        cache, clips, *sides, audio_root=root, verified=plan.verified, stock=plan.stock,
        snapshot="never",
    )  # fmt: skip
    seconds = time.perf_counter() - started
    done = [ChunkResult(embedded=sum(r.embedded for r in some)) for some in (audio, text)]
    return done[0], done[1], seconds


def growth(num_clips: int, root: Path) -> None:
    data, few = DataSet(root / "data", 5), DataSet(root / "few", 5)
    data.add(0, num_clips)
    few.add(0, 110)
    cache = Folder(root / "cache")
    _, _, first = run(cache, data, 256)
    names = list(data.clips)
    for name in names[:50]:
        del data.clips[name]
    for name in names[100:110]:
        data.record(name, 1)
    for name in names[200:210]:
        clip = data.clips[name]
        changed = replace(clip.captions[0], text="other words altogether")
        data.clips[name] = replace(clip, captions=(changed, *clip.captions[1:]))
    data.add(num_clips, 100)
    audio, text, seconds = run(cache, data, 256)
    assert open_cache(cache).load(verify=False).clip_ids == tuple(data.clips)
    _, _, alone = run(Folder(root / "alone"), few, 256)
    print(f"first run, {num_clips:,} clips: {first:.1f} s")
    print(f"growth: {audio.embedded} clips, {text.embedded} captions embedded, {seconds:.2f} s")
    print(f"a cache of 110 clips: {alone:.2f} s")


def resuming(rows: int, root: Path) -> None:
    data = DataSet(root / "data", 1)
    data.add(0, rows // 2)
    cache = Folder(root / "cache")
    run(cache, data, 20_000)
    started = time.process_time()
    audio, text, seconds = run(cache, data, 20_000)
    cpu = time.process_time() - started
    assert audio.embedded == text.embedded == 0
    print(f"resuming {rows:,} rows: {seconds:.1f} s (processor {cpu:.1f} s)")


def measured(step: Callable[[int, Path], None], size: int, folder: Path | None) -> None:
    root = Path(tempfile.mkdtemp(prefix="e2i-growth-", dir=folder))
    try:
        step(size, root)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="Where to write; default: a temporary folder.")
    options = parser.parse_args()
    measured(growth, options.clips, options.folder)
    measured(resuming, options.rows, options.folder)


if __name__ == "__main__":
    main()
