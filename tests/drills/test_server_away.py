"""Runs whose Prefect server is away for a while, and for good."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from deployed import PIPELINE, SLOW, Worker, check_stored_once, small_pipeline, stored
from prefect_server import PrefectServer, wait

from e2i.storage import Folder
from e2i.store_layout import StoreLayout

GONE_LIMIT_S = 600.0


@pytest.fixture(autouse=True)
def back(prefect: PrefectServer, worker: Worker) -> Iterator[None]:
    """The server is there again before the worker's fixture ends."""
    yield
    prefect.make("server")


def _lose(prefect: PrefectServer) -> None:
    os.kill(prefect.pid, signal.SIGKILL)


def _embedding(prefect: PrefectServer, worker: Worker, store: Path, seconds_a_clip: float) -> str:
    """A full pipeline that is in the middle of embedding; its id."""
    worker.embeds_at(SLOW)
    run = prefect.submit(PIPELINE, **small_pipeline(store))
    wait("embedding", lambda: len(stored(store)) >= 2)
    worker.embeds_at(seconds_a_clip)
    return run


@pytest.mark.parametrize(
    ("away_s", "seconds_a_clip"),
    [(20.0, 0.5), pytest.param(180.0, 4.0, marks=pytest.mark.long)],
    ids=["20 s", "3 minutes"],
)
def test_a_run_outlives_a_server_that_comes_back(
    prefect: PrefectServer, worker: Worker, tmp_path: Path, away_s: float, seconds_a_clip: float
) -> None:
    store = tmp_path / "store"
    run = _embedding(prefect, worker, store, seconds_a_clip)
    _lose(prefect)
    before = stored(store)
    time.sleep(away_s)
    assert len(stored(store)) > len(before), "it went on without the server"
    prefect.make("server")
    worker.embeds_at(0.0)
    wait("the end", lambda: prefect.state(run) == "COMPLETED", 600)
    assert prefect.flow_run(run)["run_count"] == 1
    assert set(worker.embedded().values()) == {1}
    check_stored_once(store, before)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_run_ends_by_itself_when_its_server_is_gone_for_good(
    prefect: PrefectServer, worker: Worker, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    run = _embedding(prefect, worker, store, SLOW)
    process = psutil.Process(prefect.process_of(run))
    _lose(prefect)
    lost = time.monotonic()
    worker.embeds_at(0.0)
    wait("the end of the process", lambda: not process.is_running(), GONE_LIMIT_S)
    assert time.monotonic() - lost > 60
    words = (
        f"e2i: the Prefect server is gone: got no answer from {prefect.api} for 480 s, expected "
        "one. Start it again, then run the same again: it goes on from what is stored."
    )
    assert words in worker.log
    check_stored_once(store, {})
    embedded, layout = worker.embedded(), StoreLayout(str(store))
    for split in ("development", "validation", "evaluation"):
        assert Folder(layout.cache_url(split)).exists("manifest.json")
    prefect.make("server")
    wait("the crash", lambda: prefect.state(run) != "RUNNING", 900)
    wait("the end", lambda: prefect.state(run) == "COMPLETED", 600)
    assert worker.embedded() == embedded, "something was embedded again"
