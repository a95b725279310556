"""The automation of re-evaluations: what it listens to, and by which block it tells."""

from __future__ import annotations

import uuid
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prefect.events.schemas.automations import AutomationCore, EventTrigger
from prefect.exceptions import ObjectNotFound

from deployments.automations import REGISTRY
from deployments.notification import BLOCK_VARIABLE, tell_of_reevaluation
from flows.reevaluating import reevaluate

BLOCK_ID = uuid.uuid4()


class _Client:
    """Knows one block."""

    def read_block_document_by_name(self, *, name: str, block_type_slug: str) -> Any:
        if (block_type_slug, name) == ("slack-webhook", "team"):
            return SimpleNamespace(id=BLOCK_ID)
        assert block_type_slug
        assert name, "the server is asked for no block without a name"
        raise ObjectNotFound(http_exc=httpx.HTTPError("404"))


def built() -> AutomationCore:
    return tell_of_reevaluation(_Client())  # type: ignore[arg-type]


def test_it_listens_to_the_runs_of_the_flow_alone_and_tells_once_a_run() -> None:
    assert tell_of_reevaluation in REGISTRY
    trigger = built().trigger
    assert isinstance(trigger, EventTrigger)
    related = trigger.match_related
    assert not isinstance(related, list)
    assert related.root["prefect.resource.name"] == reevaluate.name
    assert {"e2i.reevaluation.*", "prefect.flow-run.Failed"} <= trigger.expect
    assert trigger.for_each == {"prefect.resource.id"}


def test_without_a_block_it_fires_and_tells_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(BLOCK_VARIABLE, raising=False)
    assert [action.type for action in built().actions] == ["do-nothing"]


def test_it_tells_by_the_block_named_and_refuses_one_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(BLOCK_VARIABLE, "slack-webhook/team")
    (action,) = built().actions
    assert action.type == "send-notification"
    assert action.block_document_id == BLOCK_ID
    monkeypatch.setenv(BLOCK_VARIABLE, "slack-webhook/other")
    with pytest.raises(SystemExit, match="names a block that is not there: got 'slack-webhook/oth"):
        built()
    monkeypatch.setenv(BLOCK_VARIABLE, "team")
    with pytest.raises(
        SystemExit, match="names a block that is not there: got 'team', expected <ty"
    ):
        built()
