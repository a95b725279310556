"""Runs whose process is gone without a word are found crashed, also when the server was gone too.

Prefect's automation on missing heartbeats waits in the memory of its server: where that was killed
meanwhile, nothing would ever come of such a run. `make worker` looks for them as well, by the
heartbeats that the server has on record.

Conventions: silence counts only while the server could be heard: a run that could not reach it is
given time to be heard of again.
"""

from __future__ import annotations

import sys
import threading
import time
from datetime import UTC, datetime
from typing import Any

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Crashed

from deployments.automations import HEARTBEAT_WITHIN, SILENT
from tasks.settling import RUN_TAG

EVERY_S = 60.0
HEARD_FOR_S = 150.0
"""How long the server has to have answered before silence means something: five heartbeats."""


def silent_runs(client: SyncPrefectClient, now: datetime) -> list[FlowRun]:
    """The runs that should be running and have not been heard of for too long."""
    running = FlowRunFilter(
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING])),
        tags=FlowRunFilterTags(all_=[RUN_TAG]),
    )
    return [
        run
        for run in client.read_flow_runs(flow_run_filter=running)
        if now - _last_heard(client, run) > HEARTBEAT_WITHIN
    ]


def crash_silent_runs(client: SyncPrefectClient, now: datetime) -> list[str]:
    """Mark silent runs as crashed; their names."""
    found = silent_runs(client, now)
    for run in found:
        client.set_flow_run_state(run.id, Crashed(message=SILENT))
    return [run.name for run in found]


def _last_heard(client: SyncPrefectClient, run: FlowRun) -> datetime:
    """When a run's last heartbeat came, or else when it began."""
    wanted: dict[str, Any] = {
        "event": {"name": ["prefect.flow-run.heartbeat"]},
        "resource": {"id": [f"prefect.flow-run.{run.id}"]},
        "order": "DESC",
    }
    answer = client.request("POST", "/events/filter", json={"filter": wanted, "limit": 1})
    times = [datetime.fromisoformat(event["occurred"]) for event in answer.json()["events"]]
    if run.state is not None:
        times.append(run.state.timestamp)
    return max(times)


class Lookout(threading.Thread):
    """Looks for silent runs each minute, for as long as the process lives."""

    def __init__(self) -> None:
        super().__init__(daemon=True, name="e2i-lookout")

    def run(self) -> None:
        """Look, wait, look again; a server that is away is no error here."""
        heard_since: float | None = None
        while True:
            try:
                with get_client(sync_client=True) as client:
                    client.hello()
                    heard_since = heard_since or time.monotonic()
                    if time.monotonic() - heard_since > HEARD_FOR_S:
                        for name in crash_silent_runs(client, datetime.now(UTC)):
                            sys.stderr.write(f"{name}: {SILENT}\n")
            except (httpx.HTTPError, PrefectHTTPStatusError):
                heard_since = None
            time.sleep(EVERY_S)
