"""What tests of sweeps share: tiny parts, and a sweep that is over in seconds."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from tiny_caches import tiny_cache

from e2i.sweep.config import ALL_ARMS, SweepConfig
from e2i.sweep.data import SweepData, sweep_data


@pytest.fixture(scope="session")
def data() -> SweepData:
    parts = [tiny_cache(*part) for part in (("train", 60, 1), ("val", 30, 2), ("eval", 40, 3))]
    return sweep_data([parts[0]], parts[1], parts[2], seed=13)


@pytest.fixture(scope="session")
def config() -> SweepConfig:
    """Small enough for seconds: all arms but the one whose images are large."""
    return SweepConfig(
        arms=tuple(arm for arm in ALL_ARMS if arm != "cnn-128"),
        budgets=(6000,),
        tolerance=0.1,
        trials=2,
        seeds=2,
        steps=8,
        batch_size=30,
        out_dim=8,
        resamples=100,
        device="cpu",
    )


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
