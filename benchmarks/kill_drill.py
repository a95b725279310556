"""Processes killed with SIGKILL at random instants, and what is left of the cache.

    python -m benchmarks.kill_drill [--kills 50] [--where disk,s3] [--what embed,compact,mirror]

An uninterrupted run is timed first; kills are spread over its whole length. What was killed is
started again, and killed again, until it comes to its end; then the next begins.

`embed`: a run of 32 clips and 64 captions. Its rows have to be those of an uninterrupted run, and
no more may be embedded twice than the chunk in flight. `compact`: merging and pruning a cache of
small shards; after each kill the cache has to open and hold the same rows. `mirror`: sending a
cache to a stand-in of the Hub on this machine; the data set has to hold the same rows in the end,
each shard once, and no more may be sent twice than the uploads in flight. S3 is a server of its own
on this machine.

Of fifty kills each, with seed 1: `embed` on disk went over 23 caches and embedded 180 captions or
clips again (400 allowed), on S3 over 4 and 32; `compact` over 27 and 22 caches; `mirror` from disk
over 2 data sets and sent 2 shards again (250 allowed). The rows were the same each time.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import multiprocessing
import os
import random
import runpy
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from e2i.cache.embeddings import CachedEmbeddings
from e2i.cache.reader import open_cache
from e2i.cache.verify import verify_cache
from e2i.errors import CacheIncompleteError, CacheNotFoundError
from e2i.storage import Folder

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "e2i" / "cache")]
CACHE_TESTS = TESTS / "e2i" / "cache"
CLIPS = 32
IN_FLIGHT = 8
"""Captions of one chunk, that is, of four clips."""
CHANGE_S = "0.02"
"""What each change of the store takes longer while shards are merged and pruned."""
UPLOADS = 5
"""What the Hub's client has in flight at once."""
BEGIN_WITHIN_S, END_WITHIN_S = 60.0, 120.0

# Each run is a process of its own, forked from one that has imported what takes seconds.
_FORKS = multiprocessing.get_context("forkserver")
_IMPORTED = [
    "pandas",  # by pyarrow, at the first column that it makes
    "pyarrow.compute",
    "pyarrow.parquet",
    "s3fs",
    "e2i.cache.compact",
    "e2i.cache.embed_audio",
    "e2i.cache.embed_text",
    "e2i.cache.finish",
    "e2i.cache.prune",
]


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


@dataclass(slots=True)
class Victim:
    """A program that is killed, and how often it was.

    Attributes:
        program: below the tests.
        environment: by which it finds its servers.
        started: a file that it makes once it begins.
        rng: of the instants.
        length_s: of an uninterrupted run.
        left: kills to go.
    """

    program: Path
    environment: Mapping[str, str]
    started: Path
    rng: random.Random
    left: int
    length_s: float = END_WITHIN_S

    def time(self, *arguments: str) -> None:
        """Let it come to its end once, to know how long it takes."""
        began = self._run(arguments, END_WITHIN_S)
        assert began is not None, "an uninterrupted run did not end"
        self.length_s = time.monotonic() - began

    def kill(self, *arguments: str) -> bool:
        """Start it, and kill it at some instant; whether it was still running."""
        wait_s = self.rng.uniform(0.0, self.length_s) if self.left else END_WITHIN_S
        killed = self._run(arguments, wait_s) is None
        self.left -= killed
        return killed

    def _run(self, arguments: Sequence[str], kill_after_s: float) -> float | None:
        """When it began; None if it was killed."""
        self.started.unlink(missing_ok=True)
        process = _FORKS.Process(
            target=be_program, args=(self.program, dict(self.environment), arguments)
        )
        process.start()
        try:
            limit = time.monotonic() + BEGIN_WITHIN_S
            while not self.started.exists() and process.is_alive():
                assert time.monotonic() < limit, f"{self.program.name} did not begin"
                time.sleep(0.001)
            began = time.monotonic()
            process.join(kill_after_s)
            if process.exitcode:
                raise SystemExit(f"{self.program.name} failed by itself")
            return None if process.exitcode is None else began
        finally:
            process.kill()
            process.join()


def be_program(program: Path, environment: Mapping[str, str], arguments: Sequence[str]) -> None:
    """Run a program in this process, as if it had been started."""
    os.environ.update(environment)
    sys.argv = [str(program), *arguments]
    runpy.run_path(str(program), run_name="__main__")


def rows_of(folder: Folder) -> CachedEmbeddings | None:
    try:
        return open_cache(folder).load()
    except (CacheIncompleteError, CacheNotFoundError):
        return None


def same(one: CachedEmbeddings, other: CachedEmbeddings) -> bool:
    ids = (one.clip_ids, one.caption_ids) == (other.clip_ids, other.caption_ids)
    return ids and np.array_equal(one.audio, other.audio) and np.array_equal(one.text, other.text)


