"""Steps on the pool of GPUs: what is asked for, how long is waited, what is said of a bad end."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling, Completed, Crashed, Failed, Running, Scheduled

from e2i.errors import ConfigError, RunFailedError
from e2i.heads.config import HeadsConfig
from e2i.tracking.config import TrackingConfig
from e2i.training.config import TrainingConfig
from tasks import pooled

RUN = uuid4()


class Client:
    """A server that answers with one state after the other."""

    def __init__(self, states: Sequence[State[Any]]) -> None:
        self._states = iter(states)
        self.set: list[StateType] = []

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None: ...

    def read_flow_run(self, run_id: UUID) -> SimpleNamespace:
        assert run_id == RUN
        return SimpleNamespace(state=next(self._states))

    def set_flow_run_state(self, run_id: UUID, state: State[Any]) -> None:
        assert run_id == RUN
        self.set.append(state.type)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What deployments were run, with what."""
    calls: list[Any] = []

    def run_deployment(name: str, **options: Any) -> SimpleNamespace:
        calls.append((name, options))
        return SimpleNamespace(id=RUN)

    monkeypatch.setattr(pooled, "run_deployment", run_deployment)
    monkeypatch.setattr(pooled, "get_run_logger", lambda: logging.getLogger("pooled"))
    monkeypatch.setattr(pooled.time, "sleep", lambda seconds: None)
    return calls


def _train(monkeypatch: pytest.MonkeyPatch, *states: State[Any]) -> tuple[Any, Client]:
    client = Client(states)
    monkeypatch.setattr(pooled, "get_client", lambda sync_client: client)
    trained = pooled.train_on_pool.fn(
        ["/s/embeddings/development"],
        "/s/embeddings/validation",
        "/s/checkpoints",
        "a.safetensors",
        HeadsConfig(),
        TrainingConfig(epochs=3),
        TrackingConfig(log_dir="/s/logs"),
        "vision",
    )
    return trained, client


def test_a_step_gets_what_it_would_have_got_here(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, _ = _train(monkeypatch, Scheduled(), Running(), Completed())
    assert trained.checkpoint_url == "/s/checkpoints/a.safetensors"
    ((name, options),) = asked
    assert name == "e2i-train-projection/train-projection"
    assert options["flow_run_name"] == "train vision heads"
    parameters = options["parameters"]
    assert parameters["cache_dir"] == ["/s/embeddings/development"]
    assert parameters["val_cache_dir"] == "/s/embeddings/validation"
    assert parameters["checkpoint_name"] == "a.safetensors"
    assert parameters["training"]["epochs"] == 3


@pytest.mark.usefixtures("asked")
def test_a_crashed_step_that_is_run_again_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    _train(monkeypatch, Running(), Crashed(), Crashed(), Scheduled(), Running(), Completed())


@pytest.mark.usefixtures("asked")
def test_a_crash_that_stays_one_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooled, "CRASH_PATIENCE_S", -1.0)
    with pytest.raises(RunFailedError, match="got Crashed"):
        _train(monkeypatch, Running(), Crashed())


@pytest.mark.usefixtures("asked")
def test_a_failed_step_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        RunFailedError,
        match=rf"got Failed \(out of order\) of train vision heads, flow run {RUN}, expected "
        "Completed",
    ):
        _train(monkeypatch, Running(), Failed(message="out of order"))


@pytest.mark.usefixtures("asked")
def test_who_is_ended_ends_what_it_started(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client([Running()])

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pooled.time, "sleep", interrupt)
    monkeypatch.setattr(pooled, "get_client", lambda sync_client: client)
    with pytest.raises(KeyboardInterrupt):
        pooled._run_and_wait("a/b", "step", {})
    assert client.set == [Cancelling().type]


def test_a_deployment_that_is_not_there_is_named(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str, **options: Any) -> None:
        raise ObjectNotFound(http_exc=Exception("404"))

    monkeypatch.setattr(pooled, "run_deployment", missing)
    with pytest.raises(
        ConfigError, match=r"got no e2i-train-projection/train-projection .* with `make deploy`"
    ):
        _train(monkeypatch)
    assert asked == []
