"""Whose processes run the chunks of a flow run: threads of this one, or those of a cluster.

Prefect's own task runners do the work; a flow's is fixed where it is defined, so here the one that
its parameters ask for takes its place for a while. What crosses to another process are a chunk, the
configuration of the encoders, locations, and Prefect's settings; encoders are loaded there, once a
process. The parameters of the flow, which may hold a token, stay.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from prefect.context import FlowRunContext

from e2i.errors import RunFailedError
from flows.runner_parameters import RunnerConfig, check_runner

if TYPE_CHECKING:
    from prefect.task_runners import TaskRunner


@contextlib.contextmanager
def chunk_runner(config: RunnerConfig, *locations: str) -> Iterator[None]:
    """Tasks that are submitted in this block go to the runner asked for.

    Args:
        config: which.
        locations: all that the run reads and writes.

    Raises:
        ConfigError: the runner cannot be had, or a location lies in the memory of one process.
        RunFailedError: its cluster does not answer.
    """
    check_runner(config, locations)
    context = FlowRunContext.get()
    if config.task_runner == "threads" or context is None:
        yield
        return
    with _started(config) as runner:
        changes = {"task_runner": runner, "parameters": {}}
        with context.model_copy(update=changes):
            yield


@contextlib.contextmanager
def _started(config: RunnerConfig) -> Iterator[TaskRunner[Any]]:
    runner = _runner(config)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(runner)
        except (OSError, RuntimeError) as error:
            where = config.task_runner_address or "this machine"
            raise RunFailedError(
                f"the {config.task_runner} cluster cannot be used: got {error} at {where}, "
                "expected a cluster with at least one worker. Start it and its workers, or leave "
                "--task-runner-address out."
            ) from error
        yield runner


def _runner(config: RunnerConfig) -> TaskRunner[Any]:
    if config.task_runner == "dask":
        from flows.dask_runner import dask_runner

        return dask_runner(config)
    from flows.ray_runner import ray_runner

    return ray_runner(config)
