"""Tasks that fetch Clotho.

They are not tried again by Prefect: the download itself waits and asks again, and an outage that
outlasts it is better told at once; the next run goes on where this one stopped.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prefect import task

from e2i.cache.reader import open_cache
from e2i.cache.restore import KeptCache, restore
from e2i.cache.statistics import CacheStatistics, cache_statistics
from e2i.datasets.disk_space import in_words
from e2i.datasets.download_config import DownloadConfig
from e2i.datasets.presence import splits_lacking
from e2i.hub.source import find_cache
from e2i.storage import Folder
from tasks.policy import TRIED_AGAIN, WHOLE_TIMEOUT_S
from tasks.progress import Stage, progress_sink

if TYPE_CHECKING:
    from e2i.datasets.download import DownloadCounts

_OPTIONS: dict[str, Any] = {
    "timeout_seconds": WHOLE_TIMEOUT_S,
    "persist_result": False,
}


@task(name="download-dataset", task_run_name="download-dataset", **_OPTIONS)
def download_dataset(data_root: str, config: DownloadConfig) -> dict[str, int]:
    """Fetch, check and unpack what a local data root lacks of Clotho; the counts."""
    return _download(data_root, config)


@task(name="find-lacking-splits", task_run_name="find-lacking-splits", **_OPTIONS | TRIED_AGAIN)
def find_lacking_splits(data_url: str, config: DownloadConfig) -> DownloadConfig | None:
    """What to download so that no split lacks captions or recordings; None if nothing does.

    Where nothing is missing, neither the network nor a local folder is needed.
    """
    lacking = splits_lacking(data_url, config)
    return config.model_copy(update={"splits": lacking}) if lacking else None


@task(name="find-embeddings", task_run_name="find-embeddings", **_OPTIONS)
def find_embeddings(repo_id: str, revision: str | None, subset: str, cache_dir: str) -> KeptCache:
    """The cache that is to be downloaded; not tried again, so that who is offline knows at once."""
    return find_cache(repo_id, revision, subset, cache_dir)


@task(name="download-embeddings", task_run_name="download-embeddings", **_OPTIONS | TRIED_AGAIN)
def fetch_embeddings(kept: KeptCache, cache_dir: str, *, force: bool) -> dict[str, int]:
    """Fetch what a cache folder lacks of it; the counts."""
    target = Folder(cache_dir)
    name = "download embeddings"
    with Stage(name, kept.num_files, "files") as stage:
        done = restore(
            kept, target, force=force, progress=lambda count: progress_sink().advance(name, count)
        )
        stage.outcome = (
            f"{done.fetched} files fetched ({in_words(done.fetched_bytes)}), "
            f"{done.reused} were there"
        )
    manifest = open_cache(target).manifest
    return {
        "clips": manifest.audio.stored,
        "captions": manifest.text.stored,
        "downloaded": done.fetched,
        "downloaded_before": done.reused,
        "downloaded_bytes": done.fetched_bytes,
    }


@task(name="embedding-statistics", task_run_name="embedding-statistics", **_OPTIONS | TRIED_AGAIN)
def embedding_statistics(cache_dir: str) -> CacheStatistics:
    """Figures about the embeddings of a cache."""
    return cache_statistics(open_cache(Folder(cache_dir)).load())


def _download(data_root: str, config: DownloadConfig) -> dict[str, int]:
    # Late: only who downloads needs to unpack, and that takes a while to import.
    from e2i.datasets.download import ClothoDownload  # noqa: PLC0415

    with ClothoDownload(data_root, config, note=progress_sink().note) as download:
        meter = _Meter("download", download.plan())
        with Stage(meter.stage, meter.total, meter.unit) as stage:
            download.fetch(meter.advance)
            counts = download.counts
            stage.outcome = (
                f"{counts.downloaded} files fetched ({in_words(counts.downloaded_bytes)}), "
                f"{counts.reused} were there"
            )
        meter = _Meter("unpack", download.plan_unpacking())
        with Stage(meter.stage, meter.total, meter.unit) as stage:
            download.unpack(meter.advance)
            counts = download.counts
            stage.outcome = (
                f"{counts.unpacked} recordings unpacked, {counts.unpacked_before} were there"
            )
    return _as_counts(counts)


def _as_counts(counts: DownloadCounts) -> dict[str, int]:
    return {
        "downloaded": counts.downloaded,
        "downloaded_before": counts.reused,
        "downloaded_bytes": counts.downloaded_bytes,
        "unpacked": counts.unpacked,
        "unpacked_before": counts.unpacked_before,
    }


@dataclass
class _Meter:
    """Bytes, counted for people: in whole MB, or in kB where there are few."""

    stage: str
    total_bytes: int
    _done_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def unit(self) -> str:
        return "MB" if self._unit_bytes == 1_000_000 else "kB"

    @property
    def total(self) -> int:
        return self.total_bytes // self._unit_bytes

    @property
    def _unit_bytes(self) -> int:
        return 1_000_000 if self.total_bytes >= 10_000_000 else 1000

    def advance(self, count: int) -> None:
        """Count bytes, from any thread, and tell the sink once they make a unit."""
        with self._lock:
            before = self._done_bytes // self._unit_bytes
            self._done_bytes += count
            change = self._done_bytes // self._unit_bytes - before
        if change:
            progress_sink().advance(self.stage, change)
