"""The Prefect server with its records in PostgreSQL, by the setting that `make server` takes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployed import HELD, PIPELINE, SLOW, Worker, check_stored_once, small_pipeline, stored
from postgresql import PostgreSQL, find_programs
from prefect_server import PrefectServer, wait

from conftest import Start


@pytest.fixture
def database() -> Iterator[PostgreSQL]:
    programs = find_programs()
    if programs is None:
        pytest.skip("no PostgreSQL on this machine: `make postgresql` installs it")
    with PostgreSQL(programs) as database:
        yield database


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_a_killed_run_and_a_killed_server_on_postgresql(
    database: PostgreSQL, start: Start, tmp_path: Path
) -> None:
    home, store = tmp_path / "home", tmp_path / "store"
    server = PrefectServer(home)
    try:
        server.make("server", DATABASE_URL=database.url)
        server.make("deploy", STORE_URL=str(store), DEMO_STORE_URL=str(store))
        server.pause("e2i-reevaluate/nightly")
        worker = Worker(start, server, tmp_path, {})
        worker.embeds_at(SLOW)
        run = server.submit(PIPELINE, **small_pipeline(store))
        wait("embedding", lambda: len(stored(store)) >= 2)
        worker.embeds_at(HELD)
        os.kill(server.process_of(run), signal.SIGKILL)
        wait("the crash", lambda: server.state(run) == "CRASHED")
        before = stored(store)
        wait("the second attempt", lambda: server.state(run) == "RUNNING")
        worker.embeds_at(SLOW)
        wait("two more shards", lambda: len(stored(store)) >= len(before) + 2)
        os.kill(server.pid, signal.SIGKILL)
        server.make("server", DATABASE_URL=database.url)
        worker.embeds_at(0.0)
        wait("the end", lambda: server.state(run) == "COMPLETED")
        assert server.flow_run(run)["run_count"] == 2
        check_stored_once(store, before)
        query = f"select state_type, run_count from flow_run where id = '{run}'"
        assert database.ask(query).strip() == "COMPLETED|2"
        assert not list(home.glob("*.db")), "the records are in SQLite"
    finally:
        server.make("stop-server")
