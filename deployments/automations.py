"""The automations of e2i on a Prefect server, as code: `python -m deployments.automations`.

Conventions: an automation is known by its name, which begins with `e2i: `. One that is there is
updated and not doubled, and stays paused if somebody paused it. What is built here depends on
nothing that a server gives out, or asks the client for it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta

from prefect.automations import ChangeFlowRunState
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.events.schemas.automations import (
    AutomationCore,
    EventTrigger,
    Posture,
    ResourceSpecification,
)

from deployments.notification import tell_of_reevaluation
from tasks.settling import RUN_TAG

MAX_ATTEMPTS = 4
"""Of one flow run: the first, and as many more as a crashed run is run again by itself."""

RERUN_AFTER = timedelta(seconds=60)
"""How long a crashed run is left alone before it is run again.

A worker loads the flow for the hooks of a run whose process was killed, and reports the crash once
more when they are through: some 40 s later on a machine with five processes a core, and then the
attempt that has begun meanwhile is ended.
"""

HEARTBEAT_WITHIN = timedelta(minutes=6)
"""How long a run may be silent before it is taken for gone.

A server that is away for 3 minutes, and heartbeats that reach it late, are no reason.
"""

SILENT = (
    "Nothing was heard of the run's process for "
    f"{HEARTBEAT_WITHIN.total_seconds():.0f} s: it is gone, or its machine is."
)

Builder = Callable[[SyncPrefectClient], AutomationCore]

_OF_E2I = ResourceSpecification.model_validate(
    {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{RUN_TAG}"}
)


def run_crashed_again(client: SyncPrefectClient) -> AutomationCore:  # noqa: ARG001
    """A crashed run goes back to its work pool, as the same run with the same parameters.

    Its count of attempts stands in the event, which bounds them. A run that crashed before it began
    (count 0) does not count up, so that one is left alone: its infrastructure is at fault. A run is
    run again after a while in which nothing else became of it: its worker reports the end of a
    process a second time, late, and would take the new attempt for the old one.
    """
    attempts = [str(count) for count in range(1, MAX_ATTEMPTS)]
    return AutomationCore(
        name="e2i: run a crashed run again",
        description=f"At most {MAX_ATTEMPTS - 1} times; what is stored is not made again.",
        trigger=EventTrigger(
            after={"prefect.flow-run.Crashed"},
            expect={
                f"prefect.flow-run.{event}"
                for event in ("AwaitingRetry", "Scheduled", "Pending", "Running", "Cancelled")
            },
            match=ResourceSpecification.model_validate(
                {"prefect.resource.id": "prefect.flow-run.*", "prefect.run-count": attempts}
            ),
            match_related=_OF_E2I,
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=RERUN_AFTER,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.SCHEDULED,
                name="AwaitingRetry",
                message="The run crashed and is run again; it goes on from what is stored.",
            )
        ],
    )


def find_silent_runs(client: SyncPrefectClient) -> AutomationCore:  # noqa: ARG001
    """A run whose machine is gone is found crashed: no heartbeat comes, and no end came."""
    return AutomationCore(
        name="e2i: a silent run has crashed",
        description="No heartbeat came from a run that has not ended: its machine is gone.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={
                f"prefect.flow-run.{event}"
                for event in ("heartbeat", "Completed", "Failed", "Cancelled", "Crashed")
            },
            match=ResourceSpecification.model_validate(
                {"prefect.resource.id": "prefect.flow-run.*"}
            ),
            match_related=_OF_E2I,
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=HEARTBEAT_WITHIN,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=SILENT,
            )
        ],
    )


REGISTRY: tuple[Builder, ...] = (run_crashed_again, find_silent_runs, tell_of_reevaluation)
"""All automations that `make deploy` keeps on the server."""


def register(client: SyncPrefectClient, automation: AutomationCore) -> str:
    """Create an automation, or bring the one of its name up to date.

    Returns:
        What was done, for people.
    """
    # Whole, or the client leaves out of an update what has its default, kinds of triggers included.
    whole = AutomationCore.model_validate(
        automation.model_dump(mode="json", exclude={"owner_resource"})
    )
    existing = client.read_automations_by_name(automation.name)
    if not existing:
        client.create_automation(whole)
        return f"Automation {automation.name!r} is made"
    first, *doubles = existing
    for double in doubles:
        client.delete_automation(double.id)
    enabled = all(one.enabled for one in existing)
    client.update_automation(first.id, whole.model_copy(update={"enabled": enabled}))
    return f"Automation {automation.name!r} is up to date"


def main() -> None:
    """Register all automations on the server that Prefect's settings name."""
    with get_client(sync_client=True) as client:
        for build in REGISTRY:
            sys.stdout.write(register(client, build(client)) + "\n")


if __name__ == "__main__":
    main()
