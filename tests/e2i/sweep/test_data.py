"""The parts of a sweep: given, or held out by clip; and their digest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tiny_caches import tiny_cache

from e2i.clips import ClipKey
from e2i.errors import CacheError, ConfigError, FingerprintMismatchError
from e2i.sweep.data import of_clips, sweep_data
from e2i.training.exclusion import Exclusions

TRAIN, VAL, EVAL = (
    tiny_cache(*part) for part in (("train", 60, 1), ("val", 30, 2), ("eval", 40, 3))
)


def test_parts_that_are_given_are_taken_whole() -> None:
    found = sweep_data([TRAIN], VAL, EVAL, seed=1)
    assert (found.train, found.validation, found.evaluation) == ((TRAIN,), VAL, EVAL)
    assert found.notes == ()
    assert (found.audio_dim, found.text_dim) == (24, 16)


def test_one_cache_alone_is_cut_by_clip() -> None:
    found = sweep_data([TRAIN], None, None, seed=1)
    parts = (*found.train, found.validation, found.evaluation)
    ids = [clip for part in parts for clip in part.clip_ids]
    assert sorted(ids) == sorted(TRAIN.clip_ids)
    assert sum(len(part.caption_ids) for part in parts) == len(TRAIN.caption_ids)
    for part in parts:
        clips = [TRAIN.clip_ids.index(clip) for clip in part.clip_ids]
        assert np.array_equal(part.audio, TRAIN.audio[clips])
        for row, caption in enumerate(part.caption_ids):
            assert caption.startswith(part.clip_ids[part.caption_clip[row]])
            assert np.array_equal(part.text[row], TRAIN.text[TRAIN.caption_ids.index(caption)])
    assert "are held out" in found.notes[0]
    assert sweep_data([TRAIN], None, None, seed=2).evaluation.clip_ids != parts[2].clip_ids


def test_only_validation_is_held_out_where_evaluation_is_given() -> None:
    found = sweep_data([TRAIN], None, EVAL, seed=1)
    assert found.evaluation is EVAL
    assert len(found.train[0].clip_ids) + len(found.validation.clip_ids) == 60


def test_several_caches_are_joined_by_index() -> None:
    more = tiny_cache("more", 10, 4)
    found = sweep_data([TRAIN, more], VAL, EVAL, seed=1)
    assert found.pair_clip.tolist() == [*np.repeat(np.arange(70), 2)]


def test_excluded_clips_leave_training() -> None:
    exclude = Exclusions(frozenset({ClipKey("", "", "train 3.wav")}), frozenset())
    found = sweep_data([TRAIN], VAL, EVAL, seed=1, exclude=exclude)
    assert "train 3.wav" not in found.train[0].clip_ids
    assert found.notes[0].startswith("1 of 60 clips are left out of training")


def test_the_digest_knows_all_that_counts() -> None:
    digest = sweep_data([TRAIN], VAL, EVAL, seed=1).digest
    assert sweep_data([replace(TRAIN, url="elsewhere")], VAL, EVAL, seed=9).digest == digest
    audio = TRAIN.audio.copy()
    audio[5, 5] = np.nextafter(audio[5, 5], 2.0)
    others = [
        ([replace(TRAIN, audio=audio)], VAL, EVAL),
        ([TRAIN], replace(VAL, text=VAL.text[::-1]), EVAL),
        ([TRAIN], VAL, replace(EVAL, captions=EVAL.captions[::-1])),
        ([TRAIN], VAL, of_clips(EVAL, np.arange(39))),
    ]
    assert digest not in {sweep_data(*parts, seed=1).digest for parts in others}


def test_what_makes_no_sweep_is_refused() -> None:
    with pytest.raises(ConfigError, match="no training cache: got 0"):
        sweep_data([], VAL, EVAL, seed=1)
    with pytest.raises(ConfigError, match=r"has nothing to evaluate on: .* Give --eval-cache-dir"):
        sweep_data([TRAIN], VAL, None, seed=1)
    with pytest.raises(ConfigError, match="got 2 training caches and no validation cache"):
        sweep_data([TRAIN, tiny_cache("more", 10, 4)], None, EVAL, seed=1)
    broken = EVAL.audio.copy()
    broken[0, 0] = np.nan
    with pytest.raises(CacheError, match="NaN or infinity for 1 of 40 clips"):
        sweep_data([TRAIN], VAL, replace(EVAL, audio=broken), seed=1)
    with pytest.raises(FingerprintMismatchError, match="made by different encoders"):
        sweep_data([TRAIN], VAL, replace(EVAL, audio_fingerprint="c0" * 8), seed=1)
