"""Rendering by the processes of a cluster: what becomes of the parts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from e2i.errors import RunFailedError
from e2i.images.config import ImagesConfig
from tasks import rendering
from tasks.rendering import Parts, render_by_parts


class Silent:
    """In the place of a stage."""

    settled: ClassVar[list[int]] = []

    def __init__(self, name: str, total: int, unit: str, key: str | None) -> None:
        assert (name, total, unit) == ("render all clips by parts", 3, "pseudo-images")
        assert key == "rendering-all-clips"
        self.settled.clear()

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *error: object) -> None: ...

    def settle(self, count: int, *, told: bool) -> None:
        assert not told
        self.settled.append(count)


class Future:
    def __init__(self, outcome: dict[str, int] | BaseException) -> None:
        self._outcome = outcome

    def result(self, *, raise_on_failure: bool) -> dict[str, int]:
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        return self._outcome


def _render(
    monkeypatch: pytest.MonkeyPatch, *outcomes: dict[str, int] | BaseException
) -> tuple[list[Any], list[Any]]:
    """What was submitted, and what the last step was given."""
    submitted: list[Any] = []
    ended: list[Any] = []

    def submit(*arguments: Any) -> Future:
        submitted.append(arguments)
        return Future(outcomes[arguments[-1]])

    parts = Parts(((0, 1), (2,)), replaced=1)
    monkeypatch.setattr(rendering, "Stage", Silent)
    monkeypatch.setattr(rendering, "plan_parts", lambda *_: parts)
    monkeypatch.setattr(rendering, "render_part", SimpleNamespace(submit=submit))
    monkeypatch.setattr(rendering, "render_side", lambda *arguments: ended.append(arguments))
    render_by_parts("/cache", "audio", ImagesConfig(), "all clips")
    return submitted, ended


def test_each_part_is_a_task_run_and_the_last_step_knows_what_they_wrote(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    submitted, ended = _render(monkeypatch, {"a.png": 5, "b.png": 6}, {"c.png": 7})
    assert [(arguments[3], arguments[-1]) for arguments in submitted] == [((0, 1), 0), ((2,), 1)]
    assert Silent.settled == [2, 1]
    ((*_, parts, written),) = ended
    assert parts.unwrap().replaced == 1
    assert written.unwrap() == {"a.png": 5, "b.png": 6, "c.png": 7}


def test_a_part_that_fails_is_told_when_all_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunFailedError) as refused:
        _render(monkeypatch, OSError("the worker died."), {"c.png": 7})
    assert str(refused.value) == (
        "1 of 2 parts of the pseudo-images could not be rendered: got the worker died. Run the "
        "same command again: what is stored is kept."
    )
