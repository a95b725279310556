"""Differences over seeds and clips: the error against a naive draw, coverage, readings."""

from __future__ import annotations

import numpy as np
import pytest

from e2i.errors import RetrievalInputError
from e2i.retrieval.equivalence import SeedValues, compare_over_seeds, crossed_error
from e2i.retrieval.intervals import clip_draws

SEEDS = 5


def _model(
    rng: np.random.Generator,
    clips: int,
    mean: float,
    *,
    by_seed: float = 0.01,
    by_clip: float = 0.1,
    queries: int = 2,
) -> SeedValues:
    clip = np.repeat(np.arange(clips), queries)
    values = (
        mean
        + rng.normal(0, by_clip, clips)[clip]
        + rng.normal(0, by_seed, SEEDS)[:, None]
        + rng.normal(0, 0.1, (SEEDS, len(clip)))
    )
    return SeedValues(values, clip)


def _compare(one: SeedValues, other: SeedValues, margin: float = 0.02, seed: int = 0):
    return compare_over_seeds({"a": (one, other)}, margin=margin, resamples=400, seed=seed)["a"]


def test_the_error_is_that_of_drawing_seeds_and_clips_one_by_one() -> None:
    rng = np.random.default_rng(0)
    clip = np.array([0, 0, 0, 1, 2, 2, 3, 4, 4, 4, 4, 5])  # unequal on purpose
    one = SeedValues(rng.random((3, len(clip))), clip)
    other = SeedValues(rng.random((4, len(clip))), clip)
    error, _ = crossed_error(one, other, 300, seed=7)
    generator = np.random.default_rng([7, 3, 4])
    picks = [(generator.integers(0, 3, (300, 3)), generator.integers(0, 4, (300, 4)))]
    drawn = []
    for draw, weights in enumerate(next(clip_draws(6, 300, 7, 300))):
        rows = [row for row in range(len(clip)) for _ in range(int(weights[clip[row]]))]
        scores = []
        for model, seeds in zip((one, other), picks[0], strict=True):
            of_seed = [float(np.mean([values[row] for row in rows])) for values in model.values]
            mean, count = float(np.mean(of_seed)), len(of_seed)
            moved = float(np.mean([of_seed[pick] for pick in seeds[draw]])) - mean
            scores.append(mean + moved * np.sqrt(count / (count - 1)))
        drawn.append(scores[0] - scores[1])
    assert error == pytest.approx(np.std(drawn, ddof=1), rel=1e-9)


@pytest.mark.parametrize("by_seed", [0.0, 0.01, 0.05])
def test_intervals_hold_the_truth(by_seed: float) -> None:
    """A little more often than 95 %: what seeds and clips share is counted with both."""
    rng = np.random.default_rng(1)
    held = 0
    for study in range(300):
        one = _model(rng, 60, 0.43, by_seed=by_seed)
        other = _model(rng, 60, 0.40, by_seed=by_seed)
        found = compare_over_seeds({"a": (one, other)}, margin=0.02, resamples=150, seed=study)["a"]
        held += found.low <= 0.03 <= found.high
    assert 0.92 <= held / 300 <= 0.99


def test_with_few_seeds_the_interval_knows_it() -> None:
    rng = np.random.default_rng(2)
    found = _compare(_model(rng, 200, 0.4, by_seed=0.2), _model(rng, 200, 0.4, by_seed=0.2))
    assert 4 <= found.degrees <= 12
    by_clips = _compare(_model(rng, 200, 0.4, by_seed=0.0), _model(rng, 200, 0.4, by_seed=0.0))
    assert by_clips.degrees > 50


def test_each_reading() -> None:
    rng = np.random.default_rng(3)
    quiet = {"by_seed": 0.001, "by_clip": 0.01}
    reference = _model(rng, 400, 0.4, **quiet)
    found = compare_over_seeds(
        {
            "better": (_model(rng, 400, 0.5, **quiet), reference),
            "worse": (_model(rng, 400, 0.3, **quiet), reference),
            # Known to be other than zero, and known to be too little to count.
            "equivalent": (_model(rng, 400, 0.41, **quiet), reference),
            "undecided": (_model(rng, 400, 0.4, by_seed=0.2), reference),
        },
        margin=0.02,
        resamples=300,
        seed=0,
    )
    assert {name: one.reading for name, one in found.items()} == {name: name for name in found}
    assert found["equivalent"].p_difference < 0.05
    assert found["better"].low > 0.02
    assert found["worse"].high < -0.02


def test_several_comparisons_are_one_family() -> None:
    rng = np.random.default_rng(4)
    reference = _model(rng, 100, 0.4)
    one = _model(rng, 100, 0.43)
    alone = _compare(one, reference)
    pairs = {str(number): (_model(rng, 100, 0.4), reference) for number in range(9)}
    pairs["one"] = (one, reference)
    among = compare_over_seeds(pairs, margin=0.02, resamples=400, seed=0)["one"]
    assert among.p_difference == alone.p_difference == alone.p_difference_holm
    assert among.p_difference_holm > alone.p_difference
    assert among.p_equivalence_holm >= among.p_equivalence


def test_a_model_is_equivalent_to_itself() -> None:
    values = np.tile(np.linspace(0, 1, 40), (SEEDS, 1))
    constant = SeedValues(values, np.arange(40))
    found = _compare(constant, constant)
    assert (found.value, found.low, found.high, found.reading) == (0.0, 0.0, 0.0, "equivalent")
    shifted = _compare(SeedValues(values + 0.5, np.arange(40)), constant)
    assert (shifted.reading, shifted.p_difference) == ("better", 0.0)


def test_the_same_seed_gives_the_same() -> None:
    rng = np.random.default_rng(5)
    one, other = _model(rng, 50, 0.4), _model(rng, 50, 0.4)
    assert _compare(one, other, seed=3) == _compare(one, other, seed=3)
    assert _compare(one, other, seed=3) != _compare(one, other, seed=4)


def test_what_cannot_be_compared_is_refused() -> None:
    rng = np.random.default_rng(6)
    one, other = _model(rng, 50, 0.4), _model(rng, 60, 0.4)
    with pytest.raises(RetrievalInputError, match="the values of a are of different queries"):
        _compare(one, other)
    single = SeedValues(one.values[:1], one.clip)
    with pytest.raises(RetrievalInputError, match="the difference of a has no interval: got 1 se"):
        _compare(single, one)
    lone = SeedValues(one.values[:, :2], np.zeros(2, dtype=np.int64))
    with pytest.raises(RetrievalInputError, match="got 5 seeds, 1 clips"):
        _compare(lone, lone)
