"""The automation that tells somebody of a re-evaluation that dropped, drifted or failed.

Conventions: `E2I_NOTIFICATION_BLOCK` names a notification block of Prefect, `<type>/<name>` such as
`slack-webhook/team`, when `make deploy` is called. Without one the automation fires all the same,
so that it shows in the event feed, and tells nobody.

One run tells once: its event and its failed state are of one resource, and what happens to that
within `ONCE_WITHIN` of the first is not told again.
"""

from __future__ import annotations

import os
from datetime import timedelta

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import BlockDocument
from prefect.events.actions import DoNothing, SendNotification
from prefect.events.schemas.automations import (
    AutomationCore,
    EventTrigger,
    Posture,
    ResourceSpecification,
)
from prefect.exceptions import ObjectNotFound

BLOCK_VARIABLE = "E2I_NOTIFICATION_BLOCK"
ONCE_WITHIN = timedelta(minutes=10)
FLOW = "e2i-reevaluate"

_SUBJECT = "e2i: {{ flow_run.name }} needs somebody to look at it"
_BODY = """\
{% if event.payload.message %}{{ event.payload.message }}
{% if event.payload.record %}Record: {{ event.payload.record }}
{% endif %}{% else %}{{ flow_run.state.name }}: {{ flow_run.state.message }}
{% endif %}Flow run: {{ flow_run.id }}
"""


def tell_of_reevaluation(client: SyncPrefectClient) -> AutomationCore:
    """A re-evaluation that dropped, drifted, failed or crashed becomes a notification.

    Raises:
        SystemExit: the block that is to tell it is not there.
    """
    return AutomationCore(
        name="e2i: tell of a re-evaluation",
        description="What is published got worse, embeddings moved, or the run failed.",
        trigger=EventTrigger(
            expect={
                "e2i.reevaluation.*",
                "prefect.flow-run.Failed",
                "prefect.flow-run.Crashed",
                "prefect.flow-run.TimedOut",
            },
            match=ResourceSpecification.model_validate(
                {"prefect.resource.id": "prefect.flow-run.*"}
            ),
            match_related=ResourceSpecification.model_validate(
                {"prefect.resource.role": "flow", "prefect.resource.name": FLOW}
            ),
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
            within=ONCE_WITHIN,
        ),
        actions=[_action(client, os.environ.get(BLOCK_VARIABLE, ""))],
    )


def _action(client: SyncPrefectClient, block: str) -> SendNotification | DoNothing:
    """Sends by the block of this name; does nothing where none is named."""
    if not block:
        return DoNothing()
    kind, _, name = block.partition("/")
    document = _document(client, kind, name) if kind and name else None
    if document is None:
        raise SystemExit(
            f"{BLOCK_VARIABLE} names a block that is not there: got {block!r}, expected "
            "<type>/<name> such as slack-webhook/team. Make the block in the UI, or with its "
            "`save`."
        )
    return SendNotification(block_document_id=document.id, subject=_SUBJECT, body=_BODY)


def _document(client: SyncPrefectClient, kind: str, name: str) -> BlockDocument | None:
    try:
        return client.read_block_document_by_name(name=name, block_type_slug=kind)
    except ObjectNotFound:
        return None
