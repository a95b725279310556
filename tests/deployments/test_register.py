"""Pools, deployments and automations on a server: made once, brought up to date, looked at."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolUpdate

from deployments.automations import MAX_ATTEMPTS, REGISTRY, register
from deployments.pools import Pool, ensure
from deployments.register import DEPLOYMENTS, IMAGE_CHECKOUT, check_stores, for_containers
from deployments.registered import Declared, faults_of, schema_faults

pytestmark = [
    pytest.mark.usefixtures("prefect_harness"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as connected:
        yield connected


def test_a_pool_is_made_once_and_brought_up_to_date(client: SyncPrefectClient) -> None:
    pool = Pool("tried-gpu", "process", "For a test.", slots=1)
    assert ensure(client, pool) == "Work pool tried-gpu (process, 1 at a time) is made"
    client.update_work_pool("tried-gpu", WorkPoolUpdate(is_paused=True))
    more = Pool("tried-gpu", "process", "For a test.", slots=2)
    assert ensure(client, more) == "Work pool tried-gpu (process, 2 at a time) is up to date"
    held = client.read_work_pool("tried-gpu")
    assert (held.concurrency_limit, held.is_paused) == (2, True)
    with pytest.raises(SystemExit, match="got tried-gpu of type process, expected docker"):
        ensure(client, Pool("tried-gpu", "docker", "For a test.", template={}))


def _named(client: SyncPrefectClient, prefix: str) -> list[Any]:
    return [one for one in client.read_automations() if one.name.startswith(prefix)]


def test_automations_are_updated_and_not_doubled(client: SyncPrefectClient) -> None:
    wanted = [build(client) for build in REGISTRY]
    assert len({one.name for one in wanted}) == len(wanted)
    assert [register(client, one)[-7:] for one in wanted] == ["is made"] * len(wanted)
    first = _named(client, "e2i: ")
    client.pause_automation(first[0].id)
    client.create_automation(wanted[1])  # doubled by somebody else
    assert all("is up to date" in register(client, one) for one in wanted)
    again = _named(client, "e2i: ")
    assert sorted(one.name for one in again) == sorted(one.name for one in wanted)
    assert [one.name for one in again if not one.enabled] == [first[0].name]


def test_a_crashed_run_is_run_again_a_bounded_number_of_times(client: SyncPrefectClient) -> None:
    rerun = next(one for one in (b(client) for b in REGISTRY) if "run again" in one.name)
    counts = rerun.trigger.model_dump()["match"]["prefect.run-count"]
    assert counts == [str(count) for count in range(1, MAX_ATTEMPTS)]


def test_what_is_missing_on_the_server_is_named(client: SyncPrefectClient) -> None:
    declared = Declared("nowhere", "flows/downloading.py:download_embeddings", "e2i-cpu")
    assert faults_of(client, [declared]) == ["e2i-download-embeddings/nowhere is not on the server"]


def test_a_form_that_lost_its_fields_is_found() -> None:
    real = Declared("x", "flows/caching.py:cache_images", "p").flow()

    @flow(name="emptied")
    def emptied(cache_dir: str) -> None: ...

    held: Any = SimpleNamespace(
        parameter_openapi_schema={"properties": {"cache_dir": {}}, "definitions": {}},
        parameters={"cache_dir": "/x"},
    )
    faults = list(schema_faults(real, held))
    assert any(fault.startswith("its form has lost the properties hub, images") for fault in faults)
    assert any("definitions HubOptions, ImagesConfig" in fault for fault in faults)
    assert list(schema_faults(emptied, held)) == []


def test_containers_go_to_where_the_image_keeps_the_checkout() -> None:
    content = yaml.safe_load(DEPLOYMENTS.read_text(encoding="utf-8"))
    (step,) = for_containers(content)["pull"]
    assert step == {
        "prefect.deployments.steps.set_working_directory": {"directory": IMAGE_CHECKOUT}
    }
    image = (DEPLOYMENTS.parent / "deployments" / "Dockerfile").read_text(encoding="utf-8")
    assert f"WORKDIR {IMAGE_CHECKOUT}\n" in image


def test_a_store_that_workers_would_not_find_is_refused() -> None:
    check_stores("docker", {"E2I_STORE_URL": "s3://a", "E2I_DEMO_STORE_URL": "s3://b"})
    check_stores("process", {"E2I_STORE_URL": "s3://a", "E2I_DEMO_STORE_URL": "/x"})
    with pytest.raises(SystemExit, match=r"got E2I_DEMO_STORE_URL='/x', .* Set DEMO_STORE_URL\."):
        check_stores("docker", {"E2I_STORE_URL": "s3://a", "E2I_DEMO_STORE_URL": "/x"})
    with pytest.raises(SystemExit, match=r"got E2I_STORE_URL='', expected an absolute path or a U"):
        check_stores("process", {})
