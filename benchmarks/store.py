"""How fast embeddings go in and out of a cache, beside the plainest way to store the same bytes.

    python -m benchmarks.store [--rows 1000000] [--where disk|s3] [--folder PATH]

On disk: a cache with one caption a row is written shard by shard and read whole into one tensor,
beside `numpy.save` and `numpy.load` of the same matrix; writing ends with fsync on both sides,
reading is from a warm page cache on both. Over S3 (a server of its own on this machine): shards are
written and read in parallel, beside plain put and get of the same objects. Memory is what the
process holds of its own (RssAnon) beyond what it held before. Each figure is the median of the
repeats.

Aims, on disk: writing 20 % of numpy's rate, reading 25 %; a few shards of memory while writing, one
copy of the data while reading.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from e2i.cache.finish import finish_cache
from e2i.cache.header import SideSettings, read_header
from e2i.cache.layout import shard_name
from e2i.cache.plan import plan_cache
from e2i.cache.reader import open_cache
from e2i.cache.shards import (
    AudioRow,
    ShardStamp,
    audio_shard,
    caption_digest,
    shard_key,
    text_shard,
)
from e2i.clips import Caption, CaptionedClips, Clip
from e2i.storage import Folder

DIM = 768
CAPTIONS_A_CLIP = 100
WORKERS = 4
MIB = 2**20


def data_set(rows: int) -> CaptionedClips:
    clips = []
    for first in range(0, rows, CAPTIONS_A_CLIP):
        name = f"clip {first // CAPTIONS_A_CLIP:07d}.wav"
        numbers = range(first, min(first + CAPTIONS_A_CLIP, rows))
        captions = tuple(
            Caption(f"{name}#{n - first + 1}", name, f"a sound like no other, take {n}")
            for n in numbers
        )
        clips.append(Clip(name, name, captions, len(clips) + 1))
    return CaptionedClips("bench", "all", "memory://none", tuple(clips), "bench")


def settings() -> tuple[SideSettings, SideSettings]:
    return SideSettings({"encoder": "a"}, 8), SideSettings({"encoder": "t"}, DIM)


class Written:
    """A cache of one caption a row, written as the tasks write it."""

    def __init__(self, folder: Folder, clips: CaptionedClips, matrix: NDArray[np.float32]) -> None:
        self.folder, self.clips, self.matrix = folder, clips, matrix
        plan_cache(folder, clips, *settings())
        header = read_header(folder)
        self.audio, self.text = (ShardStamp.of(header, side) for side in ("audio", "text"))
        rows = [
            AudioRow(c.clip_id, "0" * 64, 1, "1", np.zeros(8, np.float32), 1.0, 1)
            for c in clips.clips
        ]
        key = shard_key(self.audio, ((row.clip_id, row.content_sha256) for row in rows))
        folder.create(shard_name("audio", key), audio_shard(self.audio, rows))

    def write(self, shard_rows: int, workers: int) -> None:
        """All shards of captions."""
        captions = list(self.clips.captions)

        def one(first: int) -> None:
            some = captions[first : first + shard_rows]
            key = shard_key(self.text, ((c.caption_id, caption_digest(c.text)) for c in some))
            data = text_shard(
                self.text,
                [(c.caption_id, c.clip_id, c.text) for c in some],
                self.matrix[first : first + shard_rows],
            )
            assert self.folder.create(shard_name("text", key), data)

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(one, range(0, len(captions), shard_rows)))

    def finish(self) -> None:
        """The manifest."""
        finish_cache(self.folder, self.clips, *settings(), snapshot="never")


class Memory:
    """The most that this process held of its own since it was made, beyond what it held then."""

    def __init__(self) -> None:
        self._start = self._most = _anonymous_bytes()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self._most = max(self._most, _anonymous_bytes())

    def stop(self) -> int:
        """Stop watching; bytes."""
        self._done.set()
        self._thread.join()
        return self._most - self._start


def _anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


def timed(step: Callable[[], object]) -> tuple[float, int]:
    """Seconds and bytes of memory."""
    memory = Memory()
    started = time.perf_counter()
    result = step()
    seconds = time.perf_counter() - started
    held = memory.stop()
    del result
    return seconds, held


def report(what: str, num_bytes: int, runs: Sequence[tuple[float, int]], beside: float) -> float:
    seconds = statistics.median(run[0] for run in runs)
    share = f"{beside / seconds:6.0%}" if beside else "      "
    held = max(run[1] for run in runs) / MIB
    rate = num_bytes / MIB / seconds
    print(f"{what:<34} {seconds:7.2f} s {rate:8.0f} MiB/s {share}   memory {held:6.0f} MiB")
    return seconds


def on_disk(rows: int, shard_rows: int, repeats: int, root: Path) -> None:
    clips = data_set(rows)
    matrix = np.random.default_rng(0).standard_normal((rows, DIM), np.float32)
    plain = root / "matrix.npy"

    def save(matrix: NDArray[np.float32] = matrix) -> None:
        with plain.open("wb") as file:
            np.save(file, matrix)
            file.flush()
            os.fsync(file.fileno())

    def load_plain() -> torch.Tensor:
        return torch.from_numpy(np.load(plain))

    def load_cache() -> torch.Tensor:
        return torch.from_numpy(open_cache(Folder(root / "cache")).load().text)

    def load_unverified() -> torch.Tensor:
        return torch.from_numpy(open_cache(Folder(root / "cache")).load(verify=False).text)

    saves, writes, loads, reads, unverified = [], [], [], [], []
    for _ in range(repeats):
        plain.unlink(missing_ok=True)
        shutil.rmtree(root / "cache", ignore_errors=True)
        saves.append(timed(save))
        written = Written(Folder(root / "cache"), clips, matrix)
        writes.append(timed(lambda w=written: w.write(shard_rows, 2)))
    written.finish()
    expected = matrix[:: max(1, rows // 97)].copy()
    num_bytes = matrix.nbytes
    del matrix, written, save
    for _ in range(repeats):
        loads.append(timed(load_plain))
        reads.append(timed(load_cache))
        unverified.append(timed(load_unverified))
    assert np.array_equal(load_cache().numpy()[:: max(1, rows // 97)], expected)
    beside = report("numpy.save, fsync", num_bytes, saves, 0)
    report(f"cache written, {shard_rows:,}-row shards", num_bytes, writes, beside)
    beside = report("numpy.load, warm", num_bytes, loads, 0)
    report("cache read whole, sha256 checked", num_bytes, reads, beside)
    report("cache read whole, not checked", num_bytes, unverified, beside)


@contextmanager
def s3_folder(root: Path) -> Iterator[Folder]:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from s3_server import S3Server  # noqa: PLC0415 - only here is a server needed

    with S3Server(root) as server:
        yield Folder(f"{server.url}/bench", server.storage_options)


def on_s3(rows: int, shard_rows: int, repeats: int, root: Path) -> None:
    clips = data_set(rows)
    matrix = np.random.default_rng(0).standard_normal((rows, DIM), np.float32)
    with s3_folder(root) as bucket:
        puts, writes, gets, reads = [], [], [], []
        for number in range(repeats):
            written = Written(bucket.folder(f"cache {number}"), clips, matrix)
            writes.append(timed(lambda w=written: w.write(shard_rows, WORKERS)))
            written.finish()
            cache = open_cache(written.folder)
            names = [entry.name for entry in cache.manifest.text.shards]
            objects = {name: written.folder.read(name) for name in names}
            plain = bucket.folder(f"plain {number}")

            def in_parallel(call: Callable[[str], object], names: list[str] = names) -> None:
                with ThreadPoolExecutor(WORKERS) as pool:
                    list(pool.map(call, names))

            puts.append(timed(lambda p=plain, o=objects: in_parallel(lambda n: p.write(n, o[n]))))
            del objects
            gets.append(timed(lambda p=plain: in_parallel(lambda n: len(p.read(n)))))
            reads.append(timed(lambda c=cache: torch.from_numpy(c.load().text)))
    num_bytes = matrix.nbytes
    beside = report(f"put, {WORKERS} at once", num_bytes, puts, 0)
    report("cache written", num_bytes, writes, beside)
    beside = report(f"get, {WORKERS} at once", num_bytes, gets, 0)
    report("cache read whole, sha256 checked", num_bytes, reads, beside)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--shard-rows", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--where", choices=["disk", "s3"], default="disk")
    parser.add_argument("--folder", type=Path, help="Where to write; default: a temporary folder.")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="e2i-store-", dir=options.folder))
    print(f"{options.rows:,} x {DIM} float32, {options.where}, {os.cpu_count()} cores")
    try:
        run = on_disk if options.where == "disk" else on_s3
        run(options.rows, options.shard_rows, options.repeats, root)
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
