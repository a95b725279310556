from __future__ import annotations

import re
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from e2i.datasets.soundscapes.config import SPLITS
from e2i.datasets.soundscapes.names import file_name

NAMES = {split: [file_name(13, split, index) for index in range(1200)] for split in SPLITS}


@given(st.integers(0, 2**32 - 1), st.sampled_from(SPLITS), st.integers(0, 100_000))
def test_names_are_file_names(seed, split, index):
    name = file_name(seed, split, index)
    assert name.isascii()
    assert name.isprintable()
    assert name.endswith(".wav")
    assert len(name) < 100
    assert name == name.strip()
    assert not set(name) & set('/\\:*?"<>|')


def test_names_are_unique_within_a_split_whatever_the_case():
    for names in NAMES.values():
        assert len({name.lower() for name in names}) == len(names)


def test_a_few_names_stand_in_several_splits():
    shared = set(NAMES["development"][:100]) & set(NAMES["evaluation"][:100])
    assert len(shared) == 4
    shared = set(NAMES["development"]) & set(NAMES["validation"]) & set(NAMES["evaluation"])
    assert len(shared) == 4


def test_names_are_as_odd_as_clothos():
    names = "".join(NAMES["evaluation"][:100])
    for sign in (" ", "  ", "#", "[", "]", "%", "&#39;", "(", ")", ",", ".", "@", "+"):
        assert sign in names


def test_a_sanitizer_would_merge_names():
    for replacement in ("_", ""):
        merged = Counter(
            re.sub(r"[^A-Za-z0-9_.-]", replacement, name) for name in NAMES["evaluation"][:100]
        )
        assert max(merged.values()) >= 3
