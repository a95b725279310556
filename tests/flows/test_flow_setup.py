"""What each flow does beside its work: its hooks, called as Prefect's workers call them."""

from __future__ import annotations

import asyncio
import logging
import uuid
from typing import Any

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.runner import _workspace_runtime_bootstrap as worker
from prefect.states import Crashed

from flows import flow_setup
from flows.full_pipeline import full_pipeline


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is logged for a flow run."""
    handler, logger = _Lines(), logging.Logger("run")
    logger.addHandler(handler)
    monkeypatch.setattr("prefect.logging.loggers.flow_run_logger", lambda *_: logger)
    monkeypatch.setattr(flow_setup, "flow_run_logger", lambda *_: logger)
    return handler.lines


def _run(deployment_id: uuid.UUID | None) -> FlowRun:
    return FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4(), deployment_id=deployment_id)


def test_a_worker_settles_a_crashed_run_and_says_how_to_go_on(
    logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settled: list[Any] = []
    monkeypatch.setattr(flow_setup, "settle_run", lambda client, run_id: settled.append(run_id))
    monkeypatch.setattr(flow_setup, "get_client", _Client)
    run = _run(uuid.uuid4())
    hooks = list(full_pipeline.on_crashed_hooks)
    asyncio.run(worker._run_hooks(hooks, run, full_pipeline, Crashed()))
    assert settled == [run.id]
    assert logged == [
        "The run ended as Crashed. What it stored stays, and nothing of that is made again: "
        f"`prefect flow-run retry {run.id}`, or Retry in the UI, goes on from there."
    ]


def test_a_command_says_that_the_same_command_goes_on(logged: list[str]) -> None:
    for hook in full_pipeline.on_failure_hooks:
        hook(full_pipeline, _run(None), Crashed())
    assert logged == [
        "The run ended as Crashed. What it stored stays, and nothing of that is made again: "
        "the same command goes on from there."
    ]


class _Client:
    def __init__(self, *, sync_client: bool) -> None:
        assert sync_client

    def __enter__(self) -> _Client:
        return self

    def __exit__(self, *_: object) -> None:
        """Close nothing."""
