"""The hashing encoder: stable, each caption alone, sensitive to words and their order."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2i.encoders.hashing import HashingEncoder, hashing_settings
from e2i.encoders.protocols import fingerprint


def embed(caption: str) -> np.ndarray:
    return HashingEncoder().encode([caption])[0]


def cosine(a: str, b: str) -> float:
    return float(embed(a) @ embed(b))


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=200))
def test_any_text_has_a_unit_embedding(caption: str) -> None:
    embedding = embed(caption)
    assert (embedding.shape, embedding.dtype) == ((HashingEncoder().dim,), np.float32)
    assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-5)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(max_size=40), max_size=8), st.randoms())
def test_a_caption_does_not_depend_on_its_batch(
    captions: list[str], shuffled: random.Random
) -> None:
    places = list(range(len(captions)))
    shuffled.shuffle(places)
    batch = HashingEncoder().encode([captions[place] for place in places])
    assert batch.shape == (len(captions), HashingEncoder().dim)
    for row, place in enumerate(places):
        np.testing.assert_array_equal(batch[row], embed(captions[place]))


def test_captions_without_words_are_alike_and_like_nothing_else() -> None:
    np.testing.assert_array_equal(embed(""), embed(" ...!? "))
    assert abs(cosine("", "a dog barks")) < 0.2


def test_case_width_and_punctuation_do_not_matter() -> None:
    np.testing.assert_array_equal(embed("A dog barks, twice."), embed("a DOG barks twice"))
    np.testing.assert_array_equal(embed("ﬁre crackles"), embed("fire crackles"))
    np.testing.assert_array_equal(embed("someone’s steps"), embed("someone's steps"))


def test_words_count_and_their_order_too() -> None:
    rain_bell = "rain falls and then a bell rings"
    assert cosine(rain_bell, "then a bell rings in the rain") > 0.5
    assert cosine(rain_bell, "a car drives by on a road") < 0.15
    assert cosine(rain_bell, "a bell rings and then rain falls") < 0.97
    assert cosine("a dog barks", "dogs barking") > cosine("a dog barks", "a cat meows") + 0.1
    assert cosine("a bell rings twice", "a bell rings three times") < 0.97
    assert cosine("rain before thunder", "rain after thunder") < 0.9


def test_normalization_keeps_the_direction() -> None:
    raw = HashingEncoder(normalize=False).encode(["a dog barks"])[0]
    np.testing.assert_allclose(raw / np.linalg.norm(raw), embed("a dog barks"), atol=1e-6)


def test_another_process_gives_the_same_embedding() -> None:
    script = (
        "from e2i.encoders.hashing import HashingEncoder\n"
        "print(HashingEncoder().encode(['a dog barks far away']).tobytes().hex())"
    )
    for seed in ("1", "2"):
        told = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        assert bytes.fromhex(told) == embed("a dog barks far away").tobytes()


@pytest.mark.parametrize("caption", ["a dog barks and then " * 5000, "x" * 100_000, "é" * 100_000])
def test_a_caption_of_100_000_characters_takes_bounded_time(caption: str) -> None:
    start = time.process_time()
    assert np.isfinite(embed(caption)).all()
    assert time.process_time() - start < 10


def test_settings_tell_what_changes_values() -> None:
    told = HashingEncoder().settings
    assert told == hashing_settings(normalize=True)
    assert told["dim"] == HashingEncoder().dim
    assert fingerprint(told) != fingerprint(hashing_settings(normalize=False))
