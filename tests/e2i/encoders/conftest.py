"""What tests of models share: one thread, and small models in the published formats."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tiny_models import make_roberta


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For models so small, more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small RoBERTa."""
    return make_roberta(tmp_path_factory.mktemp("models") / "roberta")
