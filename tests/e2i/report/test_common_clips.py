"""Comparing on common clips: against a naive ranking, and what counts as common."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from e2i.errors import ConfigError
from e2i.report.common_clips import changes_between, compare_on_common_clips
from e2i.report.scored_set import ScoredSet, read_scored_set, write_scored_set
from e2i.retrieval.config import ComparisonConfig, EvaluationConfig
from e2i.storage import Folder

EVALUATION = EvaluationConfig()
QUICK = ComparisonConfig(resamples=100, flips=99)


def scored(clip_ids, seed=0, dim=6):
    """Two captions a clip, near it."""
    generator = np.random.default_rng(seed)
    audio = generator.standard_normal((len(clip_ids), dim)).astype(np.float32)
    caption_clip = np.repeat(np.arange(len(clip_ids)), 2)
    text = audio[caption_clip] + generator.standard_normal((len(caption_clip), dim))
    return ScoredSet(
        dataset="data",
        split="evaluation",
        clip_ids=tuple(clip_ids),
        recordings=tuple(f"sha of {clip_id}" for clip_id in clip_ids),
        caption_ids=tuple(f"{clip_ids[c]}#{n % 2 + 1}" for n, c in enumerate(caption_clip)),
        captions=tuple(f"{n % 2} of {clip_ids[c]}" for n, c in enumerate(caption_clip)),
        caption_clip=caption_clip,
        audio=audio,
        text=text.astype(np.float32),
    )


def naive_recall(one: ScoredSet, clips: list[str], k: int) -> float:
    """Share of the captions of these clips whose clip is among the k best of them."""
    rows = [one.clip_ids.index(clip) for clip in clips]
    unit = one.audio / np.linalg.norm(one.audio, axis=1, keepdims=True)
    hits = []
    for caption, clip in enumerate(one.caption_clip):
        if clip in rows:
            scores = [float(unit[row] @ one.text[caption]) for row in rows]
            above = sum(score > scores[rows.index(clip)] for score in scores)
            hits.append(above < k)
    return float(np.mean(hits))


def test_both_are_ranked_on_the_common_clips_alone():
    names = [f"clip {n}" for n in range(30)]
    today, before = scored(names[5:], seed=1), scored(names[:20][::-1], seed=2)
    found = compare_on_common_clips(today, before, EVALUATION, QUICK)
    assert (found.num_clips, found.num_captions) == (15, 30)
    for k in (1, 5, 10):
        one = found.differences[f"text_to_audio_R@{k}"]
        assert one.first == pytest.approx(naive_recall(today, names[5:20], k))
        assert one.second == pytest.approx(naive_recall(before, names[5:20], k))
    assert (found.changes.new_clips, found.changes.gone_clips) == (10, 5)
    assert found.changes.any


def test_a_set_beside_itself_differs_in_nothing():
    one = scored([f"clip {n}" for n in range(12)])
    found = compare_on_common_clips(one, one, EVALUATION, QUICK)
    assert {(d.value, d.p) for d in found.differences.values()} == {(0.0, 1.0)}
    assert not found.changes.any


def test_other_words_and_other_recordings_are_counted():
    before = scored(["a", "b", "c"])
    today = replace(
        before,
        captions=("other words", *before.captions[1:]),
        recordings=("other bytes", *before.recordings[1:]),
    )
    changes = changes_between(today, before)
    assert (changes.changed_captions, changes.changed_recordings) == (1, 1)
    found = compare_on_common_clips(today, before, EVALUATION, QUICK)
    assert (found.num_clips, found.num_captions) == (3, 5)
    unknown = replace(before, recordings=("", "", ""))
    assert changes_between(unknown, before).changed_recordings == 0


def test_nothing_in_common_is_an_empty_comparison_and_another_split_is_refused():
    found = compare_on_common_clips(scored(["a", "b"]), scored(["c"]), EVALUATION, QUICK)
    assert (found.differences, found.num_clips) == ({}, 0)
    other = replace(scored(["a"]), split="validation")
    with pytest.raises(ConfigError, match="of different splits: got data/evaluation and data/val"):
        compare_on_common_clips(scored(["a"]), other, EVALUATION, QUICK)


def test_a_scored_set_is_read_as_it_was_written(tmp_path):
    one = scored(["a #1", "b,\n", "c"])
    digest = write_scored_set(Folder(tmp_path), "scored.parquet", one)
    assert digest == write_scored_set(Folder(tmp_path), "again.parquet", one)
    read = read_scored_set(Folder(tmp_path), "scored.parquet")
    for name in ("dataset", "split", "clip_ids", "recordings", "caption_ids", "captions"):
        assert getattr(read, name) == getattr(one, name)
    for name in ("caption_clip", "audio", "text"):
        np.testing.assert_array_equal(getattr(read, name), getattr(one, name))