def embed_drill(where: Place, root: Path, kills: int, rng: random.Random) -> str:
    """Runs of `cache-embeddings`, without Prefect."""
    data, log = root / "data", root / "log"
    data.mkdir()
    for number in range(CLIPS):
        (data / f"clip {number:02d}.wav").write_bytes(f"sound {number}".encode())
    program = CACHE_TESTS / "run_until_killed.py"
    victim = Victim(program, where.environment, Path(f"{log}.started"), rng, kills)
    victim.time(str(data), f"{where.url}/whole", str(log))
    expected = rows_of(where.folder("whole"))
    assert expected is not None
    again = 0
    for cache in itertools.count():
        log.unlink(missing_ok=True)
        killed = 0
        while victim.kill(str(data), f"{where.url}/cache {cache}", str(log)):
            killed += 1
        rows = rows_of(where.folder(f"cache {cache}"))
        assert rows is not None, "a run that ended left no whole cache"
        assert same(rows, expected), "other rows than an uninterrupted run's"
        times = Counter(log.read_bytes().splitlines())
        repeated = sum(times.values()) - len(times)
        assert repeated <= killed * IN_FLIGHT, f"{repeated} embedded again after {killed} kills"
        again += repeated
        if not victim.left:
            break
    return (
        f"{cache + 1} caches made; {again} embedded again, {kills * IN_FLIGHT} allowed; same rows"
    )


def compact_drill(where: Place, root: Path, kills: int, rng: random.Random) -> str:
    """Merging and pruning."""
    from cache_world import new_world  # noqa: PLC0415 - beside the tests

    program = CACHE_TESTS / "compact_until_killed.py"
    victim = Victim(program, where.environment, root / "started", rng, kills)

    def small_shards(name: str) -> tuple[Folder, CachedEmbeddings]:
        folder = where.folder(name)
        world = new_world(CLIPS, folder)
        world.build(1)
        world.drop(next(iter(world.texts)))
        world.build(1)
        rows = rows_of(folder)
        assert rows is not None
        return folder, rows

    small_shards("timed")
    victim.time(f"{where.url}/timed", str(victim.started), CHANGE_S)
    for cache in itertools.count():
        folder, expected = small_shards(f"small {cache}")
        going = True
        while going:
            going = victim.kill(f"{where.url}/small {cache}", str(victim.started), CHANGE_S)
            rows = rows_of(folder)
            assert rows is not None, "no whole cache"
            assert same(rows, expected), "other rows than before"
        report = verify_cache(folder)
        assert report.faults == (), report.faults
        assert len([f for f in folder.files() if f.name.endswith(".parquet")]) == report.shards
        if not victim.left:
            break
    return f"{cache + 1} caches merged and pruned; the same rows after each kill"


def mirror_drill(where: Place, root: Path, kills: int, rng: random.Random) -> str:
    """Sending a cache to the Hub."""
    from cache_world import new_world  # noqa: PLC0415 - beside the tests

    from hub_server import HubServer, Slow  # noqa: PLC0415

    world = new_world(CLIPS, where.folder("cache"))
    world.build(1)
    expected = rows_of(world.folder)
    assert expected is not None
    shards = {f.name for f in world.folder.files() if f.name.endswith(".parquet")}
    url, repo = f"{where.url}/cache", "me/sounds"
    program = TESTS / "e2i" / "hub" / "mirror_until_killed.py"
    victim = Victim(program, where.environment, root / "started", rng, kills)
    again = 0
    for number in itertools.count():
        with HubServer(root / f"hub {number}") as hub, hub.found_by_this_process():
            hub.fail("put", *[Slow(0.05)] * 100 * kills)
            hub.fail("commit", *[Slow(0.5)] * 100 * kills)
            victim.environment = {**where.environment, **hub.environment}
            if number == 0:
                victim.time(url, repo, str(victim.started))
                continue
            killed = 0
            while victim.kill(url, repo, str(victim.started)):
                killed += 1
            rows = rows_of(Folder(f"hf://datasets/{repo}"))
            assert rows is not None, "a mirror that ended left no whole cache"
            assert same(rows, expected), "other rows than the cache's"
            assert {n for n in hub.files(repo) if n.endswith(".parquet")} == shards
            repeated = len(hub.of("put")) - len(shards)
            assert repeated <= killed * UPLOADS, f"{repeated} sent again after {killed} kills"
            again += repeated
        if not victim.left:
            break
    return f"{number} data sets filled; {again} sent again, {kills * UPLOADS} allowed; same rows"


DRILLS = {"embed": embed_drill, "compact": compact_drill, "mirror": mirror_drill}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--where", default="disk,s3")
    parser.add_argument("--what", default="embed,compact,mirror")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    _FORKS.set_forkserver_preload(_IMPORTED)
    print(f"{'drill':<10}{'where':<7}{'kills':>6}  outcome")
    for kind in options.where.split(","):
        for what in options.what.split(","):
            rng = random.Random(f"{options.seed} {kind} {what}")
            with (
                tempfile.TemporaryDirectory(prefix="e2i-drill-") as name,
                place(kind, Path(name)) as where,
            ):
                started = time.monotonic()
                outcome = DRILLS[what](where, Path(name), options.kills, rng)
            print(f"{what:<10}{kind:<7}{options.kills:>6}  {outcome}", end="")
            print(f" ({time.monotonic() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
