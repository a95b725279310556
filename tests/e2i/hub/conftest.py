"""A Hub on loopback, found by the real client in this process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "cache"))
sys.path.insert(0, str(Path(__file__).parent))

from cache_world import World, new_world
from huggingface_hub.utils import _http

from hub_server import HubServer


@pytest.fixture
def hub(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HubServer]:
    """A Hub of the test's own; the client's retries do not wait."""
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda seconds: None))
    with HubServer(tmp_path_factory.mktemp("hub")) as server, server.found_by_this_process():
        yield server


@pytest.fixture
def world() -> World:
    """Ten clips with two captions each, nothing embedded."""
    return new_world(10)
