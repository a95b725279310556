"""The decorator of e2i's flows: Prefect's own, and what each of them does beside its work.

Before a run begins, it takes the credentials that its environment lacks from Prefect blocks, and
settles what an attempt before it left "Running". The process that a worker started for it ends when
the server is gone for good. Where a run fails or crashes, its log says how to go on from what is
stored.

A flow that is called as the plain function (`.fn`) does none of this.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

from prefect import Flow, runtime
from prefect import flow as prefect_flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.logging import get_run_logger
from prefect.logging.loggers import flow_run_logger
from prefect.settings import get_current_settings

from e2i import __version__
from flows.server_watch import ServerWatch
from tasks.credentials import take_credentials
from tasks.settling import settle_crashed_runs, settle_run

P = ParamSpec("P")
R = TypeVar("R")


def flow(**options: Any) -> Callable[[Callable[P, R]], Flow[P, R]]:
    """Make a flow of a function; takes what `prefect.flow` takes."""

    def decorate(function: Callable[P, R]) -> Flow[P, R]:
        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            _prepare()
            return function(*args, **kwargs)

        # Prefect resolves annotations where the function that it is given stands, which is here.
        run.__signature__ = inspect.signature(function, eval_str=True)  # type: ignore[attr-defined]
        run.__annotations__ = inspect.get_annotations(function, eval_str=True)
        hooks: dict[str, Any] = {
            "on_failure": [say_how_to_resume],
            "on_crashed": [settle, say_how_to_resume],
            "version": __version__,
        }
        made: Flow[P, R] = prefect_flow(**(hooks | options))(run)
        return made

    return decorate


def _prepare() -> None:
    """What a run needs before it begins; nothing where this is no run."""
    run_id = runtime.flow_run.get_id()
    if run_id is None:
        return
    api_url = get_current_settings().api.url
    if api_url and "PREFECT__FLOW_RUN_ID" in os.environ:  # a worker started this process
        ServerWatch(api_url).start()
    with get_client(sync_client=True) as client:
        taken = take_credentials(client)
        settled = settle_crashed_runs(client)
        if (runtime.flow_run.get_run_count() or 0) > 1:
            settled += settle_run(client, UUID(run_id))
    if taken:
        get_run_logger().info("From Prefect blocks: %s", ", ".join(taken))
    if settled:
        get_run_logger().info("%d task runs of a process that is gone were settled.", settled)


def settle(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:  # noqa: ARG001
    """Hook: no task run of a crashed run stays "Running".

    Prefect's workers give a hook its arguments by these names.
    """
    with get_client(sync_client=True) as client:
        settle_run(client, flow_run.id)


def say_how_to_resume(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Hook: say in the run's log what stays and how to go on."""
    if flow_run.deployment_id:
        again = f"`prefect flow-run retry {flow_run.id}`, or Retry in the UI, goes on from there"
    else:
        again = "the same command goes on from there"
    flow_run_logger(flow_run, flow).error(
        "The run ended as %s. What it stored stays, and nothing of that is made again: %s.",
        state.name,
        again,
    )
