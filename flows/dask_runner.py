"""Prefect's task runner for dask, with two things added: it connects at once, and flushes.

Dask workers end without a word, so what they still have to tell the Prefect server, the states of
their task runs and their logs, is sent before they may.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Self

from prefect_dask.task_runners import DaskTaskRunner

from e2i.cores import usable_cores
from flows.event_flush import flush
from flows.runner_parameters import RunnerConfig

WORKERS_WAIT_S = 30.0
FLUSH_S = 20.0
THREADS_A_WORKER = 2
"""One chunk is encoded while the next one is read and decoded."""


class FlushingDaskRunner(DaskTaskRunner):
    """Dask, used from the first moment on and flushed at the end."""

    def __enter__(self) -> Self:
        """Start or find the cluster.

        Raises:
            OSError: it does not answer.
            TimeoutError: it has no worker.
        """
        super().__enter__()  # type: ignore[no-untyped-call, unused-ignore]
        try:
            self.client.wait_for_workers(1, timeout=WORKERS_WAIT_S)
        except BaseException:
            super().__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        """Have the workers tell what they know, then let go of them."""
        if not error or error[0] is None or issubclass(error[0], Exception):
            with contextlib.suppress(OSError, TimeoutError):  # a cluster that is gone has no word
                self.client.run(_flush_worker, on_error="ignore")
        super().__exit__(*error)


async def _flush_worker() -> None:
    """In a worker: send what it holds; not in the thread that serves its connections."""
    await asyncio.to_thread(flush, FLUSH_S)


def dask_runner(config: RunnerConfig) -> FlushingDaskRunner:
    """The runner for a running cluster, or for one of this machine that ends with it."""
    if config.task_runner_address:
        return FlushingDaskRunner(address=config.task_runner_address)
    return FlushingDaskRunner(
        cluster_kwargs={
            "n_workers": config.task_runner_workers or usable_cores(),
            "threads_per_worker": THREADS_A_WORKER,
            "host": "127.0.0.1",
            "dashboard_address": None,
            # What a chunk may take is --batch-size's business; a limit would kill the worker.
            "memory_limit": None,
        }
    )
