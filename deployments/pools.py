"""The work pools: `e2i-cpu` and `e2i-gpu`, made where they lack, brought up to date where not.

Conventions: `e2i-gpu` runs as many flow runs at a time as there are slots, one a GPU; `e2i-cpu` as
many as come. What somebody changed in a pool otherwise, in the UI for instance, stays; so does a
pool that was paused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectNotFound

PoolType = Literal["process", "docker", "kubernetes"]
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Pool:
    """A work pool as it should be.

    Attributes:
        name: its name.
        type: what its workers start: a process, a container, a Kubernetes job.
        description: for people.
        slots: flow runs at a time; None for any number.
        template: the base job template; None for that of the worker's package.
    """

    name: str
    type: PoolType
    description: str
    slots: int | None = None
    template: dict[str, Any] | None = None


def pools(pool_type: PoolType, gpu_slots: int) -> tuple[Pool, ...]:
    """The two work pools."""
    return (
        Pool(
            "e2i-cpu",
            pool_type,
            "Download, rendering, evaluation and report.",
            template=_template(pool_type, "cpu"),
        ),
        Pool(
            "e2i-gpu",
            pool_type,
            "Embedding and training: one run at a time a GPU.",
            slots=gpu_slots,
            template=_template(pool_type, "gpu"),
        ),
    )


def ensure(client: SyncPrefectClient, pool: Pool) -> str:
    """Make a work pool, or bring it up to date.

    Returns:
        What was done, for people.

    Raises:
        SystemExit: there is a pool of that name and another type, which cannot be changed.
    """
    template = {} if pool.template is None else {"base_job_template": pool.template}
    slots = f", {pool.slots} at a time" if pool.slots else ""
    try:
        existing = client.read_work_pool(pool.name)
    except ObjectNotFound:
        client.create_work_pool(
            WorkPoolCreate(
                name=pool.name,
                type=pool.type,
                description=pool.description,
                concurrency_limit=pool.slots,
                **template,
            )
        )
        return f"Work pool {pool.name} ({pool.type}{slots}) is made"
    if existing.type != pool.type:
        raise SystemExit(
            f"a work pool's type cannot be changed: got {pool.name} of type {existing.type}, "
            f"expected {pool.type}. Delete it first: `prefect work-pool delete {pool.name}`."
        )
    client.update_work_pool(
        pool.name,
        WorkPoolUpdate(description=pool.description, concurrency_limit=pool.slots, **template),
    )
    return f"Work pool {pool.name} ({pool.type}{slots}) is up to date"


def _template(pool_type: PoolType, kind: str) -> dict[str, Any] | None:
    """The base job template of a pool of containers."""
    if pool_type == "process":
        return None
    path = TEMPLATES / f"{pool_type}-{kind}.json"
    template: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return template
