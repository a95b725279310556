"""How often a sweep's intervals over seeds and clips hold the truth.

Two models of five seeds each are drawn that truly differ by 0.03: each query's value is the clip's
own level, which both models share, a part by which the model takes the clip, a part by its seed,
and noise. The share of studies whose 95 % interval holds 0.03 is to be 95 %; seeds and clips share
noise that is counted with both, so it is a little more.

    python benchmarks/seed_interval_coverage.py [--studies 1000] [--resamples 200]

Prints one row a population: clips, deviation between seeds, share that holds the truth.
"""

from __future__ import annotations

import argparse

import numpy as np

from e2i.retrieval.equivalence import SeedValues, compare_over_seeds

SEEDS, QUERIES_A_CLIP, TRUTH, MARGIN = 5, 3, 0.03, 0.02
NUM_CLIPS = (100, 1_000)
BETWEEN_SEEDS = (0.0, 0.005, 0.02, 0.1)


def simulate(num_clips: int, between_seeds: float, *, studies: int, resamples: int) -> float:
    """Share of studies whose interval holds the truth."""
    rng = np.random.default_rng(1)
    clip = np.repeat(np.arange(num_clips), QUERIES_A_CLIP)
    held = 0
    for study in range(studies):
        level = rng.normal(0, 0.3, num_clips)[clip]
        models = [
            SeedValues(
                mean
                + level
                + rng.normal(0, 0.2, num_clips)[clip]
                + rng.normal(0, between_seeds, SEEDS)[:, None]
                + rng.normal(0, 0.3, (SEEDS, len(clip))),
                clip,
            )
            for mean in (TRUTH, 0.0)
        ]
        found = compare_over_seeds(
            {"a": (models[0], models[1])}, margin=MARGIN, resamples=resamples, seed=study
        )["a"]
        held += found.low <= TRUTH <= found.high
    return held / studies


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=1_000)
    parser.add_argument("--resamples", type=int, default=200)
    options = parser.parse_args()
    print("clips  between seeds  holds the truth")
    for num_clips in NUM_CLIPS:
        for between in BETWEEN_SEEDS:
            held = simulate(
                num_clips, between, studies=options.studies, resamples=options.resamples
            )
            print(f"{num_clips:5}  {between:13}  {held:15.1%}", flush=True)


if __name__ == "__main__":
    main()
