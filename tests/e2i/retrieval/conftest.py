"""The naive oracle: a metric is its mean over every order of the tied candidates, written out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from fractions import Fraction

import pytest

Oracle = Callable[[list[float], list[bool], int], tuple[Fraction, Fraction, Fraction]]


def orders(scores: list[float]) -> Iterator[list[int]]:
    """All rankings that the scores allow."""
    groups = [
        [i for i, score in enumerate(scores) if score == value]
        for value in sorted(set(scores), reverse=True)
    ]
    for arrangement in itertools.product(*(itertools.permutations(group) for group in groups)):
        yield [index for group in arrangement for index in group]


def over_all_orders(
    scores: list[float], positives: list[bool], k: int
) -> tuple[Fraction, Fraction, Fraction]:
    """Recall at k, average precision at k and rank of the best positive of one query, exactly."""
    recall = precision = rank = Fraction(0)
    for order in orders(scores):
        relevant = [positives[index] for index in order]
        recall += any(relevant[:k])
        found = [sum(relevant[: r + 1]) for r in range(len(order))]
        precision += sum(
            (Fraction(found[r], r + 1) for r in range(k) if relevant[r]), Fraction(0)
        ) / sum(positives)
        rank += relevant.index(True) + 1
    count = math.prod(math.factorial(scores.count(value)) for value in set(scores))
    return recall / count, precision / count, rank / count


@pytest.fixture(scope="session")
def oracle() -> Oracle:
    return over_all_orders
