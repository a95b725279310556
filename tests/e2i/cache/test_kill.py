"""SIGKILL at random instants, on the local disk."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
from run_until_killed import CHUNK_SIZE, main

from e2i.cache.reader import open_cache
from e2i.storage import Folder

RUN = Path(__file__).parent / "run_until_killed.py"
CLIPS = 32
KILLS = 3


def kill_once(data: Path, cache: Path, log: Path, delay_s: float) -> None:
    started = Path(f"{log}.started")
    started.unlink(missing_ok=True)
    process = subprocess.Popen([sys.executable, str(RUN), str(data), str(cache), str(log)])
    try:
        limit = time.monotonic() + 60
        while not started.exists() and time.monotonic() < limit:
            time.sleep(0.001)
        assert started.exists()
        time.sleep(delay_s)
    finally:
        process.kill()
        process.wait()


def test_a_killed_run_resumes_to_the_same_rows(tmp_path: Path) -> None:
    data, cache, log = tmp_path / "data", tmp_path / "cache", tmp_path / "log"
    data.mkdir()
    for number in range(CLIPS):
        (data / f"clip {number:02d}.wav").write_bytes(f"sound {number}".encode())
    rng = random.Random(7)
    for _ in range(KILLS):
        kill_once(data, cache, log, rng.uniform(0.02, 0.1))
    assert Folder(cache).info("manifest.json") is None
    assert log.read_bytes()
    main(str(data), str(cache), str(log))
    times = Counter(log.read_bytes().splitlines())
    assert len(times) == 3 * CLIPS
    assert sum(times.values()) - len(times) <= KILLS * CHUNK_SIZE * 2

    main(str(data), str(tmp_path / "whole"), str(tmp_path / "log of the whole"))
    resumed, whole = (open_cache(Folder(tmp_path / name)).load() for name in ("cache", "whole"))
    assert resumed.clip_ids == whole.clip_ids
    assert resumed.caption_ids == whole.caption_ids
    assert np.array_equal(resumed.audio, whole.audio)
    assert np.array_equal(resumed.text, whole.text)
    files = sorted(file.name for file in Folder(cache).files())
    assert files == sorted(file.name for file in Folder(tmp_path / "whole").files())
