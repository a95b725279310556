"""Trackers together: none fails a run, and none gets a credential."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest

from e2i.tracking.tracker import Status, StoredArtifact, Trackers, shareable, tracked


class Recorder:
    """Remembers its calls; raises from the named one on."""

    def __init__(self, raises: str = "", error: BaseException | None = None, **links: str) -> None:
        self.calls: list[tuple[str, object]] = []
        self._links = links
        self._raises = raises
        self._error = error or OSError("no space on s3://key:hush@bucket/logs")

    def _call(self, name: str, value: object) -> None:
        self.calls.append((name, value))
        if name == self._raises:
            raise self._error

    def start(self, config: Mapping[str, object]) -> None:
        self._call("start", config)

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._call("log", (dict(values), step))

    def links(self) -> Mapping[str, str]:
        return self._links

    def artifact(self, artifact: StoredArtifact) -> None:
        self._call("artifact", artifact)

    def summary(self, values: Mapping[str, float]) -> None:
        self._call("summary", dict(values))

    def finish(self, status: Status) -> None:
        self._call("finish", status)


def _run(trackers: Trackers) -> None:
    trackers.start({"lr": 0.5})
    trackers.log({"loss": 1.0}, 1)
    trackers.log({"loss": 0.5}, 2)
    trackers.summary({"best": 0.5})
    trackers.finish("completed")


WHOLE = [
    ("start", {"lr": 0.5}),
    ("log", ({"loss": 1.0}, 1)),
    ("log", ({"loss": 0.5}, 2)),
    ("summary", {"best": 0.5}),
    ("finish", "completed"),
]


@pytest.mark.parametrize("raises", ["start", "log", "summary", "finish"])
def test_one_that_raises_is_left_out_with_one_warning_and_the_others_go_on(raises: str) -> None:
    fine, broken = Recorder(), Recorder(raises)
    warnings: list[str] = []
    _run(Trackers({"W&B": broken, "the log file": fine}, warnings.append))
    assert fine.calls == WHOLE
    assert [name for name, _ in broken.calls].count(raises) == 1
    assert broken.calls[-1][0] == raises
    assert warnings == ["W&B is off for the rest of this run: no space on s3://bucket/logs"]


def test_each_is_told_where_the_others_are() -> None:
    first, second = Recorder(wandb="https://w/1"), Recorder(log="/logs/a.jsonl")
    trackers = Trackers({"W&B": first, "the log file": second}, pytest.fail)
    trackers.start({"lr": 0.5, "links": {"flow_run": "http://p/1"}})
    links = {"flow_run": "http://p/1", "wandb": "https://w/1", "log": "/logs/a.jsonl"}
    assert first.calls == second.calls == [("start", {"lr": 0.5, "links": links})]
    trackers.finish("completed")
    assert trackers.links() == {"wandb": "https://w/1", "log": "/logs/a.jsonl"}


def test_nothing_is_logged_after_the_end() -> None:
    recorder = Recorder()
    trackers = Trackers({"r": recorder}, pytest.fail)
    _run(trackers)
    trackers.log({"loss": 0.0}, 3)
    trackers.finish("failed")
    assert recorder.calls == WHOLE


def test_ctrl_c_goes_through() -> None:
    trackers = Trackers({"r": Recorder("log", KeyboardInterrupt())}, pytest.fail)
    with pytest.raises(KeyboardInterrupt):
        _run(trackers)


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError(), "failed"), (SystemExit(143), "interrupted")]
)
def test_a_block_that_does_not_end_well_says_how(error: BaseException, status: str) -> None:
    recorder = Recorder()
    with pytest.raises(type(error)), tracked(recorder, {}):
        raise error
    assert recorder.calls == [("start", {}), ("finish", status)]


def test_a_block_that_ends_well_is_completed() -> None:
    recorder = Recorder()
    with tracked(recorder, {"a": 1}) as tracker:
        tracker.summary({"b": 2.0})
    assert recorder.calls[-1] == ("finish", "completed")


def test_credentials_are_taken_out_of_a_configuration() -> None:
    config = {
        "cache": "s3://key:hush@bucket/a@b",
        "at": "s3://key:hu@hush@bucket/a@b",
        "plain": "s3://bucket/a@b",
        "hf_token": "hush",
        "api_key": "hush",
        "nested": {"password": "hush", "seed": 13, "urls": ("https://me:hush@host/x",)},
        "tokens_per_caption": 32,
        "id_key": "id",
    }
    shown = shareable(config)
    assert "hush" not in repr(shown)
    assert shown == {
        "cache": "s3://bucket/a@b",
        "at": "s3://bucket/a@b",
        "plain": "s3://bucket/a@b",
        "nested": {"seed": 13, "urls": ["https://host/x"]},
        "tokens_per_caption": 32,
        "id_key": "id",
    }


def test_what_json_lacks_becomes_null_or_text() -> None:
    shown = shareable({"a": math.nan, "b": math.inf, "c": 1j, "d": None, "e": True})
    assert shown == {"a": None, "b": None, "c": "1j", "d": None, "e": True}
