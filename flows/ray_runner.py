"""Prefect's task runner for ray, in modest bounds on one machine, and flushed after each chunk.

Ray ends its processes as it likes, so each task tells the Prefect server its states and its log
before it is over.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from prefect_ray import RayTaskRunner

from e2i.cores import usable_cores
from flows.event_flush import flush
from flows.runner_parameters import RunnerConfig

FLUSH_S = 20.0
OBJECT_STORE_BYTES = 100 * 2**20
"""What travels are counts and configurations; ray takes no less than 75 MiB."""


class FlushingRayRunner(RayTaskRunner):  # type: ignore[misc]
    """Ray, of which each task tells what it knows before it ends."""

    @staticmethod
    def _run_prefect_task(*arguments: Any, **options: Any) -> Any:
        try:
            return RayTaskRunner._run_prefect_task(*arguments, **options)
        finally:
            flush(FLUSH_S)


def ray_runner(config: RunnerConfig) -> FlushingRayRunner:
    """The runner for a running cluster, or for one of this machine that ends with it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # ray reports to its makers otherwise
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = config.task_runner_address
    if address == "auto":
        return FlushingRayRunner(init_kwargs={**quiet, "address": address})
    if address:
        return FlushingRayRunner(address=address, init_kwargs=quiet)
    return FlushingRayRunner(
        init_kwargs={
            **quiet,
            "num_cpus": config.task_runner_workers or usable_cores(),
            "object_store_memory": OBJECT_STORE_BYTES,
            "include_dashboard": False,
            "_node_ip_address": "127.0.0.1",
        }
    )
