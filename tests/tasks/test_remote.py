"""What task runs in other processes come to, and how they are called off."""

from __future__ import annotations

import concurrent.futures
import uuid

import pytest
from prefect.context import FlowRunContext
from prefect.futures import PrefectConcurrentFuture, PrefectWrappedFuture
from prefect.utilities.annotations import quote

from tasks import remote


class Wrapped:
    """As dask's: it can be called off."""

    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Future(PrefectWrappedFuture[int, Wrapped]):
    def wait(self, timeout: float | None = None) -> None: ...

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> int:
        raise RuntimeError("the worker died")


def test_a_worker_that_died_is_an_outcome_and_stops_nobody() -> None:
    outcome = remote.outcome_of(Future(uuid.uuid4(), Wrapped()))
    assert isinstance(outcome, RuntimeError)
    assert str(outcome) == "the worker died"


def test_what_other_processes_have_not_begun_is_called_off() -> None:
    there = Future(uuid.uuid4(), Wrapped())
    here: concurrent.futures.Future[int] = concurrent.futures.Future()
    remote.cancel([there, PrefectConcurrentFuture(uuid.uuid4(), here)])
    assert there.wrapped_future.cancelled
    assert not here.cancelled()


def test_ray_calls_off_by_a_function_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    called: list[object] = []
    monkeypatch.setattr(ray, "cancel", called.append)
    reference = object()
    remote.cancel([Future(uuid.uuid4(), reference)])  # type: ignore[arg-type]
    assert called == [reference]


def test_parameters_are_quoted_for_threads_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(remote.submitted((1,)), quote)

    class Context:
        task_runner = object()

    monkeypatch.setattr(FlowRunContext, "get", Context)
    assert remote.runs_elsewhere()
    assert remote.submitted((1,)) == (1,)
    assert not isinstance(remote.submitted((1,)), quote)
    assert isinstance(remote.unvisited((1,)), quote)
