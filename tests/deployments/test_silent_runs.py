"""Runs that were not heard of for too long are found crashed, others are let be."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.events import Event
from prefect.states import Completed, Running

from deployments import silent_runs
from deployments.automations import HEARTBEAT_WITHIN, SILENT
from deployments.silent_runs import crash_silent_runs
from tasks.settling import SETTLED, settle_crashed_runs

pytestmark = [
    pytest.mark.usefixtures("prefect_harness"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
LATER = HEARTBEAT_WITHIN + timedelta(seconds=60)


@flow(name="heard-of")
def heard_of() -> None: ...


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as connected:
        yield connected


def _running(client: SyncPrefectClient, *tags: str) -> FlowRun:
    return client.create_flow_run(heard_of, tags=tags, state=Running())


def _heartbeat(client: SyncPrefectClient, run: FlowRun, occurred: datetime) -> None:
    event = Event(
        event="prefect.flow-run.heartbeat",
        resource={"prefect.resource.id": f"prefect.flow-run.{run.id}"},
        occurred=occurred,
        id=uuid.uuid4(),
    )
    client.request("POST", "/events", json=[event.model_dump(mode="json")])


def _state(client: SyncPrefectClient, run: FlowRun) -> Any:
    return client.read_flow_run(run.id).state


def test_only_silent_runs_of_e2i_are_found_crashed(client: SyncPrefectClient) -> None:
    silent, others = _running(client, "e2i"), _running(client)
    ended = client.create_flow_run(heard_of, tags=["e2i"], state=Completed())
    now = datetime.now(UTC)
    assert silent.name not in crash_silent_runs(client, now)
    assert silent.name in crash_silent_runs(client, now + LATER)
    assert (_state(client, silent).type, _state(client, silent).message) == (
        StateType.CRASHED,
        SILENT,
    )
    assert _state(client, others).type is StateType.RUNNING
    assert _state(client, ended).type is StateType.COMPLETED


def test_a_run_is_as_silent_as_its_last_heartbeat_is_old(client: SyncPrefectClient) -> None:
    run = _running(client, "e2i")
    assert run.state is not None
    assert silent_runs._last_heard(client, run) == run.state.timestamp
    occurred = datetime.now(UTC)
    _heartbeat(client, run, occurred)
    for _ in range(600):  # the server writes events in the background
        if silent_runs._last_heard(client, run) == occurred:
            return
        time.sleep(0.1)
    pytest.fail("the heartbeat was not heard")


def test_task_runs_of_a_crashed_run_are_settled(client: SyncPrefectClient) -> None:
    from prefect import task

    @task(name="cut-off")
    def cut_off() -> None: ...

    run = _running(client, "e2i")
    row = client.create_task_run(cut_off, flow_run_id=run.id, dynamic_key="0", state=Running())
    done = client.create_task_run(cut_off, flow_run_id=run.id, dynamic_key="1", state=Completed())
    settle_crashed_runs(client)
    assert client.read_task_run(row.id).state_type is StateType.RUNNING
    crash_silent_runs(client, datetime.now(UTC) + LATER)
    assert settle_crashed_runs(client) >= 1
    settled = client.read_task_run(row.id).state
    assert settled is not None
    assert (settled.type, settled.message) == (StateType.CRASHED, SETTLED)
    assert client.read_task_run(done.id).state_type is StateType.COMPLETED
