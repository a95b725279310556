"""Processes killed with SIGKILL at random instants, and what is left of the cache.

    python -m benchmarks.kill_drill [--kills 50] [--where disk,s3] [--what embed,compact]

`embed`: a run of 32 clips and 64 captions is killed until it has been so often, each time resumed;
whenever a cache becomes whole, the next begins. Its rows have to be those of an uninterrupted run,
and no more may be embedded twice than the chunks in flight. `compact`: merging and pruning a cache
of small shards is killed; after each kill the cache has to open and hold the same rows. S3 is a
server of its own on this machine. Fifty kills of each kind take a few minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from e2i.cache.embeddings import CachedEmbeddings
from e2i.cache.prune import prune_cache
from e2i.cache.reader import open_cache
from e2i.cache.verify import verify_cache
from e2i.errors import CacheIncompleteError, CacheNotFoundError
from e2i.storage import Folder

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "e2i" / "cache")]
CLIPS, CHUNK = 32, 4
BEGIN_WITHIN_S, END_WITHIN_S = 60.0, 120.0


@dataclass(frozen=True)
class Place:
    """Where caches lie, and the variables by which a process finds them."""

    url: str
    options: dict[str, object] | None
    environment: Mapping[str, str]

    def folder(self, name: str) -> Folder:
        """A cache."""
        return Folder(f"{self.url}/{name}", self.options)


@contextlib.contextmanager
def place(kind: str, root: Path) -> Iterator[Place]:
    if kind == "disk":
        yield Place(str(root / "caches"), None, {})
        return
    from s3_server import S3Server  # noqa: PLC0415 - only here is a server needed

    (root / "s3").mkdir()
    with S3Server(root / "s3") as server:
        yield Place(f"{server.url}/drill", server.storage_options, server.environment)


def run(
    program: str, arguments: list[str], where: Place, started: Path, kill_after_s: float
) -> bool:
    """Start a program and kill it so long after it has begun; whether it was still running."""
    started.unlink(missing_ok=True)
    process = subprocess.Popen(
        [sys.executable, str(TESTS / "e2i" / "cache" / program), *arguments],
        env={**os.environ, **where.environment},
    )
    try:
        limit = time.monotonic() + BEGIN_WITHIN_S
        while not started.exists() and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.001)
        with contextlib.suppress(subprocess.TimeoutExpired):
            if process.wait(kill_after_s) != 0:
                raise SystemExit(f"{program} failed by itself")
        return process.poll() is None
    finally:
        process.kill()
        process.wait()


def rows_of(folder: Folder) -> CachedEmbeddings | None:
    try:
        return open_cache(folder).load()
    except (CacheIncompleteError, CacheNotFoundError):
        return None


def same(one: CachedEmbeddings, other: CachedEmbeddings) -> bool:
    ids = (one.clip_ids, one.caption_ids) == (other.clip_ids, other.caption_ids)
    return ids and np.array_equal(one.audio, other.audio) and np.array_equal(one.text, other.text)


def embed_drill(where: Place, root: Path, kills: int, rng: random.Random) -> tuple[int, int, int]:
    """Kills, things embedded again, and the most that may be."""
    from run_until_killed import main as build  # noqa: PLC0415 - beside the tests

    data, log = root / "data", root / "log"
    data.mkdir()
    for number in range(CLIPS):
        (data / f"clip {number:02d}.wav").write_bytes(f"sound {number}".encode())
    build(str(data), str(root / "whole"), str(root / "log of the whole"))
    expected = rows_of(Folder(root / "whole"))
    assert expected is not None
    done, cache, again = 0, 0, 0
    while done < kills:
        log.unlink(missing_ok=True)
        url = f"{where.url}/cache {cache}"
        killed_here = 0
        while True:
            wait_s = rng.uniform(0.0, 0.4) if done < kills else END_WITHIN_S
            if not run(
                "run_until_killed.py",
                [str(data), url, str(log)],
                where,
                Path(f"{log}.started"),
                wait_s,
            ):
                break
            done, killed_here = done + 1, killed_here + 1
        rows = rows_of(where.folder(f"cache {cache}"))
        assert rows is not None, "a run that ended left no whole cache"
        assert same(rows, expected), "other rows than an uninterrupted run's"
        times = Counter(log.read_bytes().splitlines())
        repeated = sum(times.values()) - len(times)
        assert repeated <= killed_here * 2 * CHUNK, "more than the chunk in flight was repeated"
        again += repeated
        cache += 1
    return done, again, done * 2 * CHUNK


def compact_drill(where: Place, root: Path, kills: int, rng: random.Random) -> tuple[int, int, int]:
    """Kills, and twice the caches that were merged to the end."""
    from cache_world import new_world  # noqa: PLC0415 - beside the tests

    done, cache = 0, 0
    while done < kills:
        folder = where.folder(f"small {cache}")
        world = new_world(CLIPS, folder)
        world.build(1)
        world.drop(next(iter(world.texts)))
        world.build(1)
        expected = rows_of(folder)
        assert expected is not None
        while True:
            wait_s = rng.uniform(0.0, 1.0) if done < kills else END_WITHIN_S
            url = f"{where.url}/small {cache}"
            arguments = [url, str(root / "started"), "0.02"]
            going = run("compact_until_killed.py", arguments, where, root / "started", wait_s)
            rows = rows_of(folder)
            assert rows is not None and same(rows, expected), "other rows than before"  # noqa: PT018
            if not going:
                break
            done += 1
        prune_cache(folder)
        report = verify_cache(folder)
        assert report.faults == (), report.faults
        assert len([f for f in folder.files() if f.name.endswith(".parquet")]) == report.shards
        cache += 1
    return done, cache, cache


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--where", default="disk,s3")
    parser.add_argument("--what", default="embed,compact")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(f"{'drill':<10}{'where':<7}{'kills':>6}  outcome")
    for kind in options.where.split(","):
        for what in options.what.split(","):
            rng = random.Random(f"{options.seed} {kind} {what}")
            with (
                tempfile.TemporaryDirectory(prefix="e2i-drill-") as name,
                place(kind, Path(name)) as where,
            ):
                drill = embed_drill if what == "embed" else compact_drill
                started = time.monotonic()
                done, seen, most = drill(where, Path(name), options.kills, rng)
            text = (
                f"{seen} embedded again, {most} allowed; rows as of an uninterrupted run"
                if what == "embed"
                else f"{seen} caches merged and pruned; rows the same after each kill"
            )
            print(f"{what:<10}{kind:<7}{done:>6}  {text} ({time.monotonic() - started:.0f} s)")


if __name__ == "__main__":
    main()
