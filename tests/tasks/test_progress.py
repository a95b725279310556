"""What the progress artifact says, and what the sink hears."""

from __future__ import annotations

import logging
import uuid
from typing import Any

import httpx
import pytest

from tasks import progress
from tasks.progress import Stage, in_words


class Sink:
    def __init__(self) -> None:
        self.advanced: list[tuple[str, int]] = []

    def start(self, stage: str, total: int, unit: str) -> None: ...

    def advance(self, stage: str, count: int) -> None:
        self.advanced.append((stage, count))

    def finish(self, stage: str, outcome: str) -> None: ...


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the artifact is set to; each look at the clock is ten seconds after the last."""
    told: list[dict[str, Any]] = []
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(progress, "create_progress_artifact", lambda **_: uuid.uuid4())
    monkeypatch.setattr(progress, "update_progress_artifact", lambda **values: told.append(values))
    monkeypatch.setattr(progress, "get_run_logger", lambda: logging.getLogger("plain"))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(progress, "_installed", [Sink()])
    return told


def test_the_artifact_says_how_far_how_fast_and_how_long(told: list[dict[str, Any]]) -> None:
    with Stage("embed a", 1200, "clips", "key") as stage:
        stage.settle(50)
        stage.settle(0)
        stage.settle(1150)
    assert [round(update["progress"], 2) for update in told] == [4.17, 4.17, 100.0]
    assert [update["description"] for update in told] == [
        "embed a: 50 of 1,200 clips, 5 a second, 4 min to go",
        "embed a: 50 of 1,200 clips, 2.5 a second, 8 min to go",
        "embed a: 1,200 of 1,200 clips, 40 a second, done",
    ]


def test_nothing_done_has_no_rate(told: list[dict[str, Any]]) -> None:
    with Stage("embed a", 10, "clips", "key") as stage:
        stage.settle(0)
    assert told[0]["description"] == "embed a: 0 of 10 clips"


@pytest.mark.usefixtures("told")
@pytest.mark.parametrize("call", ["create_progress_artifact", "update_progress_artifact"])
def test_a_server_that_is_away_stops_no_stage(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    calls: list[Any] = []

    def refuse(**values: Any) -> None:
        calls.append(values)
        raise httpx.ConnectError("Connection refused")

    monkeypatch.setattr(progress, call, refuse)
    with Stage("embed a", 10, "clips", "key") as stage:
        stage.settle(5)
        stage.settle(5)
    assert caplog.messages.count("embed a: the UI shows no more of it: Connection refused") == 1
    assert len(calls) == 1, "each call takes minutes"


@pytest.mark.usefixtures("told")
def test_the_sink_hears_what_other_processes_did() -> None:
    with Stage("embed a", 10, "clips", "key") as stage:
        stage.settle(3)
        stage.settle(4, told=False)
    assert progress.progress_sink().advanced == [("embed a", 4)]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (89, "89 s"), (300, "5 min"), (12_000, "3 h 20 min"), (187_200, "2 d 4 h")],
)
def test_times_for_people(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
