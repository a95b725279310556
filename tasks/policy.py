"""When a task is tried again, and for how long it may run.

What can pass is tried again: a store that is away, a 5xx, a rate limit. What cannot, is not: bad
input, missing permission, a full disk. With back-off 1, 2, 4, … s and jitter, six retries ride out
a minute without the store. Results are not persisted: what counts lies in the store, and a run is
resumed by that.

A time-out ends a task between two lines of Python, never in native code, and what it had in hand is
lost. So it is there for what hangs for ever: stores and decoders have limits of their own, and a
chunk of hour-long recordings may take hours. Prefect says at each task run that it may not be able
to interrupt it, which is left out of the log.
"""

from __future__ import annotations

import logging
from typing import Any

from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import exponential_backoff

from e2i.errors import is_transient
from tasks.progress import progress_sink

RETRIES = 6
WHOLE_TIMEOUT_S = 24 * 3600


def _tells_something(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Timeout of %s seconds configured for this task, but")


logging.getLogger("prefect.task_runs").addFilter(_tells_something)


def may_pass(task: Any, task_run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001
    """Whether the error that a task run ended with can pass by itself."""
    error = state.data
    if not isinstance(error, BaseException) or not is_transient(error):
        return False
    progress_sink().note(f"{task_run.name}: {error} Trying again.")
    return True


TRIED_AGAIN: dict[str, Any] = {
    "retries": RETRIES,
    "retry_delay_seconds": exponential_backoff(backoff_factor=1),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": may_pass,
    "persist_result": False,
}
"""Options of every task that touches the store."""
