"""`cache-embeddings` killed, resumed, run twice at once, and left by its store.

It ends with the rows of one uninterrupted run.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from recordings import write_data_set

from conftest import Start
from e2i.cache.embeddings import CachedEmbeddings
from e2i.cache.reader import open_cache
from e2i.storage import Folder
from s3_server import S3Server

COUNTED = str(Path(__file__).with_name("counted_program.py"))
NUM_CLIPS = 120
CHUNK = 6
IN_FLIGHT = 2 * CHUNK
SECONDS_A_CLIP = 0.08
AWAY_S = 30.0
"""How long the store is gone; tasks try again for about a minute."""
KILLS = 5


class Bench:
    """One data set, embedded again and again into caches of a store."""

    def __init__(self, start: Start, root: Path, environment: Mapping[str, str]) -> None:
        self.metadata = write_data_set(root / "data", NUM_CLIPS)
        self.log = root / "embedded.log"
        self._start = start
        self._environment = environment

    def begin(self, cache_url: str, seconds_a_clip: float) -> subprocess.Popen[str]:
        return self._start(
            *(sys.executable, COUNTED, str(self.log), str(seconds_a_clip), "cache-embeddings"),
            *("--metadata", str(self.metadata), "--cache-dir", cache_url),
            *("--audio-encoder", "logmel", "--text-encoder", "hashing"),
            *("--chunk-size", str(CHUNK), "--json"),
            environment=self._environment,
        )

    def embedded(self) -> Counter[str]:
        return Counter(self.log.read_text().split()) if self.log.exists() else Counter()


@pytest.fixture(params=["disk", "s3"])
def bench_and_store(
    request: pytest.FixtureRequest, start: Start, tmp_path: Path
) -> tuple[Bench, str, dict[str, object] | None]:
    if request.param == "disk":
        return Bench(start, tmp_path, {}), str(tmp_path / "store"), None
    server: S3Server = request.getfixturevalue("s3_server")
    url = f"{server.url}/kill-{tmp_path.name}-{random.randrange(10**9)}"
    return Bench(start, tmp_path, server.environment), url, server.storage_options


def _finish(process: subprocess.Popen[str]) -> dict[str, object]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    summary: dict[str, object] = json.loads(out)
    return summary


def _load(url: str, options: dict[str, object] | None) -> CachedEmbeddings:
    return open_cache(Folder(url, options)).load()


def _same_rows(one: CachedEmbeddings, other: CachedEmbeddings) -> None:
    assert one.clip_ids == other.clip_ids
    assert one.caption_ids == other.caption_ids
    assert one.captions == other.captions
    np.testing.assert_array_equal(one.caption_clip, other.caption_clip)
    np.testing.assert_allclose(one.audio, other.audio, rtol=0, atol=1e-6)
    np.testing.assert_allclose(one.text, other.text, rtol=0, atol=1e-6)


def _wait_for_rows(process: subprocess.Popen[str], bench: Bench, more_than: int) -> None:
    """Wait until the encoder has been called in this run; the kill comes a moment later."""
    deadline = time.monotonic() + 300
    while sum(bench.embedded().values()) <= more_than:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_killed_five_times_and_resumed(
    bench_and_store: tuple[Bench, str, dict[str, object] | None],
) -> None:
    bench, store, options = bench_and_store
    whole = _finish(bench.begin(f"{store}/whole", 0.0))
    assert whole["counts"]["embedded"] == NUM_CLIPS  # type: ignore[index]
    bench.log.unlink()
    rng = random.Random(20)
    for _ in range(KILLS):
        process = bench.begin(f"{store}/killed", SECONDS_A_CLIP)
        _wait_for_rows(process, bench, sum(bench.embedded().values()))
        time.sleep(rng.uniform(0.0, 1.2))
        assert process.poll() is None
        process.kill()
        process.communicate()
    _finish(bench.begin(f"{store}/killed", 0.0))
    _same_rows(_load(f"{store}/killed", options), _load(f"{store}/whole", options))
    counts = bench.embedded()
    assert len(counts) == NUM_CLIPS
    assert sum(counts.values()) <= NUM_CLIPS + KILLS * IN_FLIGHT
    again = _finish(bench.begin(f"{store}/killed", 0.0))
    assert again["counts"]["embedded"] == 0  # type: ignore[index]
    assert bench.embedded() == counts


def test_two_processes_at_once(
    bench_and_store: tuple[Bench, str, dict[str, object] | None],
) -> None:
    bench, store, options = bench_and_store
    _finish(bench.begin(f"{store}/alone", 0.0))
    bench.log.unlink()
    both = [bench.begin(f"{store}/shared", SECONDS_A_CLIP) for _ in range(2)]
    for process in both:
        _finish(process)
    _same_rows(_load(f"{store}/shared", options), _load(f"{store}/alone", options))
    counts = bench.embedded()
    assert len(counts) == NUM_CLIPS
    assert sum(counts.values()) <= NUM_CLIPS + 2 * IN_FLIGHT
    assert not Folder(f"{store}/shared", options).files("claims")


@pytest.mark.parametrize(
    ("signal_number", "send", "code"),
    [(2, os.killpg, 130), (15, os.kill, 143)],
)
def test_a_signal_stores_the_chunk_in_hand(
    start: Start, tmp_path: Path, signal_number: int, send: Callable[[int, int], None], code: int
) -> None:
    """A terminal sends Ctrl-C to all processes of the program, a supervisor its signal to some."""
    bench = Bench(start, tmp_path, {})
    cache = str(tmp_path / "cache")
    process = bench.begin(cache, SECONDS_A_CLIP)
    _wait_for_rows(process, bench, 0)
    send(process.pid, signal_number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert out == ""
    assert "Traceback" not in err
    assert "goes on from there" in err
    embedded = sum(bench.embedded().values())
    assert 0 < embedded < NUM_CLIPS
    summary = _finish(bench.begin(cache, 0.0))
    assert summary["counts"]["reused"] == embedded  # type: ignore[index]
    assert summary["counts"]["embedded"] == NUM_CLIPS - embedded  # type: ignore[index]


def test_a_store_that_is_away_for_half_a_minute(
    start: Start, tmp_path: Path, mortal_s3_server: S3Server
) -> None:
    server = mortal_s3_server
    bench = Bench(start, tmp_path, server.environment)
    cache = f"{server.url}/away"
    process = bench.begin(cache, SECONDS_A_CLIP)
    _wait_for_rows(process, bench, 2 * CHUNK)
    server.kill()
    before = sum(bench.embedded().values())
    time.sleep(AWAY_S)
    assert process.poll() is None, process.communicate()
    server.start()
    assert _finish(process)["counts"]["failed"] == 0  # type: ignore[index]
    rows = _load(cache, server.storage_options)
    assert (len(rows.clip_ids), len(bench.embedded())) == (NUM_CLIPS, NUM_CLIPS)
    assert before < NUM_CLIPS
