"""How often the 95 % intervals hold the truth, and how often the paired test cries wolf.

A population is made whose recall is known: each clip has a chance of its own to be found, drawn
from a beta distribution, and its five captions are found with that chance, so that they are alike.
Studies of so many clips are drawn from it; the share of them whose interval holds the population's
recall is to be 95 %. For the test, two models are drawn that find a clip with one and the same
chance, so that they differ by luck alone; the share of p ≤ 0.05 is to be 5 %.

    python benchmarks/interval_coverage.py [--studies 1000] [--resamples 10000] [--flips 999]

Prints one row a population. The numbers are the same on every machine.
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from e2i.retrieval.comparison import sign_flip_p
from e2i.retrieval.intervals import QueryValues, bootstrap_intervals

CAPTIONS_A_CLIP = 5
RECALLS = (0.1, 0.4, 0.9)
NUM_CLIPS = (100, 1_000)
CONCENTRATION = 1.5
"""Of the beta distribution: two captions of a clip correlate by 1 / (1 + 1.5) = 0.4."""


class Found(NamedTuple):
    """What studies of one population came to.

    Attributes:
        recall: the truth.
        num_clips: in each study.
        coverage: share of intervals that hold the truth.
        below: share of intervals that lie wholly below it.
        above: share that lie wholly above it.
        level: share of true nulls that the paired test rejects at 0.05.
    """

    recall: float
    num_clips: int
    coverage: float
    below: float
    above: float
    level: float


def simulate(
    recall: float,
    num_clips: int,
    *,
    studies: int,
    resamples: int,
    flips: int,
    seed: int = 0,
    concentration: float = CONCENTRATION,
) -> Found:
    """Draw studies of one population; see the module."""
    generator = np.random.default_rng([seed, num_clips, int(1000 * recall)])
    clip = np.repeat(np.arange(num_clips), CAPTIONS_A_CLIP)
    first, second = [], []
    for _ in range(studies):
        chance = generator.beta(recall * concentration, (1.0 - recall) * concentration, num_clips)
        first.append(_hits(generator, chance, clip))
        second.append(_hits(generator, chance, clip))
    intervals = bootstrap_intervals(
        {str(study): values for study, values in enumerate(first)}, num_clips, resamples, seed
    ).values()
    below = float(np.mean([interval.high < recall for interval in intervals]))
    above = float(np.mean([interval.low > recall for interval in intervals]))
    p_values = [
        sign_flip_p(one, other, flips, study)
        for study, (one, other) in enumerate(zip(first, second, strict=True))
    ]
    return Found(
        recall,
        num_clips,
        1.0 - below - above,
        below,
        above,
        float(np.mean([p <= 0.05 for p in p_values])),
    )


def _hits(
    generator: np.random.Generator, chance: NDArray[np.float64], clip: NDArray[np.int64]
) -> QueryValues:
    hits = generator.binomial(1, chance[clip]).astype(np.float64)
    return QueryValues(hits, clip, "mean")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Coverage of the intervals, level of the test.")
    parser.add_argument("--studies", type=int, default=1_000)
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--flips", type=int, default=999)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--concentration", type=float, default=CONCENTRATION)
    options = vars(parser.parse_args())
    print("recall  clips  coverage  all below  all above  test's level")
    for num_clips in NUM_CLIPS:
        for recall in RECALLS:
            row = simulate(recall, num_clips, **options)
            print(
                f"{row.recall:6.1f}  {row.num_clips:5d}  {row.coverage:8.1%}  {row.below:9.1%}  "
                f"{row.above:9.1%}  {row.level:12.1%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
