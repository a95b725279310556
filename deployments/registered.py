"""Whether what a server holds is what was to be deployed: `prefect deploy` does not look.

It succeeds where a flow could not be loaded, so that its form has lost its fields, and where a
parameter cannot pass the flow's validation; and a work pool can be deleted under its deployments.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound, ParameterTypeError
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from pydantic import ValidationError

CHECKOUT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Declared:
    """A deployment as a file declares it.

    Attributes:
        name: its own name, without the flow's.
        entrypoint: `file:function`.
        pool: the work pool.
    """

    name: str
    entrypoint: str
    pool: str

    def flow(self) -> Flow[Any, Any]:
        """The flow that it runs."""
        return _loaded(self.entrypoint)


@functools.cache
def _loaded(entrypoint: str) -> Flow[Any, Any]:
    return load_flow_from_entrypoint(str(CHECKOUT / entrypoint), use_placeholder_flow=False)


def declared_in(path: Path) -> list[Declared]:
    """The deployments of a file like prefect.yaml."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [
        Declared(one["name"], one["entrypoint"], one["work_pool"]["name"])
        for one in content["deployments"]
    ]


def faults_of(client: SyncPrefectClient, declared: Sequence[Declared]) -> list[str]:
    """All that is wrong with deployments on the server; empty if nothing is."""
    return [fault for one in declared for fault in _faults(client, one)]


def _faults(client: SyncPrefectClient, declared: Declared) -> Iterator[str]:
    flow = declared.flow()
    name = f"{flow.name}/{declared.name}"
    try:
        deployment = client.read_deployment_by_name(name)
    except ObjectNotFound:
        yield f"{name} is not on the server"
        return
    if deployment.work_pool_name != declared.pool:
        yield f"{name} is in the work pool {deployment.work_pool_name}, not in {declared.pool}"
    try:
        client.read_work_pool(declared.pool)
    except ObjectNotFound:
        yield f"{name} is in the work pool {declared.pool}, which is not there"
    yield from (f"{name}: {fault}" for fault in schema_faults(flow, deployment))


def schema_faults(flow: Flow[Any, Any], deployment: DeploymentResponse) -> Iterator[str]:
    """What the form of a deployment lacks, and which of its parameters the flow refuses."""
    held = deployment.parameter_openapi_schema or {}
    wanted = parameter_schema(flow).model_dump()
    for part in ("properties", "definitions"):
        lost = sorted(set(wanted[part]) - set(held.get(part) or {}))
        if lost:
            yield f"its form has lost the {part} {', '.join(lost)}"
    yield from parameter_faults(flow, deployment.parameters or {})


def parameter_faults(flow: Flow[Any, Any], parameters: Mapping[str, Any]) -> Iterator[str]:
    """Which parameters the flow refuses."""
    known = parameter_schema(flow)
    unknown = sorted(set(parameters) - set(known.properties))
    if unknown:
        yield f"the flow takes no {', '.join(unknown)}"
    lacking = sorted(set(known.required or ()) - set(parameters))
    if lacking:
        yield f"it lacks {', '.join(lacking)}"
    if unknown or lacking:
        return
    try:
        flow.validate_parameters(dict(parameters))
    except (ParameterTypeError, ValidationError) as error:
        yield f"the flow refuses its parameters: {error}"
