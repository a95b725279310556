"""Tasks without Prefect, and a small world that must stay whole."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

from bad_input_program import ENCODERS, World, e2i, write_metadata, write_recordings

from plain_program import plain_program


@pytest.fixture(scope="module", autouse=True)
def _plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tasks without Prefect, and a program that does not end the process."""
    with pytest.MonkeyPatch.context() as patch, plain_program():
        patch.chdir(tmp_path_factory.mktemp("working-directory"))
        yield


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
