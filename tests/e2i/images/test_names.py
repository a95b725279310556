from __future__ import annotations

import csv
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2i.images.names import is_png_name, png_name

any_text = st.text(alphabet=st.characters(), max_size=300)  # lone surrogates too


def test_a_name_reads_well():
    # The digits: `printf 'Radio #2 [edit].wav#1' | sha256sum`, the first 16.
    assert png_name("text", "Radio #2 [edit].wav#1") == (
        "text_Radio_2_edit_.wav_1-29fb2f9c2c7abd6d.png"
    )


@settings(deadline=None)
@given(side=st.sampled_from(["audio", "text"]), item_id=any_text)
def test_a_name_is_safe_on_any_store(side, item_id):
    name = png_name(side, item_id)

    assert re.fullmatch(r"[A-Za-z0-9_.-]+", name)
    assert name.startswith(f"{side}_")
    assert name.endswith(".png")
    assert len(name) < 200
    assert is_png_name(name)


@settings(deadline=None)
@given(first=any_text, second=any_text)
def test_ids_that_differ_have_names_that_differ(first, second):
    same = png_name("audio", first).lower() == png_name("audio", second).lower()

    assert same == (first == second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a b.wav", "a_b.wav"),
        ("a#1.wav", "a[1.wav"),
        ("it&#39;s.wav", "it's.wav"),
        ("Dog.wav", "dog.wav"),
        ("é.wav", "e.wav"),
        ("\u00e9.wav", "e\u0301.wav"),
        ("x" * 200 + "1", "x" * 200 + "2"),
        ("", "_"),
        ("a", "a."),
    ],
)
def test_ids_that_sanitize_alike_have_names_that_differ(first, second):
    assert png_name("audio", first).lower() != png_name("audio", second).lower()


@pytest.mark.parametrize(
    "name",
    ["audio_dog.wav.png", "audio_dog.wav_1-0123.png", "images.json", "x_-0123456789abcdef.png"],
)
def test_other_names_are_told_apart(name):
    assert not is_png_name(name)


@pytest.mark.skipif("E2I_CLOTHO_CAPTIONS" not in os.environ, reason="needs E2I_CLOTHO_CAPTIONS")
def test_all_clips_and_captions_of_clotho_have_names_of_their_own():
    root = Path(os.environ["E2I_CLOTHO_CAPTIONS"])
    clips = 0
    names: dict[str, str] = {}
    for split in ("development", "validation", "evaluation"):
        with (root / f"clotho_captions_{split}.csv").open(encoding="ascii", newline="") as file:
            files = [row["file_name"] for row in csv.DictReader(file)]
        ids = {("audio", name) for name in files}
        ids |= {("text", f"{name}#{n}") for name in files for n in range(1, 6)}
        in_split = {png_name(side, item_id).lower(): item_id for side, item_id in ids}
        assert len(in_split) == len(ids) == 6 * len(files)
        # Four clips stand in two splits under one id; any other meeting would be a collision.
        assert all(names.get(name, item_id) == item_id for name, item_id in in_split.items())
        names.update(in_split)
        clips += len(files)
    assert clips == 5929
