"""Task runs that a dead process left "Running" are settled.

Prefect learns of a task's end from the process that ran it. Where that was killed, the rows of the
tasks in flight would stay as they were for ever.
"""

from __future__ import annotations

from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.states import Crashed

RUN_TAG = "e2i"
"""Every deployment of prefect.yaml has it, and so has every run of one."""

SETTLED = "The process that ran it is gone; what it had stored stays."
PAGE = 200

_IN_FLIGHT = TaskRunFilter(
    state=TaskRunFilterState(
        type=TaskRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING])
    )
)


def settle_run(client: SyncPrefectClient, flow_run_id: UUID) -> int:
    """Mark the task runs as crashed that one flow run left in flight; how many they were."""
    return _settle(client, FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id])))


def settle_crashed_runs(client: SyncPrefectClient) -> int:
    """The same for all runs of e2i's deployments that have crashed."""
    crashed = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.CRASHED]))
    return _settle(client, FlowRunFilter(state=crashed, tags=FlowRunFilterTags(all_=[RUN_TAG])))


def _settle(client: SyncPrefectClient, flow_runs: FlowRunFilter) -> int:
    settled: set[UUID] = set()
    while True:
        rows = client.read_task_runs(
            flow_run_filter=flow_runs, task_run_filter=_IN_FLIGHT, limit=PAGE
        )
        fresh = {row.id for row in rows} - settled
        if not fresh:
            return len(settled)
        for row_id in fresh:
            client.set_task_run_state(row_id, Crashed(message=SETTLED), force=True)
        settled |= fresh
