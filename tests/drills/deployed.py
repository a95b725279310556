"""What the drills of deployments share: a worker whose encoder is counted, and small pipelines."""

from __future__ import annotations

import contextlib
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
from counted_encoder import environment_for
from prefect_server import ROOT, PrefectServer

Start = Callable[..., "subprocess.Popen[str]"]

PIPELINE = "e2i/full-pipeline"
CHUNK = 5
IN_FLIGHT = 2 * CHUNK
"""Clips of the chunks that two threads are at."""

SLOW, HELD = 0.3, 1e6
"""Seconds a clip: so that a run can be watched; so that it stands still until it is told."""

DEVELOPMENT, OTHERS = 60, 12
CLIPS = DEVELOPMENT + 2 * OTHERS


class Worker:
    """`make worker`, started in a folder that has nothing to do with the checkout."""

    def __init__(
        self, start: Start, server: PrefectServer, folder: Path, environment: Mapping[str, str]
    ) -> None:
        self.log_path = folder / "worker.log"
        self._embedded = folder / "embedded.log"
        self._pace = folder / "pace"
        self.embeds_at(0.0)
        self._process: subprocess.Popen[str] = start(
            *("make", "-C", str(ROOT), "worker", f"PREFECT_PORT={server.port}"),
            environment={
                **server.environment,
                **environment,
                **environment_for(self._embedded, self._pace),
            },
            cwd=folder,
            log=self.log_path,
        )

    def embeds_at(self, seconds_a_clip: float) -> None:
        """How long the encoder of its runs takes, from the next recordings on."""
        fresh = self._pace.with_suffix(".new")
        fresh.write_text(str(seconds_a_clip))
        fresh.replace(self._pace)

    def embedded(self) -> Counter[str]:
        """How often each recording was embedded."""
        return Counter(self._embedded.read_text().split()) if self._embedded.exists() else Counter()

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def process_of(self, pool: str) -> psutil.Process | None:
        """Prefect's own worker for a pool, once there is one."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self._process.pid).children(recursive=True):
                words = child.cmdline()
                if {"worker", "start", pool} <= set(words) and "python" in words[0]:
                    return child
        return None


def small_pipeline(store: Path, **others: Any) -> dict[str, Any]:
    """Parameters of a full pipeline whose embedding is what takes time."""
    sizes = {"num_development": DEVELOPMENT, "num_validation": OTHERS, "num_evaluation": OTHERS}
    return {
        "store_url": str(store),
        "dataset": "soundscapes",
        "soundscapes": sizes,
        "encoders": {"audio_encoder": "logmel", "text_encoder": "hashing"},
        "images": {"image_size": "native"},
        "cache": {"chunk_size": CHUNK},
        "training": {"epochs": 1},
        **others,
    }


def stored(store: Path, split: str = "development") -> dict[str, int]:
    """The audio shards of a split: name to time of writing."""
    folder = store / "embeddings" / split / "audio"
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*.parquet")}


def rows(store: Path, split: str = "development") -> list[str]:
    """The clips in them, one a row."""
    folder = store / "embeddings" / split / "audio"
    tables = [pq.read_table(folder / name, columns=["clip_id"]) for name in stored(store, split)]
    return [clip for table in tables for clip in table.column("clip_id").to_pylist()]


def check_stored_once(store: Path, before: Mapping[str, int]) -> None:
    """Every clip is there, once, and what was stored before is what it was."""
    after = stored(store)
    assert {name: after.get(name) for name in before} == dict(before)
    clips = rows(store)
    assert (len(clips), len(set(clips))) == (DEVELOPMENT, DEVELOPMENT)
    for split in ("validation", "evaluation"):
        assert len(rows(store, split)) == OTHERS
