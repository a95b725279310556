"""Held-out parts: by clip, by hash, never empty."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2i.clips import ClipKey
from e2i.errors import ConfigError
from e2i.training.holdout import HeldOut, clip_position, hold_out


def keys(count: int, dataset: str = "clotho", split: str = "all") -> list[ClipKey]:
    return [ClipKey(dataset, split, f"{index}.wav") for index in range(count)]


def named(all_keys: list[ClipKey], held: HeldOut) -> dict[str, set[ClipKey]]:
    parts = {"train": held.train, "validation": held.validation, "test": held.test}
    return {name: {all_keys[index] for index in part} for name, part in parts.items()}


@settings(deadline=None)
@given(
    st.integers(5, 60),
    st.floats(0.001, 0.6),
    st.one_of(st.just(0.0), st.floats(0.001, 0.39)),
    st.integers(0, 1000),
)
def test_every_clip_in_one_part_and_no_part_empty(count, val_fraction, test_fraction, seed):
    held = hold_out(keys(count), val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)
    together = np.concatenate([held.train, held.validation, held.test])
    assert sorted(together.tolist()) == list(range(count))
    assert len(held.train) >= 2
    assert len(held.validation) >= 2  # of one clip alone every ranking is right
    assert len(held.test) >= 1 if test_fraction else len(held.test) == 0
    for part in (held.train, held.validation, held.test):
        assert part.tolist() == sorted(part.tolist())


def test_shares_are_about_those_asked_for():
    held = hold_out(keys(4000), val_fraction=0.1, test_fraction=0.2, seed=13)
    assert 340 < len(held.validation) < 460
    assert 730 < len(held.test) < 870


def test_clips_added_or_reordered_leave_the_others_where_they_are():
    before, after = keys(200), keys(260)[::-1]
    first = named(before, hold_out(before, val_fraction=0.1, test_fraction=0.1, seed=13))
    then = named(after, hold_out(after, val_fraction=0.1, test_fraction=0.1, seed=13))
    for part in first:
        assert first[part] <= then[part]


def test_position_depends_on_all_that_a_clip_is_and_on_the_seed():
    key = ClipKey("clotho", "all", "a.wav")
    others = [key._replace(dataset="x"), key._replace(split="x"), key._replace(clip_id="x")]
    positions = {clip_position(other, 13) for other in [key, *others]} | {clip_position(key, 14)}
    assert len(positions) == 5
    # Golden: printf '[13, "clotho", "all", "a.wav"]' | sha256sum, first 8 bytes over 2^64.
    assert clip_position(key, 13) == pytest.approx(0xEB903EBB20926440 / 2**64, abs=1e-15)


@pytest.mark.parametrize(
    ("count", "test_fraction", "fewest"), [(4, 0.1, 5), (3, 0.0, 4), (1, 0.1, 5), (0, 0.1, 5)]
)
def test_too_few_clips(count, test_fraction, fewest):
    with pytest.raises(ConfigError) as caught:
        hold_out(keys(count), val_fraction=0.1, test_fraction=test_fraction, seed=0)
    assert str(caught.value) == (
        f"too few clips to hold some out of them: got {count}, expected at least {fewest}. "
        "Give a validation cache, or more clips."
    )
