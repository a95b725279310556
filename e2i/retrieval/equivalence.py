"""Models that were trained with several seeds: their differences over seeds and clips.

Conventions: each model has S values a query, one a seed; a clip's queries go together. A model's
score is the mean over seeds of the mean over queries. A difference is the model less the reference.

The interval is over both, seeds and clips, by a crossed bootstrap: clips are drawn anew, the same
for all models and seeds, and so are the seeds of either model, on their own; the deviation of drawn
seeds from their mean is stretched by √(S / (S - 1)), without which few seeds look alike. Of the
drawn differences the standard deviation is taken as the standard error, and the interval reaches
to Student's t on either side, with Satterthwaite's degrees of freedom of the parts that seeds and
clips have in it: with five seeds plain percentiles would be too narrow.

The reading goes by a margin of equivalence, as two one-sided tests do. Equivalent: the difference
is known to be within the margin, either way. Better or worse: it is known not to be zero, and not
known to be within the margin. Undecided: neither. Of several models, both kinds of tests are
adjusted for their number (Holm), each on its own.

Source: Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 2007, for drawing seeds and
clips anew; Davison and Hinkley, "Bootstrap methods and their application", 1997, 3.8, for the
stretching; Satterthwaite, "An approximate distribution of estimates of variance components", 1946;
Schuirmann, "A comparison of the two one-sided tests procedure", 1987; Holm 1979.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from e2i.errors import RetrievalInputError
from e2i.retrieval.comparison import LEVEL, holm
from e2i.retrieval.intervals import CONFIDENCE, clip_draws
from e2i.retrieval.student import quantile, upper_tail

Reading = Literal["better", "worse", "equivalent", "undecided"]

_BLOCK_ROWS = 512


@dataclass(frozen=True, slots=True)
class SeedValues:
    """One model's values, query by query and seed by seed.

    Attributes:
        values: float64 (S, Q), S at least 2.
        clip: int64 (Q,), the clip that each query belongs to, in [0, C), none left out.
    """

    values: NDArray[np.float64]
    clip: NDArray[np.int64]

    @property
    def seed_scores(self) -> NDArray[np.float64]:
        """The score of each seed, float64 (S,)."""
        scores: NDArray[np.float64] = self.values.mean(axis=1)
        return scores


@dataclass(frozen=True, slots=True)
class SeedDifference:
    """How a model differs from the reference.

    Attributes:
        value: the model's score less the reference's.
        low: lower end of the 95 % interval over seeds and clips.
        high: upper end.
        standard_error: of the value.
        degrees: of freedom.
        p_difference: two-sided, of there being no difference.
        p_equivalence: of the difference being as large as the margin, or larger, either way.
        p_difference_holm: adjusted for the number of comparisons.
        p_equivalence_holm: likewise.
        reading: what this comes to, by the adjusted values.
    """

    value: float
    low: float
    high: float
    standard_error: float
    degrees: float
    p_difference: float
    p_equivalence: float
    p_difference_holm: float
    p_equivalence_holm: float
    reading: Reading


def compare_over_seeds(
    pairs: Mapping[str, tuple[SeedValues, SeedValues]],
    *,
    margin: float,
    resamples: int,
    seed: int,
) -> dict[str, SeedDifference]:
    """Compare models with their references, all as one family.

    Args:
        pairs: by name, a model and its reference: the same queries in the same order.
        margin: of equivalence, above 0.
        resamples: of seeds and clips, at least 2.
        seed: the same seed and values give the same numbers.

    Raises:
        RetrievalInputError: queries differ, a model has one seed only, or there is nothing to draw.
    """
    for name, (one, other) in pairs.items():
        _require_comparable(name, one, other, resamples)
    raw = {
        name: _compared(one, other, margin, resamples, seed) for name, (one, other) in pairs.items()
    }
    differs = holm({name: found.p_difference for name, found in raw.items()})
    equals = holm({name: found.p_equivalence for name, found in raw.items()})
    return {name: _read(found, differs[name], equals[name]) for name, found in raw.items()}


@dataclass(frozen=True, slots=True)
class _Raw:
    value: float
    low: float
    high: float
    standard_error: float
    degrees: float
    p_difference: float
    p_equivalence: float


def _compared(one: SeedValues, other: SeedValues, margin: float, resamples: int, seed: int) -> _Raw:
    value = float(one.values.mean() - other.values.mean())
    error, degrees = crossed_error(one, other, resamples, seed)
    if error == 0.0:
        infinite = math.inf if value else 0.0
        differs, nearer = infinite, math.inf if abs(value) < margin else -math.inf
        reach = 0.0
    else:
        differs, nearer = abs(value) / error, (margin - abs(value)) / error
        reach = quantile((1.0 - CONFIDENCE) / 2.0, degrees) * error
    return _Raw(
        value=value,
        low=value - reach,
        high=value + reach,
        standard_error=error,
        degrees=degrees,
        p_difference=min(1.0, 2.0 * upper_tail(differs, degrees)),
        p_equivalence=upper_tail(nearer, degrees),
    )


def crossed_error(
    one: SeedValues, other: SeedValues, resamples: int, seed: int
) -> tuple[float, float]:
    """Standard error of the difference over seeds and clips, and its degrees of freedom.

    Args:
        one: a model.
        other: another, of the same queries.
        resamples: draws, at least 2.
        seed: of the draws.
    """
    num_clips = int(one.clip.max()) + 1
    queries = np.bincount(one.clip, minlength=num_clips).astype(np.float64)
    sums = np.stack(
        [np.bincount(one.clip, row, num_clips) for row in (*one.values, *other.values)], axis=1
    )
    seeds = len(one.values), len(other.values)
    generator = np.random.default_rng([seed, *seeds])
    crossed, by_clips = [], []
    for weights in clip_draws(num_clips, resamples, seed, _BLOCK_ROWS):
        scores = (weights @ sums) / (weights @ queries)[:, None]
        first, second = scores[:, : seeds[0]], scores[:, seeds[0] :]
        by_clips.append(first.mean(axis=1) - second.mean(axis=1))
        moved = _drawn_seeds(first, generator) - _drawn_seeds(second, generator)
        crossed.append(by_clips[-1] + moved)
    parts = [
        (float(np.concatenate(by_clips).var(ddof=1)), num_clips - 1),
        *(
            (float(model.seed_scores.var(ddof=1)) / len(model.values), len(model.values) - 1)
            for model in (one, other)
        ),
    ]
    error = float(np.concatenate(crossed).std(ddof=1))
    total = sum(part for part, _ in parts)
    if error < 1e-12 or total <= 0.0:
        return 0.0, float(sum(seeds) - 2)
    return error, total**2 / sum(part**2 / free for part, free in parts)


def _drawn_seeds(
    scores: NDArray[np.float64], generator: np.random.Generator
) -> NDArray[np.float64]:
    """How far the mean of drawn seeds is from the mean of all, stretched: (b, S) to (b,)."""
    count = scores.shape[1]
    picks = generator.integers(0, count, scores.shape)
    drawn = np.take_along_axis(scores, picks, axis=1).mean(axis=1)
    moved: NDArray[np.float64] = (drawn - scores.mean(axis=1)) * math.sqrt(count / (count - 1))
    return moved


def _read(found: _Raw, differs: float, equals: float) -> SeedDifference:
    reading: Reading = "undecided"
    if equals < LEVEL:
        reading = "equivalent"
    elif differs < LEVEL:
        reading = "better" if found.value > 0 else "worse"
    return SeedDifference(
        value=found.value,
        low=found.low,
        high=found.high,
        standard_error=found.standard_error,
        degrees=found.degrees,
        p_difference=found.p_difference,
        p_equivalence=found.p_equivalence,
        p_difference_holm=differs,
        p_equivalence_holm=equals,
        reading=reading,
    )


def _require_comparable(name: str, one: SeedValues, other: SeedValues, resamples: int) -> None:
    same = one.values.ndim == other.values.ndim == 2 and np.array_equal(one.clip, other.clip)
    if not same or one.values.shape[1] != len(one.clip) or other.values.shape[1] != len(one.clip):
        raise RetrievalInputError(
            f"the values of {name} are of different queries: got shapes {one.values.shape} and "
            f"{other.values.shape} for {len(one.clip)} and {len(other.clip)} clips' queries, "
            "expected (seeds, queries) of the same queries. Evaluate both on one cache."
        )
    fewest = min(len(one.values), len(other.values))
    clips = np.bincount(one.clip) if len(one.clip) else np.zeros(1)
    if fewest < 2 or len(clips) < 2 or not clips.all() or resamples < 2:
        raise RetrievalInputError(
            f"the difference of {name} has no interval: got {fewest} seeds, {len(clips)} clips and "
            f"{resamples} resamples, expected at least 2 of each and a query of every clip. Train "
            "with more seeds, or evaluate on more clips."
        )
