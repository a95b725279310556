"""Which task runner may be had, and what it must not be given."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from prefect.context import FlowRunContext
from pydantic import ValidationError

from e2i.errors import ConfigError, RunFailedError
from flows import task_runners
from flows.parameters import CacheEmbeddingsParameters, CacheImagesParameters
from flows.preflight import check_call
from flows.runner_parameters import RunnerConfig, check_runner
from flows.task_runners import chunk_runner

RAY = RunnerConfig(task_runner="ray")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"task_runner_address": "tcp://h:1"}, "threads have neither an address nor workers"),
        ({"task_runner_workers": 2}, "Choose --task-runner dask or ray."),
        (
            {"task_runner": "dask", "task_runner_address": "tcp://h:1", "task_runner_workers": 2},
            "a running cluster has its workers already: got task_runner_workers 2 beside",
        ),
        ({"task_runner": "slurm"}, "Input should be 'threads', 'dask' or 'ray'"),
        ({"task_runner": "dask", "task_runner_workers": 0}, "greater than or equal to 1"),
    ],
)
def test_options_that_do_not_fit_together(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError) as refused:
        RunnerConfig.model_validate(options)
    assert words in str(refused.value)


def test_a_location_in_memory_is_refused_before_anything_starts() -> None:
    parameters = CacheImagesParameters(cache_dir="memory://caches/a", runner=RAY)
    with pytest.raises(ConfigError) as refused:
        check_call(parameters)
    assert str(refused.value) == (
        "processes do not share their memory: got memory://caches/a with --task-runner ray, "
        "expected a store that all of them reach. Give a folder or an s3:// URL."
    )
    with pytest.raises(ConfigError, match="got memory://b"), chunk_runner(RAY, "/a", "memory://b"):
        pytest.fail("the block was entered")


def test_a_location_inside_another_parameter_is_looked_at_too() -> None:
    fields = {"source": {"metadata": "memory://data/sounds.csv"}, "runner": RAY}
    with pytest.raises(ConfigError, match="memory://data/sounds"):
        check_call(CacheEmbeddingsParameters.model_validate(fields))


def test_threads_take_any_location() -> None:
    check_runner(RunnerConfig(), ["memory://a"])
    with chunk_runner(RunnerConfig(), "memory://a"):
        pass


@pytest.mark.parametrize("name", ["dask", "ray"])
def test_a_package_that_is_missing_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(ConfigError) as refused:
        check_runner(RunnerConfig.model_validate({"task_runner": name}), [])
    assert str(refused.value) == (
        f"the package of the task runner is missing: got --task-runner {name}, expected "
        f"prefect-{name} installed. Run `pip install 'e2i[{name}]'`."
    )


@pytest.mark.parametrize("address", ["tcp://10.0.0.1:8786", "ray://[fd00::1]:10001", "host:6379"])
def test_workers_elsewhere_need_a_server_that_they_reach(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.preflight.read_setup", lambda *_: _Setup(None))
    runner = RunnerConfig(task_runner="ray", task_runner_address=address)
    parameters = CacheImagesParameters(cache_dir=str(tmp_path), runner=runner)
    with pytest.raises(ConfigError, match="cannot report to a server of this machine alone"):
        check_call(parameters)
    monkeypatch.setattr("flows.preflight.read_setup", lambda *_: _Setup("http://10.0.0.2/api"))
    check_call(parameters)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:8786", "localhost:6379", "auto"])
def test_workers_of_this_machine_reach_a_private_server(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.preflight.read_setup", lambda *_: _Setup(None))
    runner = RunnerConfig(task_runner="ray", task_runner_address=address)
    check_call(CacheImagesParameters(cache_dir="/caches/a", runner=runner))


def test_a_cluster_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Away:
        def __enter__(self) -> None:
            raise TimeoutError("no scheduler answered")

        def __exit__(self, *error: object) -> None: ...

    monkeypatch.setattr(FlowRunContext, "get", object)
    monkeypatch.setattr(task_runners, "_runner", lambda config: Away())
    config = RunnerConfig(task_runner="dask", task_runner_address="tcp://10.0.0.1:8786")
    with pytest.raises(RunFailedError) as refused, chunk_runner(config, "/caches/a"):
        pytest.fail("the block was entered")
    assert str(refused.value) == (
        "the dask cluster cannot be used: got no scheduler answered at tcp://10.0.0.1:8786, "
        "expected a cluster with at least one worker. Start it and its workers, or leave "
        "--task-runner-address out."
    )


class _Setup:
    def __init__(self, api_url: str | None) -> None:
        self.api_url = api_url
