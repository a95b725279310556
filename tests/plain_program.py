"""The program in this process, quickly: tasks are the plain functions that they are, no server.

Parsing, checks, flows, progress, messages and exit codes are the program's own.
"""

from __future__ import annotations

import contextlib
import io
import logging
import signal
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar, NamedTuple, TypeVar

import pytest

import flows.caching
import flows.downloading
import flows.learning
import flows.private_server
import flows.reevaluating
import tasks.embedding
import tasks.evaluating
import tasks.learning
import tasks.mirroring
import tasks.progress
import tasks.reevaluating
import tasks.rendering
import tasks.tracking
from e2i.hub.background import BackgroundMirror
from e2i.hub.mirror import Pace
from flows import command_line, execution

T = TypeVar("T")


class Said(NamedTuple):
    """What a call of the program left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


def e2i(*arguments: str) -> Said:
    """Call the program as a run of its own; what it does not turn into an exit code is raised."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        run_id = str(uuid.uuid4())
        for module in (tasks.embedding, tasks.reevaluating):
            patch.setattr(module, "flow_run", SimpleNamespace(get_id=lambda: run_id))
        try:
            command_line.main(arguments)
        except SystemExit as ended:
            return Said(int(ended.code or 0), out.getvalue(), err.getvalue())


@contextlib.contextmanager
def plain_program() -> Iterator[None]:
    """Calls of `e2i` in here need no Prefect server and do not end the process."""
    handler = signal.getsignal(signal.SIGTERM)
    load = execution._load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os._exit", _end)
        patch.setattr(execution, "_choose_logging", lambda output: None)
        patch.setattr(execution, "_load", lambda reference: _plain(load(reference)))
        patch.setattr(flows.private_server, "ensure_server", _NoServer)
        patch.setattr(flows.private_server, "flush_events", lambda: True)
        for module in (
            tasks.embedding,
            tasks.learning,
            tasks.mirroring,
            tasks.progress,
            tasks.reevaluating,
            tasks.tracking,
        ):
            patch.setattr(module, "get_run_logger", lambda: logging.getLogger("plain program"))
        patch.setattr(tasks.progress, "_installed", [tasks.progress._Silent()])
        patch.setattr(tasks.progress, "create_progress_artifact", lambda **_: None)
        patch.setattr(tasks.evaluating, "scores_artifact", lambda *_: None)
        patch.setattr(tasks.evaluating, "links_artifact", lambda *_: None)
        patch.setattr(tasks.learning, "links_artifact", lambda *_: None)
        for name in ("scores_artifact", "comparison_artifacts", "emit_event"):
            patch.setattr(tasks.reevaluating, name, lambda *_, **__: None)
        patch.setattr(tasks.rendering, "sheet_artifact", lambda *_: None)
        patch.setattr(flows.caching, "submit_chunks", _embed_chunks)
        patch.setattr(tasks.embedding, "claim", lambda *_: True)
        patch.setattr(
            flows.caching, "gather_chunks", lambda done, _: (sum(map(Counter, done), Counter()), [])
        )
        patch.setattr(flows.caching, "unvisited", lambda parameter: parameter)
        patch.setattr(tasks.mirroring, "PACE", Pace(interval_s=0.0))
        patch.setattr(tasks.mirroring, "BackgroundMirror", _Beside)
        patch.setattr(flows.caching, "render_side", _Submitted(flows.caching.render_side.fn))
        for module, name in (
            (flows.caching, "plan_embedding"),
            (flows.caching, "finish_embedding"),
            (flows.caching, "draw_sheet"),
            (flows.downloading, "find_embeddings"),
            (flows.downloading, "fetch_embeddings"),
            (flows.downloading, "embedding_statistics"),
            (tasks.mirroring, "send_rest"),
            (flows.learning, "train"),
            (flows.learning, "evaluate"),
            (flows.reevaluating, "find_published"),
            (flows.reevaluating, "look_for_drift"),
            (flows.reevaluating, "evaluate_and_compare"),
        ):
            patch.setattr(module, name, getattr(module, name).fn)
        yield
    signal.signal(signal.SIGTERM, handler)


def _end(code: int) -> None:
    raise SystemExit(code)


def _plain(function: Callable[..., T]) -> Callable[..., T]:
    """A flow's own function; a quick command's is it already."""
    return getattr(function, "fn", function)


class _NoServer(flows.private_server.PrefectServer):
    """In the place of a private server: always ready, never asked."""

    private = True

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:9/api", Path())


class _Beside(BackgroundMirror):
    """In the place of the mirror in the background: looks after each chunk, not by the clock."""

    running: ClassVar[list[_Beside]] = []

    def __init__(self, mirror, upload_every, captions_per_clip, interval_s, note) -> None:
        super().__init__(mirror, upload_every, captions_per_clip, 3600.0, note)

    def __enter__(self) -> _Beside:
        self.running.append(self)
        super().__enter__()
        return self

    def __exit__(self, kind, error, traceback) -> None:
        self.running.remove(self)
        super().__exit__(kind, error, traceback)


class _Submitted:
    """In the place of a task: what is submitted is done at once."""

    def __init__(self, function: Callable[..., object]) -> None:
        self._function = function

    def submit(self, *arguments: object) -> _Done:
        return _Done(self._function(*arguments))


class _Done(NamedTuple):
    value: object

    def result(self) -> object:
        return self.value


def _embed_chunks(cache_url, split, encoders) -> list[dict[str, int]]:
    root, stage = split.clips.audio_root_url, split.stage
    embed_audio, embed_text = tasks.embedding.embed_audio.fn, tasks.embedding.embed_text.fn
    done = []
    for chunk in split.plan.audio_chunks:
        done.append(embed_audio(cache_url, root, chunk, encoders, stage))
        _look()
    for chunk in split.plan.text_chunks:
        done.append(embed_text(cache_url, chunk, encoders, stage))
        _look()
    return done


def _look() -> None:
    for beside in _Beside.running:
        beside.look()
