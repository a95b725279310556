"""A Hub on loopback, found by the real client in this process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "cache"))

from hub_server import HubServer


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """A Hub of the test's own."""
    with HubServer(tmp_path_factory.mktemp("hub")) as server, server.found_by_this_process():
        yield server
