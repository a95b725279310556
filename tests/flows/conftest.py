"""What tests of flows share: a small world of data."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from option_outcomes import World

from hub_server import HubServer
from plain_program import plain_program


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Recordings, caches and checkpoints, and a Hub stand-in beside them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # for data so small, more only wait for each other
    with plain_program():
        # A data set is named after its folder, and which clips are held out follows from the name:
        # a name that pytest numbers would hold out others from run to run.
        root = tmp_path_factory.mktemp("world") / "recordings"
        root.mkdir()
        with HubServer(root.parent / "hub") as hub, hub.found_by_this_process():
            yield World.made_in(root, hub)
    torch.set_num_threads(threads)
