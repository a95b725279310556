"""Random search: in its ranges, log-uniform, and the same however many trials there are."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from e2i.sweep.config import SearchConfig
from e2i.sweep.search import drawn_settings
from e2i.training.config import TrainingConfig

SEARCH = SearchConfig(lr=(1e-5, 1e-1), weight_decay=(1e-4, 1e-1), temperature=(0.02, 0.2))


@given(st.integers(0, 2**31), st.integers(0, 10_000))
def test_a_trial_is_in_the_ranges_and_can_be_trained(seed: int, trial: int) -> None:
    drawn = drawn_settings(SEARCH, seed, trial)
    for name, value in drawn.items():
        low, high = getattr(SEARCH, name)
        assert low <= value <= high
    drawn.pop("dropout")
    TrainingConfig(**drawn)
    assert drawn_settings(SEARCH, seed, trial)["lr"] == drawn["lr"]


def test_learning_rates_are_log_uniform_and_dropout_is_uniform() -> None:
    drawn = [drawn_settings(SEARCH, 13, trial) for trial in range(4000)]
    shares = np.array([math.log(one["lr"] / 1e-5) / math.log(1e4) for one in drawn])
    dropouts = np.array([one["dropout"] / 0.5 for one in drawn])
    for uniform in (shares, dropouts):
        counts = np.histogram(uniform, 8, (0.0, 1.0))[0]
        assert abs(counts - 500).max() < 100  # 4.8 standard deviations
    assert abs(np.corrcoef(shares, dropouts)[0, 1]) < 0.08


def test_another_range_moves_its_own_setting_alone() -> None:
    before = drawn_settings(SEARCH, 13, 5)
    after = drawn_settings(SEARCH.model_copy(update={"lr": (1e-4, 1e-2)}), 13, 5)
    assert {name for name in before if before[name] != after[name]} == {"lr"}


def test_a_range_of_one_value_is_that_value() -> None:
    fixed = SearchConfig(lr=(1e-3, 1e-3), dropout=(0.2, 0.2))
    drawn = drawn_settings(fixed, 1, 2)
    assert (drawn["lr"], drawn["dropout"]) == (1e-3, 0.2)
