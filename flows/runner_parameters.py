"""Where the chunks of a run are embedded and rendered: in this process, or on more machines."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Literal, Self

from pydantic import Field, model_validator

from e2i.configuration import Configuration
from e2i.errors import ConfigError
from e2i.store_layout import public_url

TaskRunnerName = Literal["threads", "dask", "ray"]


class RunnerConfig(Configuration):
    """What runs the tasks that embed and render."""

    task_runner: TaskRunnerName = Field(
        "threads",
        description="What runs the chunks of embedding and rendering: threads of this process, or "
        "the processes of a dask or ray cluster. Never changes what is stored.",
    )
    task_runner_address: str = Field(
        "",
        max_length=500,
        description="dask, ray: address of a running cluster, as tcp://10.0.0.1:8786 or "
        "ray://10.0.0.1:10001; its machines need e2i, the store, and the Prefect server. Default: "
        "a cluster of this machine that ends with the run.",
    )
    task_runner_workers: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="dask, ray: processes of the cluster of this machine. Default: one a core.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.task_runner == "threads" and (
            self.task_runner_address or self.task_runner_workers is not None
        ):
            raise ValueError(
                "threads have neither an address nor workers of their own: got "
                f"task_runner_address {self.task_runner_address!r} and task_runner_workers "
                f"{self.task_runner_workers}, expected neither. Choose --task-runner dask or ray."
            )
        if self.task_runner_address and self.task_runner_workers is not None:
            raise ValueError(
                "a running cluster has its workers already: got task_runner_workers "
                f"{self.task_runner_workers} beside an address, expected one of the two. Leave "
                "--task-runner-workers out."
            )
        return self


def check_runner(config: RunnerConfig, locations: Iterable[str]) -> None:
    """Refuse a task runner that cannot be had, or locations that its processes would not share.

    Args:
        config: which runner.
        locations: all that the run reads and writes.

    Raises:
        ConfigError: its package is missing, or a location lies in the memory of one process.
    """
    name = config.task_runner
    if name == "threads":
        return
    if any(importlib.util.find_spec(module) is None for module in (f"prefect_{name}", name)):
        raise ConfigError(
            f"the package of the task runner is missing: got --task-runner {name}, expected "
            f"prefect-{name} installed. Run `pip install 'e2i[{name}]'`."
        )
    for location in locations:
        if location.lower().startswith("memory:"):
            raise ConfigError(
                f"processes do not share their memory: got {public_url(location)} with "
                f"--task-runner {name}, expected a store that all of them reach. Give a folder or "
                "an s3:// URL."
            )
