"""Each deployment of prefect.yaml: its flow takes its parameters, its form says what they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.utilities.callables import parameter_schema

from deployments.registered import CHECKOUT, Declared, declared_in, parameter_faults
from flows.command_options import _LOCATIONS
from flows.commands import COMMANDS
from flows.server_watch import CLIENT_SETTINGS

PATH = CHECKOUT / "prefect.yaml"
STORE = "s3://bucket/e2i"
VARIABLES = {"{{ $E2I_STORE_URL }}": STORE, "{{ $E2I_DEMO_STORE_URL }}": f"{STORE}/demo"}


def _content() -> dict[str, Any]:
    text = PATH.read_text(encoding="utf-8")
    for name, value in VARIABLES.items():
        text = text.replace(name, value)
    return dict(yaml.safe_load(text))


CONTENT = _content()
BY_NAME = {one["name"]: one for one in CONTENT["deployments"]}
DECLARED = {one.name: one for one in declared_in(PATH)}


def test_no_two_deployments_do_the_same() -> None:
    told = ("name", "description", "tags")
    content = [
        json.dumps({key: value for key, value in one.items() if key not in told}, sort_keys=True)
        for one in CONTENT["deployments"]
    ]
    assert len(set(content)) == len(content) == len(BY_NAME)


@pytest.mark.parametrize("name", BY_NAME)
def test_the_flow_takes_every_parameter(name: str) -> None:
    assert list(parameter_faults(DECLARED[name].flow(), BY_NAME[name]["parameters"])) == []


def test_a_parameter_that_the_flow_refuses_is_found() -> None:
    flow = DECLARED["demo"].flow()
    given = BY_NAME["demo"]["parameters"]
    (fault,) = parameter_faults(flow, {**given, "training": {"epochs": 0}})
    assert "epochs" in fault
    assert list(parameter_faults(flow, {**given, "epoch": 1})) == ["the flow takes no epoch"]
    images = DECLARED["cache-images"].flow()
    assert list(parameter_faults(images, {})) == ["it lacks cache_dir"]


def _locations(values: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(values, dict):
        return
    for name, value in values.items():
        if name in _LOCATIONS and not isinstance(value, dict):
            for one in value if isinstance(value, list | tuple) else [value]:
                if one:
                    yield name, str(one)
        else:
            yield from _locations(value)


@pytest.mark.parametrize("name", BY_NAME)
def test_no_location_depends_on_where_a_worker_runs(name: str) -> None:
    flow = DECLARED[name].flow()
    given = BY_NAME[name]["parameters"]
    called = flow.validate_parameters(
        {
            parameter: given.get(parameter, schema.get("default"))
            for parameter, schema in parameter_schema(flow).properties.items()
        }
    )
    plain = {
        key: value.model_dump(mode="json") if hasattr(value, "model_dump") else value
        for key, value in called.items()
    }
    found = dict(_locations(plain))
    assert found
    assert {one for one in found.values() if not one.startswith(STORE)} == set()


def test_every_command_that_runs_a_flow_has_a_deployment() -> None:
    wanted = {
        command.runs.replace(".", "/").replace(":", ".py:")
        for command in COMMANDS.values()
        if command.needs_prefect
    }
    assert wanted - {one.entrypoint for one in DECLARED.values()} == set()


@pytest.mark.parametrize("name", BY_NAME)
def test_the_form_describes_every_field(name: str) -> None:
    schema = parameter_schema(DECLARED[name].flow()).model_dump()
    parts = [schema, *schema["definitions"].values()]
    fields = [(key, field) for part in parts for key, field in part.get("properties", {}).items()]
    assert fields
    assert [key for key, field in fields if not field.get("title", key)] == []
    # A group of fields has the description of its own model.
    bare = [key for key, field in fields if not (field.get("description") or "$ref" in field)]
    assert bare == []
    assert all(part.get("description") for part in schema["definitions"].values())


@pytest.mark.parametrize("name", BY_NAME)
def test_runs_wait_for_a_server_that_is_away_and_are_found_by_the_automations(name: str) -> None:
    one = BY_NAME[name]
    assert one["work_pool"]["job_variables"]["env"] == CLIENT_SETTINGS
    assert one["work_pool"]["name"] in {"e2i-cpu", "e2i-gpu"}
    assert "e2i" in one["tags"]


def test_two_pipelines_do_not_share_a_gpu() -> None:
    limit = BY_NAME["full-pipeline"]["concurrency_limit"]
    assert limit == {"limit": 1, "collision_strategy": "ENQUEUE"}


def test_no_token_can_be_given_to_a_deployment() -> None:
    """What is given to a run is stored with it."""
    text = json.dumps(parameter_schema(DECLARED["cache-embeddings"].flow()).model_dump())
    token = json.loads(text)["definitions"]["HubOptions"]["properties"]["hf_token"]
    assert token["type"] == "null"


def test_a_file_is_found_from_any_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Declared("demo", "flows/full_pipeline.py:full_pipeline", "e2i-cpu").flow().name == "e2i"
