"""What tests of fine-tuning share: small encoders and recordings, one thread."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import small_world


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> small_world.SmallWorld:
    """Made once; nothing that a test does changes it."""
    # A data set is named after its folder, and which clips are held out follows from the name.
    root = tmp_path_factory.mktemp("small") / "recordings"
    root.mkdir()
    return small_world.SmallWorld.made_in(root)


@pytest.fixture(autouse=True)
def small_and_alone() -> Iterator[None]:
    """The small architecture, and one thread: for data so small more only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    published = small_world.ARCHITECTURES[small_world.ARCH]
    small_world.shrink_architectures()
    yield
    small_world.ARCHITECTURES[small_world.ARCH] = published
    torch.set_num_threads(threads)
