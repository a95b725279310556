from __future__ import annotations

import random
from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2i.datasets.soundscapes.config import SPLITS, SoundscapesConfig
from e2i.datasets.soundscapes.events import HITS, RUNS, TEXTURES
from e2i.datasets.soundscapes.generate import describe
from e2i.datasets.soundscapes.scenes import (
    LONGEST_S,
    RECIPES,
    SHORTEST_S,
    compose,
    event_set_oracle,
)

DEFAULT = {split: describe(SoundscapesConfig(), split) for split in SPLITS}
ANY_CLIP = (st.integers(0, 2**32 - 1), st.sampled_from(SPLITS), st.integers(0, 100_000))


@given(*ANY_CLIP)
def test_a_composition_keeps_its_bounds(seed, split, index):
    composition = compose(seed, split, index)
    assert SHORTEST_S <= composition.duration_s <= LONGEST_S
    kinds = [part.kind for part in composition.parts]
    assert 1 <= len(kinds) == len(set(kinds)) <= 3
    for part in composition.parts:
        assert part.onset_s >= 0
        assert part.onset_s + part.duration_s <= composition.duration_s
        if part.kind in RUNS:
            assert part.count is None
        else:
            hit = HITS[part.kind]
            assert 1 <= part.count <= hit.most
            assert part.change == "steady"
            spacing = np.diff(part.hits_s)
            assert (spacing >= 0.85 * hit.spacing_s[0]).all()


@given(*ANY_CLIP)
def test_order_is_what_the_times_say(seed, split, index):
    composition = compose(seed, split, index)
    parts = composition.parts
    if composition.arrangement == "then":
        following = parts
    else:
        host, *following = parts
        assert host.onset_s < min(part.onset_s for part in following)
        if host.kind in RUNS:
            last = max(part.onset_s + part.duration_s for part in following)
            assert host.onset_s + host.duration_s >= last
    for earlier, later in pairwise(following):
        assert earlier.onset_s + earlier.duration_s < later.onset_s


def test_a_clip_does_not_depend_on_how_many_there_are():
    small = describe(SoundscapesConfig(num_evaluation=7), "evaluation")
    assert DEFAULT["evaluation"][:7] == small


def test_descriptions_leave_the_global_random_state_alone():
    states = random.getstate(), np.random.get_state()[1].tolist()
    describe(SoundscapesConfig(num_validation=3), "validation")
    assert states == (random.getstate(), np.random.get_state()[1].tolist())


def test_seed_and_split_both_matter():
    config = SoundscapesConfig(num_development=100, dataset_seed=14)
    ours = [scene.composition for scene in DEFAULT["evaluation"]]
    assert ours != [scene.composition for scene in DEFAULT["validation"]]
    other = [scene.composition for scene in describe(config, "evaluation")]
    assert not set(ours) & set(other)


def test_the_event_set_gives_less_than_half_away():
    # 28 sets on 100 clips, 46 pairs of set and background: the mean of 1 / (clips of the same
    # set) is the number of sets over that of clips.
    scenes = DEFAULT["evaluation"]
    assert event_set_oracle(scenes) == pytest.approx(0.28)
    assert event_set_oracle(scenes, with_background=True) == pytest.approx(0.46)


def test_the_event_set_gives_still_less_away_among_a_thousand():
    scenes = describe(SoundscapesConfig(num_evaluation=1000), "evaluation")
    assert event_set_oracle(scenes) == pytest.approx(0.028)
    assert event_set_oracle(scenes, with_background=True) == pytest.approx(0.046)


@given(st.lists(st.sampled_from(DEFAULT["evaluation"]), min_size=1, max_size=30, unique=True))
def test_oracle_agrees_with_a_scorer_that_draws_among_equals(scenes):
    chances = []
    for query in scenes:
        similarity = [float(scene.event_set == query.event_set) for scene in scenes]
        best = [scene for scene, score in zip(scenes, similarity, strict=True) if score == 1.0]
        chances.append(sum(scene is query for scene in best) / len(best))
    assert event_set_oracle(scenes) == pytest.approx(np.mean(chances))


def test_clips_of_one_set_differ_in_order_count_and_background():
    groups = defaultdict(list)
    for scene in DEFAULT["development"]:
        groups[scene.event_set].append(scene)
    pairs = [kinds for kinds in groups if len(kinds) > 1]
    assert all(len({scene.order for scene in groups[kinds]}) > 1 for kinds in pairs)
    assert sum(len({scene.background for scene in group}) > 1 for group in groups.values()) >= 15
    assert all(
        len({tuple(sorted(scene.counts.items())) for scene in groups[kinds]}) > 1
        for kinds in pairs
        if any(kind in HITS for kind in kinds)
    )


def test_most_clips_can_be_found_by_whoever_hears_all():
    scenes = DEFAULT["evaluation"]
    heard = Counter(
        (scene.order, scene.composition.arrangement, str(scene.counts), scene.background)
        for scene in scenes
    )
    assert len(heard) / len(scenes) > 0.75


@pytest.mark.parametrize("split", ["validation", "evaluation"])
def test_all_sets_of_the_other_splits_occur_in_development(split):
    known = {(scene.event_set, scene.background) for scene in DEFAULT["development"]}
    assert {(scene.event_set, scene.background) for scene in DEFAULT[split]} <= known


def test_recipes_use_every_kind_and_no_set_twice():
    sets = [frozenset(kinds) for kinds, _ in RECIPES]
    assert len(set(sets)) == len(sets)
    assert frozenset().union(*sets) == set(HITS) | set(RUNS)
    textures = {texture for _, choices in RECIPES for texture in choices}
    assert textures == {None, *TEXTURES}
