from __future__ import annotations

import numpy as np
import pytest

from e2i.datasets.soundscapes.events import HITS, RUNS, TEXTURES
from e2i.datasets.soundscapes.signals import SAMPLE_RATE_HZ, num_samples, rms
from e2i.datasets.soundscapes.words import BACKGROUND, FOREGROUND

LENGTH = num_samples(2.0)


def test_at_least_fourteen_kinds_and_words_for_all():
    assert len(HITS) + len(RUNS) + len(TEXTURES) >= 14
    assert set(FOREGROUND) == set(HITS) | set(RUNS)
    assert set(BACKGROUND) == set(TEXTURES)


@pytest.mark.parametrize("kind", [*RUNS, *TEXTURES])
def test_what_lasts_is_heard_from_begin_to_end_and_never_twice_the_same(kind):
    make = (RUNS | TEXTURES)[kind]
    first, second = (make(np.random.default_rng(seed), LENGTH) for seed in (1, 2))
    assert first.shape == (LENGTH,)
    assert np.isfinite(first).all()
    for quarter in np.array_split(first, 4):
        assert rms(quarter) > 0.05 * rms(first)
    correlation = np.corrcoef(first, second)[0, 1]
    assert abs(correlation) < 0.5


@pytest.mark.parametrize("kind", HITS)
def test_each_hit_begins_where_it_is_asked_for(kind):
    hits = [num_samples(0.5), num_samples(1.5)]
    sound = HITS[kind].make(np.random.default_rng(3), LENGTH, hits)
    assert not sound[: hits[0]].any()
    alone = HITS[kind].make(np.random.default_rng(3), LENGTH, hits[:1])
    np.testing.assert_array_equal(sound[: hits[1]], alone[: hits[1]])
    added = sound[hits[1] :] - alone[hits[1] :]
    assert rms(added[: num_samples(0.2)]) > 0.01 * np.abs(sound).max()
    assert np.abs(sound[hits[0] : hits[0] + num_samples(0.25)]).max() > 0.1 * np.abs(sound).max()


@pytest.mark.parametrize("kind", HITS)
def test_hits_differ_between_instances(kind):
    first, second = (
        HITS[kind].make(np.random.default_rng(seed), LENGTH, [0, LENGTH // 2]) for seed in (1, 2)
    )
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.5


def _centroid_hz(sound):
    power = np.abs(np.fft.rfft(sound)) ** 2
    return float((power * np.fft.rfftfreq(sound.size, 1 / SAMPLE_RATE_HZ)).sum() / power.sum())


def test_kinds_lie_where_they_should_in_the_spectrum():
    # What anybody would put in this order, from the lowest to the highest.
    rising = ["thunder", "knock", "owl", "horn", "beep", "whistle"]
    heard = [
        np.median(
            [
                _centroid_hz(HITS[kind].make(np.random.default_rng(seed), LENGTH, [0]))
                for seed in range(5)
            ]
        )
        for kind in rising
    ]
    assert heard == sorted(heard)
    birds, engine = (
        _centroid_hz(RUNS[kind](np.random.default_rng(1), LENGTH)) for kind in ("birds", "engine")
    )
    assert engine < 500 < 2500 < birds
