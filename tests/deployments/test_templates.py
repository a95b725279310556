"""The base job templates of Docker and Kubernetes, against what the workers' packages say."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from docker.types import HostConfig
from kubernetes_asyncio import client as kubernetes
from prefect.workers.base import BaseWorker
from prefect_docker.worker import DockerWorker
from prefect_kubernetes.worker import KubernetesWorker

from deployments.pools import TEMPLATES, pools

# Prefect asks a server for blocks and variables that a template may name.
pytestmark = [
    pytest.mark.usefixtures("prefect_harness"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

WORKERS: dict[str, type[BaseWorker[Any, Any, Any]]] = {
    "docker": DockerWorker,
    "kubernetes": KubernetesWorker,
}
ALL = [(pool_type, kind) for pool_type in WORKERS for kind in ("cpu", "gpu")]
FIXED_HERE = {"container_create_kwargs"}
"""Variables of the packages' own templates that ours set instead."""


def _template(pool_type: str, kind: str) -> dict[str, Any]:
    path = TEMPLATES / f"{pool_type}-{kind}.json"
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _configured(pool_type: str, kind: str, **values: Any) -> Any:
    """What the worker makes of the template, as it does before it starts a run."""
    configuration = WORKERS[pool_type].job_configuration
    return asyncio.run(
        configuration.from_template_and_values(_template(pool_type, kind), dict(values))
    )


@pytest.mark.parametrize(("pool_type", "kind"), ALL)
def test_a_template_has_what_the_package_has(pool_type: str, kind: str) -> None:
    own = WORKERS[pool_type].get_default_base_job_template()
    ours = _template(pool_type, kind)
    assert set(own["job_configuration"]) == set(ours["job_configuration"])
    variables = ours["variables"]["properties"]
    assert set(own["variables"]["properties"]) - set(variables) <= FIXED_HERE
    for name, schema in own["variables"]["properties"].items():
        if name not in FIXED_HERE:
            changed = {key for key in schema if schema[key] != variables[name].get(key)}
            assert changed <= {"default", "description"}, name
    assert all(schema.get("description") for schema in variables.values())


@pytest.mark.parametrize(("pool_type", "kind"), ALL)
def test_every_variable_is_used_and_every_placeholder_is_a_variable(
    pool_type: str, kind: str
) -> None:
    template = _template(pool_type, kind)
    text = json.dumps(template["job_configuration"])
    used = {part.split("}}")[0].strip() for part in text.split("{{")[1:]}
    assert used == set(template["variables"]["properties"])


def test_a_container_gets_its_gpus_and_shared_memory() -> None:
    made = _configured("docker", "gpu", gpu_count=2).container_create_kwargs
    host = HostConfig(version="1.44", **made)
    assert host["DeviceRequests"] == [
        {"Driver": "", "Count": 2, "DeviceIDs": [], "Capabilities": [["gpu"]], "Options": {}}
    ]
    assert host["ShmSize"] == 8 * 1024**3
    cpu = HostConfig(version="1.44", **_configured("docker", "cpu").container_create_kwargs)
    assert "DeviceRequests" not in cpu


def test_a_pod_gets_its_gpus_shared_memory_and_secrets_by_reference() -> None:
    pod = _configured("kubernetes", "gpu", gpu_count=2).job_manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert container["envFrom"] == [{"secretRef": {"name": "e2i-credentials", "optional": True}}]
    (volume,), (mount,) = pod["volumes"], container["volumeMounts"]
    assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": "8Gi"}
    assert (volume["name"], mount["mountPath"]) == (mount["name"], "/dev/shm")
    cpu = _configured("kubernetes", "cpu").job_manifest["spec"]["template"]["spec"]
    assert "nvidia.com/gpu" not in json.dumps(cpu)


def _unknown(value: Any, kind: str, where: str = "job") -> list[str]:
    """Names in a manifest that the Kubernetes API does not have."""
    for opening, inner in (("list[", value), ("dict(str, ", value)):
        if kind.startswith(opening):
            items = inner if isinstance(inner, list) else inner.values()
            of = kind.removeprefix(opening)[:-1]
            return [name for item in items for name in _unknown(item, of, where)]
    model = getattr(kubernetes, kind, None)
    if model is None or not isinstance(value, dict):
        return []
    known = {api: attribute for attribute, api in model.attribute_map.items()}
    found = [f"{where}.{key}" for key in value if key not in known]
    for key in value.keys() & known.keys():
        found += _unknown(value[key], model.openapi_types[known[key]], f"{where}.{key}")
    return found


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_a_job_has_no_name_that_kubernetes_does_not_know(kind: str) -> None:
    manifest = _configured("kubernetes", kind).job_manifest
    assert _unknown(manifest, "V1Job") == []
    manifest["spec"]["template"]["spec"]["completions"] = 1
    assert _unknown(manifest, "V1Job") == ["job.spec.template.spec.completions"]


@pytest.mark.parametrize("pool_type", ["process", "docker", "kubernetes"])
def test_the_gpu_pool_alone_has_slots(pool_type: Any) -> None:
    cpu, gpu = pools(pool_type, 3)
    assert (cpu.name, cpu.slots, gpu.name, gpu.slots) == ("e2i-cpu", None, "e2i-gpu", 3)
    assert (gpu.template is None) == (pool_type == "process")
