"""Makes `cache_world` importable, and empties the memory file system after each test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

sys.path.insert(0, str(Path(__file__).parent))

from cache_world import World, new_world


@pytest.fixture
def world() -> World:
    """Ten clips with two captions each, nothing embedded."""
    return new_world(10)


@pytest.fixture(autouse=True)
def _empty_memory() -> Iterator[None]:
    yield
    for path in [p for p in MemoryFileSystem.store if p.startswith("/cache-tests/")]:
        del MemoryFileSystem.store[path]
