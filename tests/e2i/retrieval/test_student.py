"""Student's t against scipy, whole degrees of freedom and others."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from e2i.retrieval.student import quantile, upper_tail

DEGREES = [1.0, 1.5, 4.0, 7.3, 30.0, 500.0, 99_999.0, 2e6]


@pytest.mark.parametrize("degrees", DEGREES)
def test_tails_are_those_of_scipy(degrees: float) -> None:
    for t in (-3.0, -0.2, 0.0, 0.5, 2.0, 2.776, 6.0, 40.0):
        assert upper_tail(t, degrees) == pytest.approx(stats.t.sf(t, degrees), abs=2e-7)


@pytest.mark.parametrize("degrees", DEGREES)
def test_quantiles_are_those_of_scipy(degrees: float) -> None:
    for tail in (0.5, 0.25, 0.05, 0.025, 0.001):
        assert quantile(tail, degrees) == pytest.approx(
            stats.t.isf(tail, degrees), rel=1e-4, abs=1e-6
        )


def test_infinite_values_have_no_tail_or_all_of_it() -> None:
    assert upper_tail(math.inf, 4.0) == 0.0
    assert upper_tail(-math.inf, 4.0) == 1.0
