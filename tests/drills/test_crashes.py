"""Runs that lose their process or their worker: found crashed, run again, nothing made twice.

The automations are those that `make deploy` registers, with the delays that they have there.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployed import (
    CLIPS,
    HELD,
    IN_FLIGHT,
    PIPELINE,
    SLOW,
    Worker,
    check_stored_once,
    small_pipeline,
    stored,
)
from prefect_server import FINAL, PREFECT, PrefectServer, wait

AUTOMATION = "e2i: run a crashed run again"
LAST_WORD = "flow_runs.worker - Check whether the flow run exceeded its memory allocation"
"""What Prefect's worker prints once it has done all that it does about a killed process."""


def _count(prefect: PrefectServer, run: str, kind: str) -> int:
    return sum(state["type"] == kind for state in prefect.states(run))


def _scheduled(prefect: PrefectServer, run: str) -> list[str]:
    """Why the run was run again, attempt by attempt."""
    states = [state for state in prefect.states(run) if state["type"] == "SCHEDULED"]
    return [state["message"] for state in states if state["message"]]


def _says_how_to_go_on(prefect: PrefectServer, run: str) -> bool:
    words = f"`prefect flow-run retry {run}`, or Retry in the UI, goes on from there"
    return any(words in line for line in prefect.log(run, level=40))


def _hold_in_the_middle(prefect: PrefectServer, worker: Worker, run: str, store: Path) -> None:
    """Let an attempt embed two more chunks, and stop it in the next."""
    worker.embeds_at(SLOW)
    wait("the attempt", lambda: prefect.state(run) == "RUNNING")
    seen = len(stored(store))
    wait("two more shards", lambda: len(stored(store)) >= seen + 2)
    worker.embeds_at(HELD)


def _kill_process(prefect: PrefectServer, run: str) -> None:
    crashes = _count(prefect, run, "CRASHED")
    os.kill(prefect.process_of(run), signal.SIGKILL)
    wait("the crash", lambda: _count(prefect, run, "CRASHED") > crashes)


def test_two_pipelines_on_one_slot_outlive_a_killed_process_and_a_killed_worker(
    prefect: PrefectServer, worker: Worker, tmp_path: Path
) -> None:
    stores = [tmp_path / "first", tmp_path / "second"]
    first = prefect.submit(PIPELINE, **small_pipeline(stores[0]))
    _hold_in_the_middle(prefect, worker, first, stores[0])
    second = prefect.submit(PIPELINE, **small_pipeline(stores[1]))
    wait("the wait for a slot", lambda: _is_late(prefect, second))
    assert prefect.state(first) == "RUNNING"
    assert not prefect.at_work(second)

    _kill_process(prefect, first)
    before = [stored(stores[0])]
    _hold_in_the_middle(prefect, worker, second, stores[1])  # its turn has come
    doomed = wait("the worker", lambda: worker.process_of("e2i-gpu"))
    os.kill(doomed.pid, signal.SIGKILL)
    worker.embeds_at(SLOW)  # what is left of the run ends with the chunks in hand
    wait("the crash", lambda: _count(prefect, second, "CRASHED"))
    before.append(stored(stores[1]))
    worker.embeds_at(0.0)

    for run, store, kept in zip((first, second), stores, before, strict=True):
        wait("the end", lambda run=run: prefect.state(run) == "COMPLETED")
        check_stored_once(store, kept)
        assert set(_scheduled(prefect, run)) == {
            "The run crashed and is run again; it goes on from what is stored."
        }
        assert _says_how_to_go_on(prefect, run)
        assert {task["state_type"] for task in prefect.task_runs(run)} <= set(FINAL)
    # The same soundscapes in both stores.
    assert len(worker.embedded()) == CLIPS
    attempts = sum(len(prefect.at_work(run)) for run in (first, second))
    assert sum(worker.embedded().values()) <= 2 * CLIPS + (attempts - 2) * IN_FLIGHT
    assert "The worker for e2i-gpu has ended with -9; it is started again." in worker.log
    spans = sorted(span for run in (first, second) for span in prefect.at_work(run))
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def _is_late(prefect: PrefectServer, run: str) -> bool:
    return prefect.flow_run(run)["state_name"] in {"Late", "AwaitingConcurrencySlot"}


@pytest.fixture
def by_hand(prefect: PrefectServer) -> Iterator[None]:
    """Crashed runs are left to whoever runs them again."""
    prefect.call(PREFECT, "automation", "pause", AUTOMATION)
    yield
    prefect.call(PREFECT, "automation", "resume", AUTOMATION)


@pytest.mark.long
@pytest.mark.usefixtures("by_hand")
def test_a_killed_run_goes_on_from_the_ui_and_from_the_command_line(
    prefect: PrefectServer, worker: Worker, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    run = prefect.submit(PIPELINE, **small_pipeline(store))
    _hold_in_the_middle(prefect, worker, run, store)
    _kill_process(prefect, run)
    wait("the line in its log", lambda: _says_how_to_go_on(prefect, run))
    wait("the worker's last word", lambda: worker.log.count(LAST_WORD) == 1)
    # What a click on Retry sends.
    retry = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the UI"}
    answer = prefect.ask(f"/flow_runs/{run}/set_state", state=retry, force=False)
    assert answer["status"] == "ACCEPT", answer

    _hold_in_the_middle(prefect, worker, run, store)
    _kill_process(prefect, run)
    wait("the worker's last word", lambda: worker.log.count(LAST_WORD) == 2)
    before = stored(store)
    prefect.call(PREFECT, "flow-run", "retry", run)
    worker.embeds_at(0.0)
    wait("the end", lambda: prefect.state(run) == "COMPLETED")
    assert _scheduled(prefect, run) == ["Retry from the UI", "Retried via CLI"]
    assert prefect.flow_run(run)["run_count"] == 3
    check_stored_once(store, before)
    embedded = worker.embedded()
    assert len(embedded) == CLIPS
    assert sum(embedded.values()) <= CLIPS + 2 * IN_FLIGHT
