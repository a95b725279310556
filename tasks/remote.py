"""Task runs in other processes: whether they are, what they came to, and how they are called off.

Decides: a worker that dies costs its chunk, which the cluster gives to another one; a chunk that
cannot be run at all is a failure like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar, cast

from prefect.context import FlowRunContext
from prefect.futures import PrefectConcurrentFuture, PrefectFuture, PrefectWrappedFuture
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.utilities.annotations import quote

R = TypeVar("R")


def runs_elsewhere() -> bool:
    """Whether the task runs that are submitted now go to other processes."""
    context = FlowRunContext.get()
    return context is not None and not isinstance(context.task_runner, ThreadPoolTaskRunner)


def unvisited(parameter: R) -> R:
    """A task's parameter that Prefect does not search for futures, item by item."""
    return cast("R", quote(parameter))


def submitted(parameter: R) -> R:
    """The same for a task that is submitted; to other processes, quotes would go as tuples."""
    return parameter if runs_elsewhere() else unvisited(parameter)


def outcome_of(future: PrefectFuture[R]) -> R | BaseException:
    """What a task run came to: its result, or the error that it, or its worker, ended with."""
    try:
        return future.result(raise_on_failure=False)
    except Exception as error:
        return error


def cancel(futures: Sequence[PrefectFuture[R]]) -> None:
    """Call off what other processes have not begun; threads of this one are told otherwise."""
    for future in futures:
        if isinstance(future, PrefectConcurrentFuture) or not isinstance(
            future, PrefectWrappedFuture
        ):
            continue
        wrapped = future.wrapped_future
        if hasattr(wrapped, "cancel"):
            wrapped.cancel()
        else:
            import ray  # noqa: PLC0415 - it is theirs, so it is there

            ray.cancel(wrapped)
