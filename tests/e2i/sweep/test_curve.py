"""The expected best of n trials, against every choice of n there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2i.errors import RetrievalInputError
from e2i.sweep.curve import expected_best


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=8))
def test_it_is_the_mean_over_all_choices(values: list[float]) -> None:
    expected = [
        np.mean([max(chosen) for chosen in itertools.combinations(values, n)])
        for n in range(1, len(values) + 1)
    ]
    assert expected_best(values) == pytest.approx(expected, abs=1e-9)


def test_it_rises_from_the_mean_to_the_best_of_many() -> None:
    values = np.random.default_rng(0).random(1000)
    curve = expected_best(values.tolist())
    assert curve[0] == pytest.approx(values.mean())
    assert curve[-1] == pytest.approx(values.max())
    assert (np.diff(curve) > -1e-12).all()


@pytest.mark.parametrize("values", [[], [0.1, float("nan")]])
def test_without_numbers_there_is_none(values: list[float]) -> None:
    with pytest.raises(RetrievalInputError, match="no best trial can be expected: got"):
        expected_best(values)
