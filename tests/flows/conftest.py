"""What tests of flows share: one Prefect test server a session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prefect.testing.utilities import prefect_test_harness


@pytest.fixture(scope="session")
def prefect_harness() -> Iterator[None]:
    """A Prefect server of the test session, on a database of its own."""
    with prefect_test_harness(server_startup_timeout=120):
        yield
