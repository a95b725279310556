"""Embedding and rendering on a cluster: the cache that the threads of one process make."""

from __future__ import annotations

import json
import re
import signal
import socket
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recordings import write_data_set

from conftest import PROGRAM, Start
from e2i.cache.reader import open_cache
from e2i.storage import Folder
from plain_program import e2i, plain_program

DASK = str(Path(sys.executable).with_name("dask"))
HERE = Path(__file__).parent
CLIPS, CHUNK = 24, 3
LIMIT_S = 500.0


def _words(metadata: Path, cache: Path) -> tuple[str, ...]:
    return (
        *("cache-embeddings", "--metadata", str(metadata), "--cache-dir", str(cache)),
        *("--audio-encoder", "logmel", "--text-encoder", "hashing", "--chunk-size", str(CHUNK)),
        *("--with-images", "--image-size", "native", "--json"),
    )


@pytest.fixture(scope="module")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data_set(tmp_path_factory.mktemp("recordings"), CLIPS)


@pytest.fixture(scope="module")
def by_threads(metadata: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("threads") / "cache"
    with plain_program():
        said = e2i(*_words(metadata, cache))
    assert said.code == 0, said.err
    return cache


def _finish(process: Any) -> tuple[dict[str, Any], str]:
    out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert "Warning" not in err
    return json.loads(out), err


def _assert_same(cache: Path, expected: Path, summary: dict[str, Any]) -> None:
    counts = summary["counts"]
    assert (counts["clips"], counts["captions"], counts["failed"]) == (CLIPS, 5 * CLIPS, 0)
    assert counts["embedded"] + counts["reused"] == CLIPS
    assert counts["images_rendered"] == 6 * CLIPS
    one, other = (open_cache(Folder(folder)).load() for folder in (cache, expected))
    assert one.clip_ids == other.clip_ids
    assert one.caption_ids == other.caption_ids
    assert one.captions == other.captions
    for side in ("audio", "text"):
        got, wanted = getattr(one, side), getattr(other, side)
        off = np.linalg.norm(got - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
        assert off.max() <= 1e-5
    names = [
        {path.relative_to(folder) for path in folder.rglob("*.p*")} for folder in (cache, expected)
    ]
    assert names[0] == names[1], "shards or pseudo-images by other names"


def _states(home: Path, flow_run_id: str) -> dict[str, int]:
    """How many task runs of a flow run ended how, as the server has stored it."""
    with sqlite3.connect(home / "prefect.db") as database:
        rows = database.execute(
            "select state_type, count(*) from task_run where flow_run_id = ? group by 1",
            (flow_run_id,),
        ).fetchall()
    return {str(state): int(count) for state, count in rows}


def _check(cache: Path, expected: Path, summary: dict[str, Any], err: str) -> None:
    _assert_same(cache, expected, summary)
    assert re.search(r"\d+ clips and \d+ captions embedded", err)


def test_ray(metadata: Path, by_threads: Path, start: Start, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    process = start(
        *(PROGRAM, *_words(metadata, cache)),
        *("--task-runner", "ray", "--task-runner-workers", "2"),
    )
    summary, err = _finish(process)
    _check(cache, by_threads, summary, err)
    states = _states(tmp_path / "prefect", summary["flow_run_id"])
    assert set(states) == {"COMPLETED"}, "each process tells what it did before it ends"
    assert states["COMPLETED"] >= 2 * CLIPS // CHUNK


def test_dask_with_a_worker_that_is_killed(
    metadata: Path, by_threads: Path, start: Start, tmp_path: Path
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    address = f"tcp://127.0.0.1:{port}"
    listen = ("--host", "127.0.0.1", "--no-dashboard")
    start(DASK, "scheduler", *listen, "--port", port, log=tmp_path / "scheduler.log")
    workers = [
        start(
            *(DASK, "worker", address, *listen, "--no-nanny", "--nthreads", "2"),
            *("--preload", str(HERE / "slow_encoder.py")),
            log=tmp_path / f"worker-{number}.log",
        )
        for number in range(2)
    ]
    cache = tmp_path / "cache"
    run = start(
        *(PROGRAM, *_words(metadata, cache)),
        *("--task-runner", "dask", "--task-runner-address", address),
    )
    _wait_for_shard(cache / "audio", run)
    workers[0].send_signal(signal.SIGKILL)
    summary, err = _finish(run)
    _check(cache, by_threads, summary, err)
    # What the dead worker had no time to tell may stand as running.
    states = _states(tmp_path / "prefect", summary["flow_run_id"])
    assert set(states) <= {"COMPLETED", "RUNNING"}
    assert states["COMPLETED"] >= CLIPS // CHUNK
    assert workers[1].poll() is None, "a cluster that was running goes on"


def _wait_for_shard(folder: Path, run: Any) -> None:
    limit = time.monotonic() + LIMIT_S
    while time.monotonic() < limit and run.poll() is None:
        if any(folder.glob("shard-*.parquet")):
            return
        time.sleep(0.02)
    pytest.fail(f"no chunk was embedded: {run.communicate()}")
