"""Validation against the number of trials: the best that n trials of a random search find.

Decides: the expected best of n is the mean over all ways to choose n of the N trials made, without
putting any back: unbiased, where drawing with replacement leans low.

Source: Dodge et al., "Show your work: improved reporting of experimental results", EMNLP 2019, for
the curve; Tang et al., "Showing your work doesn't always work", ACL 2020, for the estimator.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from e2i.errors import RetrievalInputError


def expected_best(values: Sequence[float]) -> tuple[float, ...]:
    """The expected best value of 1 to N trials, given the values that N found; higher is better.

    Raises:
        RetrievalInputError: there is no trial, or a value is no number.
    """
    ascending = np.sort(np.asarray(values, dtype=np.float64))
    if not len(ascending) or not np.isfinite(ascending).all():
        raise RetrievalInputError(
            f"no best trial can be expected: got {len(ascending)} values, of which "
            f"{int(np.isfinite(ascending).sum())} are finite, expected finite ones, at least 1. "
            "Run more trials."
        )
    count = len(ascending)
    place = np.arange(count)
    # The chance that the i-th smallest (from 0) is the best of n is C(i, n - 1) / C(N, n).
    chance = np.full(count, 1.0 / count)
    best = []
    for n in range(1, count + 1):
        best.append(float(chance @ ascending))
        if n < count:
            chance = chance * np.maximum(place - n + 1, 0) * (n + 1) / (n * (count - n))
    return tuple(best)
