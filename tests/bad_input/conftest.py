"""Tasks without Prefect, and a small world that must stay whole."""

from __future__ import annotations

import logging
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from bad_input_program import ENCODERS, World, e2i, write_metadata, write_recordings

import flows.caching
import flows.learning
import tasks.embedding
import tasks.evaluating
import tasks.learning
import tasks.progress
import tasks.tracking
from e2i.configuration import Configuration
from flows import command_line, execution
from flows.preflight import check_call


def _run_without_prefect(command: command_line.Command, options) -> object:
    check_call(options.parameters)
    function = execution._load(command.runs)
    if not command.needs_prefect:
        return function(options.parameters)
    fields: Configuration = options.parameters
    return function.fn(**{name: getattr(fields, name) for name in type(fields).model_fields})


def _embed_chunks(cache_url, split, encoders) -> list[dict[str, int]]:
    root, stage = split.clips.audio_root_url, split.stage
    embed_audio, embed_text = tasks.embedding.embed_audio.fn, tasks.embedding.embed_text.fn
    return [
        *(embed_audio(cache_url, root, c, encoders, stage) for c in split.plan.audio_chunks),
        *(embed_text(cache_url, c, encoders, stage) for c in split.plan.text_chunks),
    ]


def _end(code: int) -> None:
    raise SystemExit(code)


@pytest.fixture(scope="module", autouse=True)
def _plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tasks without Prefect, and a program that does not end the process."""
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("working-directory"))
        patch.setattr(execution, "_run", _run_without_prefect)
        patch.setattr("os._exit", _end)
        for module in (tasks.embedding, tasks.learning, tasks.progress, tasks.tracking):
            patch.setattr(module, "get_run_logger", lambda: logging.getLogger("bad input"))
        patch.setattr(tasks.progress, "create_progress_artifact", lambda **_: None)
        patch.setattr(tasks.evaluating, "scores_artifact", lambda *_: None)
        patch.setattr(flows.caching, "submit_chunks", _embed_chunks)
        patch.setattr(tasks.embedding, "claim", lambda *_: True)
        patch.setattr(
            flows.caching, "gather_chunks", lambda done, _: (sum(map(Counter, done), Counter()), [])
        )
        patch.setattr(flows.caching, "unvisited", lambda parameter: parameter)
        for module, name in (
            (flows.caching, "plan_embedding"),
            (flows.caching, "finish_embedding"),
            (flows.learning, "train"),
            (flows.learning, "evaluate"),
        ):
            patch.setattr(module, name, getattr(module, name).fn)
        yield
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("world"))
    write_metadata(made.metadata, write_recordings(made.metadata.parent, 12))
    done = e2i(
        *("cache-embeddings", "--metadata", str(made.metadata), "--cache-dir", str(made.cache)),
        *ENCODERS,
    )
    assert done.code == 0, done.err
    done = e2i(
        *("train-projection", "--cache-dir", str(made.cache), "--epochs", "1", "--device", "cpu"),
        *("--output-dir", str(made.checkpoint.parent), "--hidden-dim", "8", "--out-dim", "4"),
    )
    assert done.code == 0, done.err
    return made
