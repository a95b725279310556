from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2i.datasets.soundscapes.config import SPLITS, SoundscapesConfig
from e2i.datasets.soundscapes.generate import describe
from e2i.datasets.soundscapes.grammar import write_captions
from e2i.datasets.soundscapes.scenes import Background, Composition, Part, compose

DEVELOPMENT = describe(SoundscapesConfig(), "development")


def _part(kind, count=None, distance="plain", change="steady"):
    return Part(kind, 0.1, 1.0, tuple(0.3 * n for n in range(count or 0)), distance, change)


def _many(composition, draws=80):
    captions = []
    for seed in range(draws):
        captions += write_captions(composition, np.random.default_rng(seed))
    return [caption.lower() for caption in captions]


def _scene(arrangement, *parts, background=None):
    return Composition(arrangement, parts, background, 3.0, 1)


def _share(captions, pattern):
    return sum(bool(re.search(pattern, caption)) for caption in captions) / len(captions)


@given(st.integers(0, 2**32 - 1), st.sampled_from(SPLITS), st.integers(0, 10_000))
def test_five_different_plain_sentences(seed, split, index):
    captions = write_captions(compose(seed, split, index), np.random.default_rng(seed))
    assert len({caption.lower().rstrip(".") for caption in captions}) == len(captions) == 5
    for caption in captions:
        assert re.fullmatch(r"[A-Za-z]+(,? [a-z]+)*\.?", caption)


def test_the_same_chance_gives_the_same_captions():
    composition = compose(1, "evaluation", 5)
    first, again = (write_captions(composition, np.random.default_rng(7)) for _ in range(2))
    assert first == again
    assert first != write_captions(composition, np.random.default_rng(8))


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (1, r"\b(one|single|once)\b"),
        (2, r"\b(two|twice|couple|pair)\b"),
        (3, r"\b(three|few)\b"),
        (4, r"\b(four|several)\b"),
        (5, r"\b(five|many|again and again|series)\b"),
    ],
)
def test_most_captions_tell_the_count_and_none_a_wrong_one(count, words):
    captions = _many(_scene("then", _part("dog", count)))
    assert 0.6 < _share(captions, words) < 0.95
    wrong = r"\b(once|twice|two|three|four|five|single|several|couple|pair|few)\b"
    told = [caption for caption in captions if not re.search(words, caption)]
    assert _share(told, wrong) == 0


# The order in which the events are named, turned round by "after", "following" and "before".
def _told_first(caption, first, second):
    places = {kind: caption.find(kind) for kind in (first, second)}
    if min(places.values()) < 0:
        return None
    named = min(places, key=places.__getitem__)
    other = second if named == first else first
    between = caption[places[named] : places[other]]
    if re.search(r"\b(after|following)\b", between):
        return other
    if re.search(r"^after\b|, after\b", caption) or re.search(
        r"\b(then|before|afterwards|followed|ahead)\b", between
    ):
        return named
    return None


def test_order_is_told_rightly_in_most_captions():
    # Words that only one of the two is called by.
    captions = _many(_scene("then", _part("siren"), _part("horn", 2)))
    captions = [re.sub(r"ambulance|police siren", "siren", caption) for caption in captions]
    captions = [re.sub(r"honks?|car horn|horns?", "horn", caption) for caption in captions]
    told = Counter(_told_first(caption, "siren", "horn") for caption in captions)
    assert told["siren"] > 0.5 * len(captions)
    assert told["horn"] == 0


def test_the_other_order_gives_other_captions():
    parts = _part("dog", 2), _part("siren")
    one = set(_many(_scene("then", *parts)))
    other = set(_many(_scene("then", *reversed(parts))))
    assert len(one & other) < 0.3 * len(one)


def test_at_once_is_told_as_at_once():
    captions = _many(_scene("while", _part("engine"), _part("horn", 2)))
    words = r"\b(while|as|at the same time|during|together|over)\b"
    assert _share(captions, words) > 0.6
    assert _share(captions, r"\b(then [a-z]+ [a-z]+|before|after|afterwards|followed)\b") < 0.05


def test_background_and_its_strength():
    heavy = _many(_scene("then", _part("dog", 1), background=Background("rain", strong=True)))
    assert 0.6 < _share(heavy, r"\brain") < 0.95
    assert _share(heavy, r"\b(heavy|strong)\b") > 0.15
    assert _share(heavy, r"\b(light|gentle)\b") == 0
    light = _many(_scene("then", _part("dog", 1), background=Background("rain", strong=False)))
    assert _share(light, r"\b(light|gentle)\b") > 0.15
    assert _share(_many(_scene("then", _part("dog", 1))), r"rain|background") == 0


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (_part("dog", 2, distance="far"), r"dist|far|faint"),
        (_part("dog", 2, distance="near"), r"loud|near|close"),
        (_part("engine", change="rising"), r"louder|closer|growing|approaching"),
        (_part("engine", change="fading"), r"fainter|quietly|softly|fading|receding"),
    ],
)
def test_loudness_is_told(part, words):
    assert 0.4 < _share(_many(_scene("then", part)), words) < 0.9
    plain = replace(part, distance="plain", change="steady")
    assert _share(_many(_scene("then", plain)), words) == 0


def test_some_are_vague():
    vague = _share(_many(_scene("then", _part("dog", 2))), r"\b(animal|pet)\b")
    assert 0.02 < vague < 0.2


def test_articles_fit():
    captions = [caption for scene in DEVELOPMENT for caption in scene.captions]
    assert _share(captions, r"(?i)\ba [aeio]") == 0
    assert _share(captions, r"(?i)\ban [^aeiou]") == 0


def test_names_are_not_told():
    for scene in DEVELOPMENT:
        stem = scene.file_name.removesuffix(".wav").lower()
        assert all(stem not in caption.lower() for caption in scene.captions)


def test_captions_vary_and_hardly_repeat():
    captions = Counter(caption for scene in DEVELOPMENT for caption in scene.captions)
    assert 0.95 < len(captions) / (5 * len(DEVELOPMENT)) <= 1
